"""Accuracies of interchange interventions, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.grids import grids
from circuits.cli.tables import (
    MOST_ROWS,
    NONE,
    group_of,
    more,
    new_table,
    on_one_line,
    percent,
    spread_of,
)
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Accuracies as grids, and the best as a table; of subspaces, all of them and a verdict."""
    told = ["task", *group_of(result.frame), "variable"]
    for names, rows in result.frame.groupby(told, sort=False):
        first = rows.iloc[0]
        *of, variable = (on_one_line(str(name)) for name in names)
        yield Text(f"\n{', '.join(of)}: {variable}", "bold")
        yield Text(
            f"the model as it is gives the graph's answer in {percent(first['clean'])} of prompts; "
            f"{first['n']} pairs move the answer, {first['n_kept']} keep it",
            style="dim",
        )
        if "subspace" in rows:
            yield _accuracies(rows, "subspace")
            yield _verdict(rows)
            continue
        if result.view == "heatmap":
            yield from grids(result, rows, width, 1.0, told=tuple(told))
        order = rows["value"].sort_values(ascending=False, kind="stable").index
        yield _accuracies(rows.loc[order[:MOST_ROWS]], "component")
        yield from more(len(rows))
    notes = "accuracy: share of moved pairs with the predicted answer; kept: of the others"
    if "control" in result.frame:
        notes += "; elsewhere: mean accuracy at other places of the kind"
    notes = "; ".join([notes, *spread_of(result.frame, "the accuracy")])
    yield Text(notes, style="dim")


def _accuracies(rows: pd.DataFrame, subject: str) -> Table:
    more_columns = {"dimensions": "dim.", "kept": "kept", "both": "both", "control": "elsewhere"}
    shown = {name: title for name, title in more_columns.items() if name in rows}
    table = new_table()
    table.add_column(subject, overflow="fold")
    for title in ("accuracy", "95 %", *shown.values()):
        table.add_column(title, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        interval = f"{row['ci_low']:.0%} to {row['ci_high']:.0%}" if row["n"] else NONE
        cells = [_shown(row, name) for name in shown]
        table.add_row(
            Text(row[subject]), Text(_shown(row, "value"), style="bold"), interval, *cells
        )
    return table


def _shown(row: pd.Series[Any], name: str) -> str:
    if pd.isna(row[name]):
        return NONE
    return str(row[name]) if name == "dimensions" else percent(row[name])


def _verdict(rows: pd.DataFrame) -> Text:
    by = rows.set_index("subspace")
    learned, read = (by.loc[name] for name in ("learned", "read"))
    share = percent(learned["share_read"])
    if learned["illusion"]:
        return Text.assemble(
            ("An illusion: ", "bold dark_orange3"),
            f"the learned subspace works ({percent(learned['value'])}) only with the part of it "
            f"that nothing later reads; the part that is read ({share} of it) alone reaches "
            f"{percent(read['value'])}.",
        )
    if learned["ci_low"] <= by.loc["random", "ci_high"]:
        return Text("No subspace was found that works clearly better than a random one.")
    hint = " --reader asks about a single reader." if learned["share_read"] > 0.99 else ""
    return Text.assemble(
        ("No illusion: ", "bold"),
        f"{share} of the learned subspace is read by some later part, and that alone reaches "
        f"{percent(read['value'])}.{hint}",
    )
