"""Effects of patching, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from circuits.cli.patches import OF_PARTS, meaning, patched
from circuits.cli.tables import asked_of
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Each task's effects as grids, and the largest as a table."""
    for of, rows in asked_of(result.frame):
        yield from patched(result, of, rows, width)
    yield meaning(result, OF_PARTS)
