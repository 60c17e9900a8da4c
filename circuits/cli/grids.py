"""Grids of numbers, the larger the stronger their color."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.result import Result


def grids(
    result: Result, rows: pd.DataFrame, width: int, largest: float, told: Collection[str]
) -> Iterator[RenderableType]:
    """A grid over the result's last two axes, for each value of those before.

    Axes that are `told` above the grids need no line of their own.
    """
    *before, row, column = result.axes
    panels = [name for name in before if name not in told]
    for names, part in rows.groupby(panels, sort=False) if panels else [((), rows)]:
        yield from (Text(f"at {name}", "bold") for name in names)
        yield from grid(part, (row, column), width, largest)


def grid(
    rows: pd.DataFrame, axes: tuple[str, str], width: int, largest: float
) -> Iterator[RenderableType]:
    """Row by column, the nearer to the largest effect the stronger the color; if it fits."""
    row, column = axes
    order = {"index": rows[row].unique(), "columns": rows[column].unique()}
    cells = rows.pivot(index=row, columns=column, values="value").reindex(**order)
    names = [f"h{name}" if column == "head" else str(name) for name in cells.columns]
    largest = largest or 1.0
    digits = 2 if largest >= 1 else 3
    wide = max(6, len(f"{-largest:.{digits}f}"), *map(len, names))
    if (wide + 2) * (len(names) + 1) > width:
        size = f"{len(cells)} {row}s by {len(names)} {column}s"
        yield Text(f"{size} do not fit into this terminal; --figure FILE draws them", "dim")
        return
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(row, justify="right", style="dim")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, width=wide)
    for label, values in cells.iterrows():
        shaded_cells = (shaded(float(value), largest, digits) for value in values)
        table.add_row(str(label), *shaded_cells)
    yield table


def shaded(value: float, largest: float, digits: int = 2, weakest: float = 0.1) -> Text:
    """A number, the stronger colored the larger; dim up to the share `weakest` of the largest."""
    if pd.isna(value):
        return Text("")
    color = "blue" if value > 0 else "dark_orange3"
    strong, weak = abs(value) > 0.5 * largest, abs(value) <= weakest * largest
    style = f"bold white on {color}" if strong else "dim" if weak else color
    shown = f"{value:+.{digits}f}"
    return Text("0" if float(shown) == 0 else shown, style=style)
