"""Patterns of attention, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.tables import NONE, new_table, percent
from circuits.cli.terminal import visible
from circuits.result import Result

MOST_DETAILED = 2  # heads up to which every query is shown
MOST_QUERIES, MOST_KEYS, MOST_HEADS = 40, 4, 24
WORTH_NAMING = 0.02  # of a query's attention


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """A few heads query by query; many with what they look at most."""
    frame = result.frame
    names = list(dict.fromkeys(frame["component"]))
    if len(names) <= MOST_DETAILED:
        for name in names:
            yield from _queries(str(name), frame[frame["component"] == name], width)
    else:
        yield from _summary(frame)
    left_out = frame.drop_duplicates(["component", "query"])["left_out"].mean()
    if left_out > 1e-6:
        yield Text(f"left out: {percent(left_out)} of all attention, the smallest weights", "dim")


def _queries(name: str, rows: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    yield Text(f"\n{name}", "bold")
    table = new_table()
    table.add_column("", justify="right", style="dim")
    table.add_column("from", no_wrap=True, max_width=16, overflow="ellipsis")
    table.add_column("looks at", no_wrap=True, overflow="ellipsis", max_width=max(20, width - 40))
    table.add_column("entropy", justify="right", no_wrap=True)
    queries = list(rows.groupby("query"))
    for query, at_query in queries[-MOST_QUERIES:]:
        best = at_query.sort_values("value", ascending=False, kind="stable").head(MOST_KEYS)
        looks = Text()
        for place, (_, row) in enumerate(best.iterrows()):
            if place == 0 or row["value"] >= WORTH_NAMING:
                looks.append(visible(row["key_token"]), "bold" if row["value"] > 0.5 else "")
                looks.append(f" {row['key']}", "dim")
                looks.append(f" {percent(row['value'])}   ")
        token = Text(visible(at_query["query_token"].iloc[0]))
        table.add_row(str(query), token, looks, f"{at_query['entropy'].iloc[0]:.2f}")
    yield table
    more = (
        f"the last {MOST_QUERIES} of {len(queries)} queries; "
        if len(queries) > MOST_QUERIES
        else ""
    )
    yield Text(f"{more}up to {MOST_KEYS} keys with their index; entropy in nats", "dim")


def _summary(frame: pd.DataFrame) -> Iterator[RenderableType]:
    heads = [_habits(str(name), rows) for name, rows in frame.groupby("component", sort=False)]
    # Those that look somewhere first: what rests on the first token has nothing to show.
    heads.sort(key=lambda habits: -habits["focus"])
    table: Table = new_table()
    table.add_column("head", no_wrap=True)
    for column in ("first token", "itself", "entropy", "offset", "of it"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("looks most at", no_wrap=True, overflow="ellipsis", max_width=30)
    for habits in heads[:MOST_HEADS]:
        table.add_row(habits["name"], *habits["cells"], habits["key"])
    yield table
    shown = (
        f"the {MOST_HEADS} of {len(heads)} heads that" if len(heads) > MOST_HEADS else "those that"
    )
    yield Text(
        f"means over queries; first come {shown} look elsewhere than at the first token, and at "
        "few places; entropy: share of the largest possible; offset: the commonest distance back, "
        "first token aside; looks most at: first token aside; --component a5.h3 shows one head",
        "dim",
    )


def _habits(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    """What one head does on average over the queries that have a choice."""
    later = rows[rows["query"] > 0]
    n = max(1, later["query"].nunique())
    sink = later.loc[later["key"] == 0, "value"].sum() / n
    itself = later.loc[later["key"] == later["query"], "value"].sum() / n
    spread = later.drop_duplicates("query")["entropy_share"].mean()
    rest = later[later["key"] > 0]
    if not len(rest):
        return {"name": name, "focus": -1.0, "cells": [NONE] * 5, "key": Text(NONE)}
    by_offset = rest["value"].groupby(rest["query"] - rest["key"]).sum()
    offset = int(by_offset.idxmax())
    by_key = rest["value"].groupby(rest["key"]).sum()
    key = rest.loc[rest["key"] == by_key.idxmax()].iloc[0]
    cells = [
        *(percent(share) for share in (sink, itself)),
        NONE if pd.isna(spread) else f"{spread:.2f}",
        f"-{offset}" if offset else "0",
        percent(by_offset.max() / n),
    ]
    focus = (1 - sink) * (1 - (0 if pd.isna(spread) else spread))
    looks = Text.assemble(visible(key["key_token"]), (f" {key['key']}", "dim"))
    return {"name": name, "focus": focus, "cells": cells, "key": looks}
