"""Every error a user can cause, and how to say it.

An error of this package is one message that states what was given, what is allowed, the nearest
valid choice, and what to do. The command line prints it without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CircuitsError(ValueError):
    """The input cannot be answered: the message says what was given, allowed, and what to do."""


class SiteError(CircuitsError, KeyError):
    """A site that does not exist, was not cached, or was hooked and never reached."""

    # KeyError prints the repr of its argument; the message is written for people.
    __str__ = CircuitsError.__str__


class CheckpointError(CircuitsError):
    """A checkpoint that cannot be found, read, or trusted."""


class TokenError(CircuitsError):
    """Text or token ids that the loaded vocabulary or context cannot take."""


def require_seed(seed: int) -> None:
    """Can random numbers be drawn with this seed, by numpy and by torch?

    Raises:
        CircuitsError: for one below 0, or of more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise CircuitsError(f"seed={seed}: choose a whole number from 0 to 2^63 - 1")


def brief(value: object, most: int = 80) -> str:
    """A value from a file as Python writes it, the middle of a long one left out.

    >>> brief("a" * 500, most=20)
    "'aaaaaaaa…aaaaaaaaa'"
    """
    shown = repr(value)
    half = most // 2 - 1
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[-half - 1 :]}"


def printed(name: str) -> str:
    r"""A name from a file, for a message: as it is, or `brief` where it is long or no plain text.

    Escape characters would act on the terminal that shows the message.

    >>> printed("wte.weight"), printed("wte\x1b[2J")
    ('wte.weight', "'wte\\x1b[2J'")
    """
    is_plain = name.isprintable() and name.strip() == name != ""
    return name if is_plain and len(name) <= 80 else brief(name)


def nearest(given: str, allowed: Iterable[str], n: int = 3) -> str:
    """Which of the allowed names did the user most likely mean?

    Returns a clause to append to a message: ``"; did you mean 'a', 'b'?"``, or an empty string
    when nothing is close.

    >>> nearest("hook_residpre", ["hook_resid_pre", "hook_z"])
    "; did you mean 'hook_resid_pre'?"
    >>> nearest("zebra", ["hook_resid_pre"])
    ''
    """
    close = difflib.get_close_matches(given, list(allowed), n=n, cutoff=0.6)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
