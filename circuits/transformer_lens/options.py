"""Options that a function does not have, or a value that it cannot take: said with what it can."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from circuits.errors import CircuitsError, nearest
from circuits.sampling import Sampler

F = TypeVar("F", bound=Callable[..., Any])


def require_known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Are all of these options of this function?

    Raises:
        CircuitsError: for one that is not, with the nearest that is.

    >>> require_known("from_pretrained", ["fold_lnn"], ["fold_ln", "device"])
    Traceback (most recent call last):
    circuits.errors.CircuitsError: from_pretrained has no option 'fold_lnn'; did you mean 'fold_ln'?
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = nearest(name, known) or f"; it has {', '.join(known)}"
            raise CircuitsError(f"{where} has no option {name!r}{near}")


@functools.cache
def names_of(*functions: Callable[..., Any]) -> list[str]:
    """The options that can be given to these functions by name, without ``self`` and ``**more``."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    every = [p for function in functions for p in inspect.signature(function).parameters.values()]
    return [p.name for p in every if p.kind in named and p.name not in ("self", "cls")]


def only_known(function: F) -> F:
    """The function, which says the nearest of its options for one that it does not have."""
    known = names_of(function)
    options = frozenset(known)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        if not options.issuperset(given):
            require_known(function.__name__, given, known)
        return function(*args, **given)

    return cast(F, call)


def require_sampling(
    temperature: float, top_k: int | None, top_p: float | None, repetition_penalty: float = 1.0
) -> None:
    """Can tokens be drawn so?

    Raises:
        CircuitsError: for a temperature below 0, a `top_k` below 1, and the like.
    """
    Sampler(temperature, top_k, top_p)
    if not repetition_penalty > 0:
        raise CircuitsError(
            f"repetition_penalty={repetition_penalty}: choose more than 0; 1 changes nothing"
        )


def require_length(max_new_tokens: int, name: str = "max_new_tokens", least: int = 0) -> None:
    """Can so many tokens be asked for?

    Raises:
        CircuitsError: for fewer than `least`, and for what is no whole number.
    """
    whole = isinstance(max_new_tokens, int) and not isinstance(max_new_tokens, bool)
    if not whole or max_new_tokens < least:
        raise CircuitsError(f"{name}={max_new_tokens!r}: choose a whole number, at least {least}")
