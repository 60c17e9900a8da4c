"""Points: are two numbers equal?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from circuits.figures import charts
from circuits.figures.views.base import view

if TYPE_CHECKING:
    from circuits.result import Result


_LABELS = {"value": "estimate"}  # of columns whose names say too little


@view
def scatter(result: Result) -> Figure:
    """A point for each row: the first axis names it, the other two are the same thing's numbers."""
    name, x, y = result.axes
    points = result.frame.dropna(subset=[x, y])
    return charts.scatter(
        points[x].to_numpy(float),
        points[y].to_numpy(float),
        labels=[str(label) for label in points[name]],
        axes=(f"{_LABELS.get(x, x)} ({result.unit})", f"{_LABELS.get(y, y)} ({result.unit})"),
        title=result.title,
        diagonal=True,
    )
