"""Effects of patching: between which ends, as grids, and the largest as a table."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.grids import grids
from circuits.cli.tables import (
    MOST_ROWS,
    group_of,
    largest_first,
    more,
    new_table,
    number,
    over,
    spread_of,
    with_interval,
)
from circuits.result import Result

OF_PARTS = "share: 0 is as corrupted, 1 is as clean"


def patched(
    result: Result, of: str, rows: pd.DataFrame, width: int, subject: str = "component"
) -> Iterator[RenderableType]:
    """The rows of one task; the column `subject` says what was patched."""
    first = rows.iloc[0]
    yield Text(f"\n{of}: effect on {first['metric']} ({first['unit']})", "bold")
    ends = f"clean {number(first['clean'])}, corrupted {number(first['corrupted'])}"
    yield Text(ends + over(first["n"]), style="dim")
    if result.view == "heatmap" and result.axes[-2] not in group_of(rows):
        largest = float(rows["value"].abs().max())
        yield from grids(result, rows, width, largest, told=("task", *group_of(rows)))
    yield _table(largest_first(rows).head(MOST_ROWS), subject)
    yield from more(len(rows))


def _table(rows: pd.DataFrame, subject: str) -> Table:
    spread = ["spread"] if "spread" in rows else []
    exact = ["exact"] if "exact" in rows else []
    table = new_table()
    table.add_column(subject, overflow="fold")
    names = ["patched", "effect, 95 %", *spread, "share, 95 %", *("really, 95 %" for _ in exact)]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        table.add_row(
            Text(row[subject]),
            number(row["patched"]),
            with_interval(row, "+"),
            *(number(row[name]) for name in spread),
            with_interval(row, columns=("share", "share_low", "share_high")),
            *(with_interval(row, "+", (name, f"{name}_low", f"{name}_high")) for name in exact),
        )
    return table


def meaning(result: Result, share: str, *notes: str) -> Text:
    """The line below the tables: what the effects and shares are, and an analysis' own notes."""
    of = "corrupted" if result.provenance.arguments["direction"] == "denoise" else "clean"
    spread = spread_of(result.frame)
    return Text("; ".join([f"effect = patched - {of}", share, *spread, *notes]), style="dim")
