"""Lines over an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from circuits.figures import charts
from circuits.figures.views.base import view
from circuits.figures.views.reading import interval, panels

if TYPE_CHECKING:
    from circuits.result import Result


@view
def curves(result: Result) -> Figure:
    """A line over the last axis, for each value of those before it."""
    along = result.axes[-1]
    numeric = bool(pd.api.types.is_numeric_dtype(result.frame[along]))
    ticks = None if numeric else [str(x) for x in result.frame[along].unique()]
    places = {} if ticks is None else {name: i for i, name in enumerate(ticks)}
    lines = {}
    for name, frame in panels(result, 1):
        x = frame[along] if ticks is None else frame[along].astype(str).map(places)
        values = frame["value"].to_numpy(float)
        lines[name] = (x.to_numpy(float), values, interval(frame))
    return charts.curves(lines, axes=(along, result.unit), ticks=ticks, title=result.title)
