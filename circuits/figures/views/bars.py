"""A bar for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from circuits.figures import charts
from circuits.figures.views.base import view
from circuits.figures.views.reading import interval

if TYPE_CHECKING:
    from circuits.result import Result


@view
def bars(result: Result) -> Figure:
    """A bar for each row."""
    frame = result.frame
    options: dict[str, Any] = {"title": result.title, "unit": result.unit}
    options["interval"] = interval(frame)
    return charts.bars(_labels(result), frame["value"].to_numpy(float), **options)


def _labels(result: Result) -> list[str]:
    """The name of each row: its component, or say ``layer 5 head 3``."""
    if len(result.axes) == 1:
        return [str(label) for label in result.frame[result.axes[0]]]
    rows = result.frame[list(result.axes)].astype(str).to_numpy().tolist()
    return [" ".join(f"{a} {x}" for a, x in zip(result.axes, row, strict=True)) for row in rows]
