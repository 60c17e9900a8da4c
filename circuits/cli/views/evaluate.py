"""Whether a circuit is the mechanism, in a terminal: every test, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.bars import bar
from circuits.cli.tables import MOST_ROWS, NONE, asked_of, more, new_table, number, percent
from circuits.result import Result

_STYLES = {"yes": "green", "no": "bold red"}
_OVER_ALL, _PART = "all", "part"  # rows of `circuits.evaluation.table`


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """The tests of each task, the parts that matter least, and the verdict; or the curve."""
    for of, rows in asked_of(result.frame):
        yield Text(f"\n{of}", "bold")
        if "ranking" in rows:
            yield from _curve(rows)
        else:
            yield from _tests(rows)


def _tests(rows: pd.DataFrame) -> Iterator[RenderableType]:
    table = _table("test", "what was measured")
    shown = rows[~rows["test"].isin([_OVER_ALL, _PART])]
    for test, part in shown.groupby("test", sort=False):
        table.add_section()
        for i, (_, row) in enumerate(part.iterrows()):
            table.add_row(Text("" if i else str(test)), Text(row["what"]), *_numbers(row))
    yield table
    yield from _parts(rows[rows["test"] == _PART])
    for _, row in shown[shown["verdict"] == "no"].iterrows():
        yield Text.assemble((f"{row['test']}: ", "red"), (f"{row['what']}; {row['against']}", ""))
    last = rows[rows["test"] == _OVER_ALL].iloc[0]
    word = "passes" if last["verdict"] == "yes" else "does not pass"
    style = _STYLES[last["verdict"]]
    yield Text.assemble((f"The circuit {word}", style), (f" ({last['against']})", ""))
    yield Text(
        "F: share of the whole effect that the circuit has alone; chance: the same of what it is "
        "compared with; p: corrected for many tests (Holm). What each is compared with, and all "
        "parts: --csv, --json or --save DIR",
        style="dim",
    )


def _parts(parts: pd.DataFrame) -> Iterator[RenderableType]:
    """Those that matter least, with what F loses without them."""
    if parts.empty:
        return
    table = _table("part", "what F loses without it")
    for _, row in parts.head(MOST_ROWS).iterrows():
        value, *others = _numbers(row)
        table.add_row(Text(row["what"]), "", value, *others)
    yield table
    yield from more(len(parts))


def _table(first: str, second: str) -> Any:
    table = new_table()
    table.add_column(first, no_wrap=True)
    table.add_column(second)
    for name in ("value", "95 %", "n", "chance", "p", "passes"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _numbers(row: pd.Series[Any]) -> list[Text]:
    low, high, p_value = row["ci_low"], row["ci_high"], row["p_value"]
    interval = NONE if pd.isna(low) else f"{number(low)} to {number(high)}"
    p_said = NONE if pd.isna(p_value) else "<.0001" if p_value < 1e-4 else f"{p_value:.4f}"
    words = interval, f"{row['n']:,}", number(row["null"]), p_said
    return [
        Text(number(row["value"]), "bold"),
        *map(Text, words),
        Text(row["verdict"], _STYLES.get(row["verdict"], "dim")),
    ]


def _curve(rows: pd.DataFrame) -> Iterator[RenderableType]:
    """F over the sizes of circuits, of each ranking."""
    largest = float(rows["value"].abs().max())
    for ranking, part in rows.groupby("ranking", sort=False):
        table = new_table()
        table.add_column(f"{ranking} scores", justify="right", no_wrap=True)
        for name in ("kept", "pruned", "F", "95 %"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for _, row in part.iterrows():
            interval = f"{number(row['ci_low'])} to {number(row['ci_high'])}"
            value = Text(number(row["value"]), "bold")
            counts = f"{row['kept']:,}", f"{row['pruned']:,}"
            size = percent(row["size"])
            table.add_row(size, *counts, value, interval, bar(row["value"], largest))
        yield table
    yield Text(
        "F: share of the whole effect that the circuit has alone; kept: parts before pruning; "
        "pruned: of these, on no path from the embedding to the logits",
        style="dim",
    )
