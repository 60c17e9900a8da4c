"""Effects of path patching, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from circuits.cli.patches import meaning, patched
from circuits.cli.tables import asked_of
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Each task's effects as grids, and the largest edges as a table."""
    for of, rows in asked_of(result.frame):
        yield from patched(result, of, rows, width, "edge")
    share = "share: of the effect of patching everything"
    if result.provenance.arguments.get("hold") == "heads":
        share += "; heads held, MLPs between sender and receiver compute anew"
    yield meaning(result, share)
