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
    with_interval,
)
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """What changed most, both models side by side."""
    frame = result.frame
    if "value_a" not in frame:
        yield from _between(result)
        return
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
    if "circuit" in frame:
        yield from _gained_and_lost(frame, labels[0])
    notes = f"change: other - model, in {result.unit}"
    if "norm" in frame:
        notes = "model, other: norm of the weights; change: norm of the difference, over model"
    elif "n" in frame and not changed["paired"].all():
        notes += "; intervals as if the two were independent, which is rather too wide"
    yield Text(notes, style="dim")


def _between(result: Result) -> Iterator[RenderableType]:
    """The models between the two: on the line, or with one part swapped."""
    frame, table = result.frame, new_table()
    on_line = "at" in frame
    names = (
        ("at", "metric, 95 %", "if even") if on_line else ("part", "put in", "share", "taken back")
    )
    for name in names:
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for _, row in frame.head(len(frame) if on_line else MOST_ROWS).iterrows():
        if on_line:
            table.add_row(f"{row['at']:.2f}", with_interval(row), number(row["line"]))
            continue
        back = number(row["back"], "+") + plus_minus(row["back_low"], row["back_high"])
        share = NONE if pd.isna(row["share"]) else f"{row['share']:.0%}"
        table.add_row(row["component"], _changed(row), share, back)
    yield table
    yield from more(0 if on_line else len(frame))
    note = f"in {result.unit}; 0 is the model, 1 the other"
    if not on_line:
        whole = number(frame["whole"].iloc[0], "+")
        note = (
            f"changes in {result.unit}, of {whole} in all: the model with this part of the other, "
            "and the other with this part of the model"
        )
    yield Text(note, style="dim")


def _gained_and_lost(frame: pd.DataFrame, name: str) -> Iterator[RenderableType]:
    """The parts that only one of the two circuits has, largest changes first."""
    counts = frame["circuit"].value_counts()
    yield Text(f"in both circuits: {counts.get('both', 0)}", style="dim")
    for what in ("gained", "lost"):
        rows = largest_first(frame[frame["circuit"] == what])
        listed = [str(part) for part in rows[name]]
        others = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        yield Text(f"{what}: {len(listed)}: {', '.join(listed[:5])}{others}")


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
