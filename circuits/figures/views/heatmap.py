"""Grids of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from circuits.figures.grids import heatmaps
from circuits.figures.views.base import view
from circuits.figures.views.reading import grid, panels, table

if TYPE_CHECKING:
    from circuits.result import Result


_MOST_BESIDE = 3  # rows without a place in a grid that its title names


@view
def heatmap(result: Result) -> Figure:
    """A grid over the last two axes, for each value of those before them."""
    row, column = result.axes[-2:]
    shown, rows, columns = {}, {}, {}
    notes: list[str] = []
    for name, frame in panels(result, 2):
        of = f" ({name})" if len(result.axes) > 2 else ""
        note, frame = _beside(frame, (row, column), of)
        notes += note
        unit = str(frame["unit"].iloc[0]) if "unit" in frame else result.unit
        ends = None
        if "ci_low" in frame:
            ends = grid(frame, row, column, "ci_low"), grid(frame, row, column, "ci_high")
        shown[name] = grid(frame, row, column, "value"), ends, unit
        rows[name], columns[name] = (
            [str(label) for label in labels] for labels in table(frame, row, column, "value").axes
        )
    title = result.title if len(result.axes) > 2 else ""
    labels: dict[str, Any] = {"rows": rows, "columns": columns, "axes": (row, column)}
    return heatmaps(shown, **labels, title=title, notes=notes)


def _beside(
    frame: pd.DataFrame, axes: tuple[str, str], panel: str
) -> tuple[list[str], pd.DataFrame]:
    """The rows that have a place in the grid, and a note on the largest others."""
    placed = frame[list(axes)].notna().all(axis=1)
    others = frame[~placed]
    if others.empty:
        return [], frame
    order = others["value"].abs().sort_values(ascending=False, kind="stable").index
    label = "component" if "component" in frame else axes[0]
    first = others.loc[order[:_MOST_BESIDE], [label, "value"]].itertuples(index=False)
    shown = [f"{name} {value:+.2f}" for name, value in first]
    more = [f"{len(order) - _MOST_BESIDE} more"] if len(order) > _MOST_BESIDE else []
    return [f"beside the grid{panel}: {', '.join([*shown, *more])}"], frame[placed]
