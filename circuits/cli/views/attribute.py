"""Direct attribution, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.bars import WIDE, bar
from circuits.cli.tables import (
    MOST_ROWS,
    asked_of,
    largest_first,
    more,
    new_table,
    number,
    over,
    share,
    spread_of,
    with_interval,
)
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """What adds most to the answer, and what the approximation is worth."""
    spread = ["spread"] if "spread" in result.frame else []
    for of, rows in asked_of(result.frame):
        first = rows.iloc[0]
        yield Text(f"\n{of}: {number(first['total'])} {first['unit']}", "bold")
        yield Text("the sum of all rows" + over(first["n"]), "dim")
        table = new_table()
        table.add_column("part", overflow="fold")
        table.add_column("adds, 95 %", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, width=WIDE)
        for name in (*spread, "share", "recomputed", "error"):
            table.add_column(name, justify="right", no_wrap=True)
        largest = float(rows["value"].abs().max())
        for _, row in largest_first(rows).head(MOST_ROWS).iterrows():
            table.add_row(
                Text(row["component"]),
                with_interval(row, "+"),
                bar(row["value"], largest),
                *(number(row[name]) for name in spread),
                share(row["share"]),
                number(row["recomputed"], "+"),
                number(row["error"], "+"),
            )
        yield table
        yield from more(len(rows))
        yield _worst(rows)
    yield Text(
        "adds: with the final LayerNorm's scale held; recomputed: what is lost without the part, "
        "LayerNorm computed anew; error: the first less the second"
        + "".join(f"; {words}" for words in spread_of(result.frame, "the first")),
        style="dim",
    )


def _worst(rows: pd.DataFrame) -> Text:
    """Where holding LayerNorm's scale misleads most, and how it does over all parts."""
    row = rows.iloc[int(rows["error"].abs().argmax())]
    correlation = rows["value"].corr(rows["recomputed"])
    agree = (
        ""
        if pd.isna(correlation)
        else f"; over all parts, the two correlate with {correlation:.2f}"
    )
    return Text(
        f"the scale held errs most for {row['component']} ({number(row['error'], '+')}){agree}",
        style="dim",
    )
