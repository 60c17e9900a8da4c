"""What the command line prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import gc
import os
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from circuits.errors import CircuitsError
from circuits.files import is_broken

WRONG_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # as shells and Unix tools count
PIPED_WIDTH = 120
PATIENCE = 1.0  # seconds before a progress bar appears


def out() -> Console:
    """Standard output; colors and a terminal's width only if it is one."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error, for progress, remarks and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    is_terminal = stream.isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else PIPED_WIDTH
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


class _Console(Console):
    """A console that leaves a closed pipe to `with_exit_codes`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def collect_garbage() -> None:
    """Collect garbage from here on, after what was imported so far, which stays.

    A command calls this between its imports and its work; `circuits.__main__` says why.
    """
    gc.freeze()
    gc.enable()


def remark(text: str) -> None:
    """Say something that is no result."""
    err().print(Text(escaped(text), style="dim"), soft_wrap=True)


@contextmanager
def remarks(*, quiet: bool) -> Iterator[None]:
    """What is warned of meanwhile is a remark, said once; with `quiet`, it is not said."""
    said: set[str] = set()

    def say(message: Warning | str, *about: Any, **more: Any) -> None:
        text = str(message)
        if not quiet and text not in said:
            remark(text)
        said.add(text)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = say
        yield


def visible(token: str) -> str:
    r"""The token for a table: its spaces and line breaks are visible.

    >>> visible(" garden"), visible("\n"), visible("\x1b[31m")
    ('·garden', '\\n', '\\x1b[31m')
    """
    return "".join(map(_visible_char, token)) or "∅"


def escaped(text: str) -> str:
    r"""The text with what would act on the terminal written out; spaces and line breaks stay.

    >>> escaped("a b\x1b[2J")
    'a b\\x1b[2J'
    """
    return "".join(char if char in " \n" else _visible_char(char) for char in text)


def _visible_char(char: str) -> str:
    if char == " ":
        return "·"
    # Control characters would act on the terminal, and format characters reorder what follows.
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return char.encode("unicode_escape").decode("ascii") if hidden and char != "\u200d" else char


@contextmanager
def bar(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A function (work done, work in all) that draws a progress bar if it takes long."""
    console = err()
    shown = console.is_terminal and not quiet
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    task = progress.add_task(what, total=None)
    start, started = time.monotonic(), False

    def step(done: int, total: int) -> None:
        nonlocal started
        if shown and not started and time.monotonic() - start > PATIENCE and done < total:
            progress.start()
            started = True
        progress.update(task, completed=done, total=total)

    try:
        yield step
    finally:
        if started:
            progress.stop()


def with_exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with errors that the user can understand and exit codes that scripts can."""

    @wraps(command)
    def guarded(*args: Any, **given: Any) -> None:
        try:
            command(*args, **given)
            sys.stdout.flush()
        except CircuitsError as error:
            message = Text.assemble(("error: ", "bold red"), " ".join(escaped(str(error)).split()))
            err().print(message, soft_wrap=True)
            raise typer.Exit(WRONG_INPUT) from None
        except KeyboardInterrupt:
            err().print("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read the output has left; the interpreter must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None

    return guarded


def require_text(given: Any) -> None:
    """Refuse what was typed and is no text.

    Raises:
        CircuitsError: for bytes that are not UTF-8, which Python passes on in disguise.
    """
    for value in given if isinstance(given, list | tuple) else [given]:
        if isinstance(value, str) and is_broken(value):
            shown = value.encode("utf-8", "replace").decode()
            raise CircuitsError(f"{shown!r} is not UTF-8 text; give text in UTF-8")
