"""Effects of ablation, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.grids import grid
from circuits.cli.tables import (
    MOST_ROWS,
    asked_of,
    group_of,
    more,
    new_table,
    number,
    on_one_line,
    percent,
    spread_of,
    with_interval,
)
from circuits.cli.terminal import visible
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Effects as a table; for all heads also as a grid, worst first."""
    frame = result.frame
    tasks = list(asked_of(frame))
    if len(tasks) == len(frame):
        yield _effects(frame)
    else:
        for of, rows in tasks:
            first = rows.iloc[0]
            yield Text(f"\n{of}: effect on {first['metric']} ({first['unit']})", "bold")
            yield from grid(rows, ("layer", "head"), width, float(rows["value"].abs().max()))
            yield _effects(rows.sort_values("rank", kind="stable").head(MOST_ROWS))
            yield from more(len(rows))
    yield Text("; ".join(_notes(frame)), style="dim")
    if "token_1" in frame and len(frame) == 1:
        yield from _changes(frame.iloc[0])


def _notes(frame: pd.DataFrame) -> Iterator[str]:
    """What the numbers mean."""
    yield "effect = ablated - clean"
    units = frame[["metric", "unit"]].drop_duplicates().itertuples(index=False)
    yield from (f"{name} in {unit}" for name, unit in units)
    if frame["rank"].notna().any():
        yield "rank 1 hurts most"
    elif frame["head"].notna().all():
        yield "--rank says its place among all heads"
    if "direct" in frame:
        many = frame.drop_duplicates("task")[["task", "n"]].itertuples(index=False)
        yield from (f"means over {n} {task} prompts" for task, n in many if n > 1)
        yield (
            "direct: straight to the logits; indirect = effect - direct, where it makes up for "
            "direct damage the model repairs itself"
        )
        yield (
            "held: direct if the final LayerNorm kept its scale; direct less held is what its new "
            "scale makes up for"
        )
    yield from spread_of(frame)
    yield f"written instead: {' / '.join(frame['reference'].unique())}"


def _effects(rows: pd.DataFrame) -> Table:
    if "direct" in rows:
        return _split_effects(rows)
    spread, words = _of_groups(rows)
    words += ["metric"]
    table = new_table()
    for name in words:
        table.add_column("without" if name == "component" else name, overflow="fold")
    ranked = ["rank"] if rows["rank"].notna().any() else []
    for name in ("clean", "ablated", "effect, 95 %", *spread, "n", *ranked):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        table.add_row(
            *(Text(on_one_line(row[name])) for name in words),
            *(number(row[name]) for name in ("clean", "ablated")),
            with_interval(row, "+"),
            *(number(row[name]) for name in spread),
            str(row["n"]),
            *(f"{row[name]} of {row['ranked']}" for name in ranked),
        )
    return table


def _of_groups(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The columns that tell groups of prompts apart, as numbers and as words."""
    alone = rows["component"].nunique() == 1
    words = ["task", *(group_of(rows) if alone else []), "component"]
    return (["spread"] if "spread" in rows else []), words


def _split_effects(rows: pd.DataFrame) -> Table:
    """Total, direct and indirect side by side: as much as 80 columns hold."""
    spread, words = _of_groups(rows)
    table = new_table()
    for name in words:
        table.add_column("without" if name == "component" else name, overflow="fold")
    ranked = ["rank"] if rows["rank"].notna().any() else []
    for name in ("clean", "effect, 95 %", "direct", "indirect", "held", *spread, *ranked):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        table.add_row(
            *(Text(on_one_line(row[name])) for name in words),
            number(row["clean"]),
            with_interval(row, "+"),
            *(
                with_interval(row, "+", (name, f"{name}_low", f"{name}_high"))
                for name in ("direct", "indirect")
            ),
            number(row["direct_held"], "+"),
            *(number(row[name]) for name in spread),
            *(str(row[name]) for name in ranked),
        )
    return table


def _changes(row: pd.Series[Any]) -> Iterator[RenderableType]:
    """How the next token's probabilities change."""
    table = new_table()
    table.add_column("next token")
    for name in ("clean", "ablated", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    place = 1
    while f"token_{place}" in row:
        before, after = row[f"clean_{place}"], row[f"ablated_{place}"]
        token = visible(row[f"token_{place}"])
        table.add_row(Text(token), percent(before), percent(after), f"{after - before:+.1%}")
        place += 1
    yield Text(f"\nAfter the prompt, KL(clean || ablated) = {number(row['kl'])} nats", "bold")
    yield table
