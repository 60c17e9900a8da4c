"""How decompositions of the residual stream look in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import MOST_ROWS, NONE, more, new_table, number
from circuits.result import Result

_WIDE = 20  # cells of the longest bar


def attribution(result: Result, width: int) -> Iterator[RenderableType]:
    """What adds most to the answer, and what the approximation is worth."""
    for task, rows in result.frame.groupby("task", sort=False):
        first = rows.iloc[0]
        yield Text(f"\n{task}: {number(first['total'])} {first['unit']}", "bold")
        yield Text("the sum of all rows" + _over(first["n"]), "dim")
        table = new_table()
        table.add_column("part", overflow="fold")
        table.add_column("adds, 95 %", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, width=_WIDE)
        for name in ("share", "recomputed", "error"):
            table.add_column(name, justify="right", no_wrap=True)
        largest = float(rows["value"].abs().max())
        order = rows["value"].abs().sort_values(ascending=False, kind="stable").index
        for _, row in rows.loc[order[:MOST_ROWS]].iterrows():
            table.add_row(
                Text(row["component"]),
                _with_interval(row),
                bar(row["value"], largest),
                NONE if pd.isna(row["share"]) else f"{row['share']:.1%}",
                number(row["recomputed"], "+"),
                number(row["error"], "+"),
            )
        yield table
        yield from more(len(rows))
        yield _worst(rows)
    yield Text(
        "adds: with the final LayerNorm's scale held; recomputed: what is lost without the part, "
        "LayerNorm computed anew; error: the first less the second",
        style="dim",
    )


def bar(value: float, largest: float) -> Text:
    """As long as the number is large; blue above 0, orange below."""
    n = round(_WIDE * abs(value) / largest) if largest else 0
    return Text("━" * n, style="blue" if value > 0 else "dark_orange3")


def _with_interval(row: pd.Series[Any]) -> Text:
    half = (row["ci_high"] - row["ci_low"]) / 2
    known = "" if pd.isna(half) else f" ± {number(half)}"
    return Text.assemble((number(row["value"], "+"), "bold"), known)


def _over(n: int) -> str:
    return f"; means over {n} prompts" if n > 1 else ""


def _worst(rows: pd.DataFrame) -> Text:
    """Where does holding LayerNorm's scale mislead most?"""
    row = rows.iloc[int(rows["error"].abs().argmax())]
    kept = rows["value"].corr(rows["recomputed"])
    agree = "" if pd.isna(kept) else f"; over all parts, the two correlate with {kept:.2f}"
    return Text(
        f"the scale held errs most for {row['component']} ({number(row['error'], '+')}){agree}",
        style="dim",
    )
