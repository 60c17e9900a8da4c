"""A grid of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from circuits.figures.lens import lens_grid
from circuits.figures.views.base import view
from circuits.figures.views.reading import grid, table

if TYPE_CHECKING:
    from circuits.result import Result


@view
def lens(result: Result) -> Figure:
    """The top token of each stage (rows) and position (columns)."""
    row, column = result.axes
    frame = result.frame
    tokens = table(frame, row, column, "token")
    prompt = frame.drop_duplicates(column)
    return lens_grid(
        tokens.to_numpy().tolist(),
        grid(frame, row, column, "probability"),
        rows=[str(label) for label in tokens.index],
        columns=[str(t) for t in prompt["after" if "after" in prompt else column]],
        title=result.title,
    )
