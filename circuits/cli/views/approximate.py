"""Estimated effects in a terminal, and how they agree with exact ones."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.patches import OF_PARTS, meaning, patched
from circuits.cli.tables import asked_of, largest_first, new_table, number, with_interval
from circuits.result import Result

WORST = 5  # estimates that are listed, of those that were checked


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Each task's estimates as grids, the largest as a table, and what a check said of them."""
    is_checked = "exact" in result.frame
    for of, rows in asked_of(result.frame):
        yield from patched(result, of, rows, width)
        if is_checked:
            yield from _checked(rows)
    notes = ["effects are estimates by gradient"]
    if not is_checked:
        notes += ["--check N really patches the largest, --check all everything"]
    yield meaning(result, OF_PARTS, *notes)


def _checked(rows: pd.DataFrame) -> Iterator[RenderableType]:
    """How the estimates agree with exact effects, and the worst of them."""
    known = rows.dropna(subset=["exact"])
    table = new_table()
    table.add_column("worst estimates", no_wrap=True)
    for name in ("estimate", "exact, 95 %", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in largest_first(known, "error").head(WORST).iterrows():
        exact = with_interval(row, "+", ("exact", "exact_low", "exact_high"))
        estimate, error = number(row["value"], "+"), number(row["error"], "+")
        table.add_row(row["component"], estimate, exact, error)
    yield table
    first = known.iloc[0]
    yield Text(
        f"agreement with exact patching over {len(known)} of {len(rows)} rows: "
        f"Pearson {number(first['pearson'])}, Spearman {number(first['spearman'])}",
        style="bold",
    )
