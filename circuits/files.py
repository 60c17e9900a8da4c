"""Files and folders that appear with all their content or not at all."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from circuits.errors import CircuitsError

FIGURE_FORMATS = (".png", ".svg", ".pdf")


def named_path(given: str | Path) -> Path:
    """The path that a user names.

    Raises:
        CircuitsError: for an empty text, which Python takes for the current folder.

    >>> named_path("results").name
    'results'
    """
    if given == "":
        raise CircuitsError("'' names no file and no folder; the current folder is '.'")
    return Path(given)


@contextmanager
def replacing(path: Path, failure: type[Exception] = OSError) -> Iterator[Path]:
    """Where to write what shall become this file, once all of it is there.

    The path given has the same suffix, in the same folder. An earlier file is replaced at the end;
    after an error or Ctrl-C it is as it was, and nothing is left over.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with replacing(path) as partial:
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
        raise CircuitsError(_unwritten(path, error)) from error
    finally:
        with suppress(OSError):  # it was moved, or could not be made
            partial.unlink()


@contextmanager
def replacing_folder(
    folder: Path,
    main: str | None = None,
    *,
    failure: type[Exception] = OSError,
    error: type[CircuitsError] = CircuitsError,
) -> Iterator[Path]:
    """Where to write what shall become this folder, once all of it is there.

    At every moment the folder is the earlier one or the new one, even if the process is killed:
    the two are exchanged in one step where the system can do that, as Linux and macOS can. Where
    it cannot, there is a moment between two steps, in which the earlier one stands beside the new
    one under a hidden name.

    With a `main` file, without which the others are worth nothing, whatever else an earlier folder
    holds stays in it. Such a folder can also be written where only its content may change (amid a
    folder that is read-only, as the current folder, or mounted): then one file is replaced after
    the other, and no file of the earlier ones stands beside a new main file.

    Raises:
        CircuitsError: (or `error`) for an OSError, or another kind of `failure` to write.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "numbers"
    >>> with replacing_folder(folder) as partial:
    ...     _ = (partial / "first.txt").write_text("1 2 3")
    >>> [path.name for path in folder.iterdir()], [path.name for path in folder.parent.iterdir()]
    (['first.txt'], ['numbers'])
    """
    target = folder.resolve()
    partial = None
    try:
        inside = main is not None and target.is_dir() and not _can_move(target)
        home = target if inside else target.parent
        hidden = home / f".{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        hidden.mkdir(parents=True)
        partial = hidden
        yield partial
        if inside:
            _move_files(partial, target, main or "")
        else:
            _become(partial, target, keep_others=main is not None)
    except (OSError, failure) as failed:
        raise error(_unwritten(folder, failed)) from failed
    finally:
        if partial is not None:  # it was moved, holds what was there before, or is not complete
            shutil.rmtree(partial, ignore_errors=True)


def require_own(folder: Path, main: str, what: str) -> None:
    """Refuse a folder that is not new, empty, or one of ours, with its `main` file.

    Raises:
        CircuitsError: when it holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / main).is_file():
        raise CircuitsError(
            f"{folder} already holds other files; choose a new folder for the {what}"
        )


def _unwritten(path: Path, error: Exception) -> str:
    return f"{path} cannot be written: {getattr(error, 'strerror', None) or error}"


def _can_move(folder: Path) -> bool:
    """Whether another folder can take this one's place without anybody noticing."""
    try:
        here = Path.cwd()
    except OSError:  # it was deleted
        return False
    busy = folder.is_mount() or folder in (here, *here.parents)
    return os.access(folder.parent, os.W_OK) and not busy


def _become(partial: Path, target: Path, *, keep_others: bool) -> None:
    """Move a complete folder to its place; what stood there is deleted afterwards."""
    empty = target.is_dir() and not any(target.iterdir())
    if not target.is_dir() or (empty and os.name == "posix"):
        partial.replace(target)
        return
    shutil.copymode(target, partial)
    if keep_others:
        _link_others(target, partial)
    if _exchange(partial, target):
        return
    earlier = partial.with_name(f"{partial.name}-earlier")
    target.replace(earlier)
    try:
        partial.replace(target)
    finally:
        if not target.exists():
            earlier.replace(target)
        shutil.rmtree(earlier, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot do that."""
    library: Any = ctypes.CDLL(None) if os.name == "posix" else None
    names = [os.fsencode(path) for path in (a, b)]
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        current, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return bool(library.renameat2(current, names[0], current, names[1], exchange) == 0)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap = 2  # RENAME_SWAP
        return bool(library.renamex_np(*names, swap) == 0)
    return False


def _link_others(earlier: Path, new: Path) -> None:
    """Take along what the earlier folder holds besides: the same files, not copies of them."""
    for path in earlier.iterdir():
        place = new / path.name
        if place.exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, place, symlinks=True, copy_function=_link)
        else:
            _link(path, place)


def _link(path: str | Path, place: str | Path) -> None:
    try:
        os.link(path, place, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(path, place, follow_symlinks=False)


def _move_files(partial: Path, target: Path, main: str) -> None:
    """Replace file by file, so that none of the earlier ones stands beside a new main file."""
    others = [path for path in partial.iterdir() if path.name != main]
    aside = {target / path.name: partial / f"{path.name}-earlier" for path in others}
    try:
        for path, place in aside.items():
            if path.exists():
                path.replace(place)
        (partial / main).replace(target / main)
    except OSError:
        for path, place in aside.items():
            if place.exists():
                place.replace(path)
        raise
    for path in others:
        path.replace(target / path.name)


def is_broken(text: str) -> bool:
    r"""Whether the text holds half of a character (a lone surrogate), which UTF-8 cannot.

    >>> is_broken("caf\u00e9"), is_broken("caf\ud83d")
    (False, True)
    """
    return any("\ud800" <= char <= "\udfff" for char in text)


def utf8(text: str) -> bytes:
    r"""The text as bytes of a file; what is no character becomes its escape.

    Python's texts may hold halves of characters (lone surrogates), which UTF-8 cannot. In a string
    of JSON the escape means the same, so that it is read back as it was.

    >>> utf8('"caf\u00e9 \ud83d"')
    b'"caf\xc3\xa9 \\ud83d"'
    """
    return text.encode("utf-8", "backslashreplace")


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Refuse a file that cannot be written, or a folder that cannot be made, before the work.

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
