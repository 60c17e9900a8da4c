"""What heads write by their weights, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from circuits.cli.matrices import matrix
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Which destination tokens a head raises for which source tokens; of all heads, scores."""
    return matrix(result, width, row="source", column="destination", score="copying")
