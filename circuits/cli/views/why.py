"""Why a head looks where it looks, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.bars import WIDE, bar
from circuits.cli.grids import shaded
from circuits.cli.tables import (
    MOST_ROWS,
    largest_first,
    more,
    new_table,
    number,
    over,
    percent,
    share,
    with_interval,
)
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Which parts ask for which: as a grid with its sums, and the strongest pairs."""
    frame, first = result.frame, result.frame.iloc[0]
    compared = result.provenance.arguments["against"] is not None
    total = f"; the difference taken apart: {number(first['total'], '+')}" if compared else ""
    yield Text(
        f"score {number(first['score'])}, attention {percent(first['weight'])}{total}"
        f"{over(first['n'])}"
    )
    yield _grid(frame, width)
    table = new_table()
    for name in ("query part", "key part"):
        table.add_column(name, overflow="fold")
    table.add_column("adds, 95 %", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=WIDE)
    table.add_column("share", justify="right", no_wrap=True)
    largest = float(frame["value"].abs().max())
    for _, row in largest_first(frame).head(MOST_ROWS).iterrows():
        cells = (Text(row["query_part"]), Text(row["key_part"]), with_interval(row, "+"))
        table.add_row(*cells, bar(row["value"], largest), share(row["share"]))
    yield table
    yield from more(len(frame))
    if not compared:
        yield Text(
            "softmax sees differences between keys only: --against mean, or --against POSITION, "
            "leaves out what is the same for all keys",
            style="dim",
        )


def _grid(frame: pd.DataFrame, width: int) -> RenderableType:
    """Query parts by key parts, with the sums of rows and columns."""
    order = {"index": frame["query_part"].unique(), "columns": frame["key_part"].unique()}
    grid = frame.pivot(index="query_part", columns="key_part", values="value").reindex(**order)
    grid["all"] = grid.sum(axis=1)
    grid.loc["all"] = grid.sum(axis=0)
    wide = max(6, *(len(str(name)) for name in grid.columns))
    rows = max(len(str(name)) for name in grid.index)
    if rows + (wide + 1) * len(grid.columns) > width:
        return Text(
            "the grid of parts does not fit into this terminal; --figure FILE draws it", "dim"
        )
    largest = float(frame["value"].abs().max()) or 1.0
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("query \\ key", style="dim", no_wrap=True)
    for name in grid.columns:
        table.add_column(str(name), justify="right", no_wrap=True, width=wide)
    for label, values in grid.iterrows():
        table.add_row(
            str(label), *(shaded(float(value), largest, weakest=0.02) for value in values)
        )
    return table
