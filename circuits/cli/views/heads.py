"""Report cards of heads, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.tables import NONE, new_table, number, plus_minus
from circuits.result import Result

MOST_OF_A_KIND = 6
MOST_WHOLE_CARDS = 3  # heads up to which every kind is shown


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """The heads of each kind, best first; of a few heads, everything."""
    frame = result.frame
    names = list(dict.fromkeys(frame["component"]))
    if len(names) <= MOST_WHOLE_CARDS:
        for name in names:
            rows = frame[(frame["component"] == name) & frame["note"].isna()]
            yield Text.assemble(f"\n{name}: ", (rows["name"].iloc[0], "bold"))
            yield _card(rows)
    else:
        yield from _of_each_kind(frame)
    yield from _notes(result)


def _of_each_kind(frame: pd.DataFrame) -> Iterator[RenderableType]:
    table = _columns("kind", "head", "also")
    named = frame[(frame["kind"] == frame["name"]) & frame["clear"]]
    hidden = 0
    for kind, rows in named.groupby("kind", sort=False):
        best = rows.sort_values("value", ascending=False, kind="stable")
        hidden += max(0, len(best) - MOST_OF_A_KIND)
        for place, (_, row) in enumerate(best.head(MOST_OF_A_KIND).iterrows()):
            of_head = frame[(frame["component"] == row["component"]) & frame["clear"]]
            also = ", ".join(other for other in of_head["kind"] if other != kind)
            table.add_row(
                Text(str(kind), "bold") if place == 0 else "",
                row["component"],
                Text(also, "dim"),
                *_numbers(row),
            )
    yield table
    n, n_named = frame["component"].nunique(), len(named)
    more = f"; {hidden} more of them with --csv, --json or --save DIR" if hidden else ""
    yield Text(f"{n_named} of {n} heads are of a kind{more}", "dim")


def _card(rows: pd.DataFrame) -> Table:
    table = _columns("kind", "", "")
    for _, row in rows.iterrows():
        mark = Text("clear", "bold") if row["clear"] else ""
        style = None if row["clear"] else "dim"
        table.add_row(row["kind"], "", mark, *_numbers(row), style=style)
    return table


def _columns(first: str, second: str, third: str) -> Table:
    table = new_table()
    table.add_column(first, no_wrap=True)
    table.add_column(second, no_wrap=True)
    table.add_column(third, overflow="fold", ratio=1)
    for name in ("score, 95 %", "control", "costs, 95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _numbers(row: pd.Series[Any]) -> list[Text]:
    """Score, control and cost."""
    score = _interval(row["value"], row["ci_low"], row["ci_high"])
    cost = _interval(row["cost"], row["cost_low"], row["cost_high"], "+")
    return [score, Text(number(row["control"])), cost]


def _interval(value: float, low: float, high: float, sign: str = "") -> Text:
    if pd.isna(value):
        return Text(NONE)
    unsure = low <= 0 <= high
    return Text.assemble((number(value, sign), "" if unsure else "bold"), plus_minus(low, high))


def _notes(result: Result) -> Iterator[RenderableType]:
    frame = result.frame
    kinds = frame.drop_duplicates("kind")
    units = kinds.groupby("unit", sort=False)["kind"].agg(", ".join)
    yield Text("; ".join(f"{names}: {unit}" for unit, names in units.items()), "dim")
    measured = frame.dropna(subset=["cost"]).drop_duplicates("behavior")
    costs = [
        f"{row['metric']} in {row['cost_unit']} on {row['behavior']}"
        for _, row in measured.iterrows()
    ]
    method = result.provenance.arguments["method"]
    if costs:
        yield Text(
            f"costs: by how much {method} ablation makes it worse ({', '.join(costs)})", "dim"
        )
    if result.provenance.arguments["n"] == 1:
        yield Text("one draw has no interval, so nothing is clear by it: ask for -n 20", "dim")
    for note, rows in kinds.dropna(subset=["note"]).groupby("note", sort=False):
        yield Text(f"no score for {', '.join(rows['kind'])}: {note}", "dim")
