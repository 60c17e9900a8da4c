"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from circuits.errors import CircuitsError


@contextmanager
def whole(path: Path, failure: type[Exception] = OSError) -> Iterator[Path]:
    """Where to write what shall become this file, once all of it is there?

    The path given has the same suffix, in the same folder. An earlier file is replaced at the end;
    after an error or Ctrl-C it is as it was, and nothing is left over.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with whole(path) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> path.read_text()
    '1 2 3'

    Raises:
        CircuitsError: for an OSError, or another kind of `failure` to write.
    """
    partial = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # that of any new file; some libraries write private ones
        yield partial
        partial.chmod(mode)
        partial.replace(path)
    except (OSError, failure) as error:
        reason = getattr(error, "strerror", None) or error
        raise CircuitsError(f"{path} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):  # it was moved, or could not be made
            partial.unlink()


def utf8(text: str) -> bytes:
    r"""The text as bytes of a file; what is no character becomes its escape.

    Python's texts may hold halves of characters (lone surrogates), which UTF-8 cannot. In a string
    of JSON the escape means the same, so that it is read back as it was.

    >>> utf8('"caf\u00e9 \ud83d"')
    b'"caf\xc3\xa9 \\ud83d"'
    """
    return text.encode("utf-8", "backslashreplace")


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Can this file be written, or this folder be made? To be asked before the work, not after.

    Raises:
        CircuitsError: when it cannot, for all that can be told.
    """
    places = (path, *path.absolute().parents) if folder else (path.absolute().parent,)
    try:
        there = next((place for place in places if place.exists()), None)
        taken = path.is_dir() and not folder
    except OSError as error:
        raise CircuitsError(f"{path} cannot be written: {error.strerror}") from error
    if there is None:
        raise CircuitsError(f"{path} cannot be written: there is no {path.parent}")
    if taken or not there.is_dir() or not os.access(there, os.W_OK):
        raise CircuitsError(f"{path} cannot be written: choose another place")
