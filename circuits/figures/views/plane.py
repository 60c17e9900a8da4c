"""Points: how do two numbers go together?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from circuits.figures import charts
from circuits.figures.views.base import view

if TYPE_CHECKING:
    from circuits.result import Result


# Of columns whose names say too little.
_LABELS = {"z": "z score of the weights", "share": "share of the total effect"}


@view
def plane(result: Result) -> Figure:
    """A point for each row: the first axis names it, the other two are its numbers."""
    name, x, y = result.axes
    points = result.frame.dropna(subset=[x, y])
    return charts.scatter(
        points[x].to_numpy(float),
        points[y].to_numpy(float),
        labels=[str(label) for label in points[name]],
        axes=(_LABELS.get(x, x), _LABELS.get(y, y)),
        title=result.title,
        diagonal=False,
    )
