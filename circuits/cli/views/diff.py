"""What differs between two checkpoints, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import (
    MOST_ROWS,
    NONE,
    largest_first,
    more,
    new_table,
    number,
    plus_minus,
)
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """What changed most, both models side by side."""
    frame = result.frame
    shared = frame[frame["only_in"].isna()]
    changed = shared[shared["value"] != 0]
    yield Text(f"{len(shared)} rows in both, {len(changed)} of them changed", style="dim")
    labels = _labels(result)
    table = new_table()
    for name in labels:
        table.add_column(name, overflow="fold")
    for title in ("model", "other", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    for _, row in largest_first(changed).head(MOST_ROWS).iterrows():
        names = [Text(NONE if pd.isna(row[name]) else str(row[name])) for name in labels]
        numbers = [number(row["value_a"]), number(row["value_b"])]
        table.add_row(*names, *numbers, _changed(row))
    if len(changed):
        yield table
    yield from more(len(changed))
    for model, rows in frame.dropna(subset=["only_in"]).groupby("only_in", sort=False):
        listed = [" ".join(str(row[name]) for name in labels) for _, row in rows.iterrows()]
        others = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        yield Text(f"only in {model}: {', '.join(listed[:5])}{others}", style="dim")
    notes = f"change: other - model, in {result.unit}"
    if "norm" in frame:
        notes = "model, other: norm of the weights; change: norm of the difference, over model"
    elif "n" in frame and not changed["paired"].all():
        notes += "; intervals as if the two were independent, which is rather too wide"
    yield Text(notes, style="dim")


def _labels(result: Result) -> list[str]:
    """The columns that name a row: the component says layer and head, too."""
    columns = [str(name) for name in result.frame]
    keys = columns[: columns.index("value_a")]
    if "component" in keys or "edge" in keys:
        keys = [
            name for name in keys if name not in ("layer", "head", "position", "part", "metric")
        ]
    return [name for name in keys if result.frame[name].nunique() > 1] or keys[:1]


def _changed(row: pd.Series[Any]) -> Text:
    interval = plus_minus(row["ci_low"], row["ci_high"]) if "ci_low" in row else ""
    return Text.assemble((number(row["value"], "+"), "bold"), interval)
