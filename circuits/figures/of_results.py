"""Which figure shows a result? A view is a function from a result to its figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from circuits.errors import CircuitsError
from circuits.figures.charts import bars, curves, scatter
from circuits.figures.grids import heatmaps
from circuits.figures.lens import lens_grid
from circuits.figures.patterns import pattern_grid
from circuits.figures.style import Interval, Numbers

if TYPE_CHECKING:
    from circuits.result import Result


# What an axis says for a column whose name is short.
_SAID = {"value": "estimate", "z": "z score of the weights", "share": "share of the total effect"}
_MOST_BESIDE = 3  # rows without a place in a grid that its title names


def draw(result: Result) -> Figure:
    """The figure of this result, as its `view` and `axes` say.

    Raises:
        CircuitsError: for more than a figure can show.
    """
    return DRAWN[result.view](result)


def _bars(result: Result) -> Figure:
    """A bar for each row."""
    frame = result.frame
    options: dict[str, Any] = {"title": result.title, "unit": result.unit}
    options["interval"] = _interval(frame)
    return bars(_labels(result), frame["value"].to_numpy(float), **options)


def _labels(result: Result) -> list[str]:
    """The name of each row: its component, or say ``layer 5 head 3``."""
    if len(result.axes) == 1:
        return [str(label) for label in result.frame[result.axes[0]]]
    rows = result.frame[list(result.axes)].astype(str).to_numpy().tolist()
    return [" ".join(f"{a} {x}" for a, x in zip(result.axes, row, strict=True)) for row in rows]


def _heatmap(result: Result) -> Figure:
    """A grid over the last two axes, for each value of those before them."""
    row, column = result.axes[-2:]
    panels, rows, columns = {}, {}, {}
    notes: list[str] = []
    for name, frame in _panels(result, 2):
        of = f" ({name})" if len(result.axes) > 2 else ""
        note, frame = _beside(frame, (row, column), of)
        notes += note
        unit = str(frame["unit"].iloc[0]) if "unit" in frame else result.unit
        ends = None
        if "ci_low" in frame:
            ends = _grid(frame, row, column, "ci_low"), _grid(frame, row, column, "ci_high")
        panels[name] = _grid(frame, row, column, "value"), ends, unit
        rows[name], columns[name] = (
            [str(label) for label in labels] for labels in _table(frame, row, column, "value").axes
        )
    title = result.title if len(result.axes) > 2 else ""
    labels: dict[str, Any] = {"rows": rows, "columns": columns, "axes": (row, column)}
    return heatmaps(panels, **labels, title=title, notes=notes)


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


def _lens(result: Result) -> Figure:
    """The top token of each stage (rows) and position (columns)."""
    row, column = result.axes
    frame = result.frame
    tokens = _table(frame, row, column, "token")
    prompt = frame.drop_duplicates(column)
    return lens_grid(
        tokens.to_numpy().tolist(),
        _grid(frame, row, column, "probability"),
        rows=[str(label) for label in tokens.index],
        columns=[str(t) for t in prompt["after" if "after" in prompt else column]],
        title=result.title,
    )


def _curves(result: Result) -> Figure:
    """A line over the last axis, for each value of those before it."""
    along = result.axes[-1]
    numeric = bool(pd.api.types.is_numeric_dtype(result.frame[along]))
    ticks = None if numeric else [str(x) for x in result.frame[along].unique()]
    places = {} if ticks is None else {name: i for i, name in enumerate(ticks)}
    lines = {}
    for name, frame in _panels(result, 1):
        x = frame[along] if ticks is None else frame[along].astype(str).map(places)
        values = frame["value"].to_numpy(float)
        lines[name] = (x.to_numpy(float), values, _interval(frame))
    return curves(lines, axes=(along, result.unit), ticks=ticks, title=result.title)


def _scatter(result: Result, *, diagonal: bool) -> Figure:
    """A point for each row: the first axis names it, the other two are its numbers."""
    name, x, y = result.axes
    points = result.frame.dropna(subset=[x, y])
    names = _SAID.get(x, x), _SAID.get(y, y)
    if diagonal:
        names = f"{names[0]} ({result.unit})", f"{names[1]} ({result.unit})"
    return scatter(
        points[x].to_numpy(float),
        points[y].to_numpy(float),
        labels=[str(label) for label in points[name]],
        axes=names,
        title=result.title,
        diagonal=diagonal,
    )


def _patterns(result: Result) -> Figure:
    """A square of attention for each head: axes are head's name, query and key.

    Pairs without a row count as 0, and queries without any are left empty.
    """
    name, query, key = result.axes
    frame = result.frame
    tokens: dict[Any, str] = {}
    for axis in (query, key):
        text = f"{axis}_token" if f"{axis}_token" in frame else axis
        rows = frame.drop_duplicates(axis)
        tokens |= dict(zip(rows[axis], rows[text].astype(str), strict=True))
    order = sorted(tokens)
    grids = {
        str(head): part.pivot(index=query, columns=key, values="value")
        .reindex(columns=order)
        .fillna(0)
        .reindex(index=order)
        .to_numpy(float)
        for head, part in frame.groupby(name, sort=False)
    }
    words = [tokens[place] for place in order]
    return pattern_grid(grids, words, title=result.title, unit=result.unit)


DRAWN: Mapping[str, Callable[[Result], Figure]] = {
    "bars": _bars,
    "curves": _curves,
    "heatmap": _heatmap,
    "lens": _lens,
    "patterns": _patterns,
    "plane": partial(_scatter, diagonal=False),
    "scatter": partial(_scatter, diagonal=True),
}


def _panels(result: Result, n_inner: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows by the values of all axes but the last `n_inner`, with a name for each part."""
    by = list(result.axes[:-n_inner])
    if not by:
        yield result.title, result.frame
        return
    for key, frame in result.frame.groupby(by, sort=False):
        yield " ".join(map(str, key)), frame


def _table(frame: pd.DataFrame, row: str, by: str, column: str) -> pd.DataFrame:
    """One column as a grid over two others, both in order of appearance."""
    if column not in frame:
        raise CircuitsError(f"the result has no column {column!r}, which its figure shows")
    order = {"index": frame[row].unique(), "columns": frame[by].unique()}
    table: pd.DataFrame = frame.pivot(index=row, columns=by, values=column).reindex(**order)
    return table


def _grid(frame: pd.DataFrame, row: str, by: str, column: str) -> Numbers:
    return _table(frame, row, by, column).to_numpy(float)


def _interval(frame: pd.DataFrame) -> Interval | None:
    if "ci_low" not in frame:
        return None
    return frame["ci_low"].to_numpy(float), frame["ci_high"].to_numpy(float)
