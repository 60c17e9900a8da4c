"""What neurons do, in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.grids import grid
from circuits.cli.tables import (
    NONE,
    new_table,
    number,
    percent,
    plus_minus,
    with_interval,
)
from circuits.cli.terminal import visible
from circuits.result import Result

_SPACES = re.compile(r"\s+")


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """What a neuron's weights say, where it is active, or which neurons stand out."""
    frame = result.frame
    reading = (
        _promoted
        if "side" in frame
        else _contexts
        if "group" in frame
        else _triggers
        if "alone" in frame
        else _overview
        if "peaked" in frame
        else _classes
    )
    yield from reading(frame, width)
    yield Text(f"value: {result.meanings['value']}", style="dim")


def _promoted(frame: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    table = new_table()
    sides = [rows.reset_index(drop=True) for _, rows in frame.groupby("side", sort=False)]
    for rows in sides:
        table.add_column(rows["side"].iloc[0], no_wrap=True, overflow="ellipsis", max_width=30)
        table.add_column("value", justify="right", no_wrap=True)
    for i in range(len(sides[0])):
        cells = []
        for rows in sides:
            cells += [Text(visible(rows["token"][i])), Text(number(rows["value"][i], "+"))]
        table.add_row(*cells)
    yield table


def _triggers(frame: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    table = new_table()
    table.add_column("token", no_wrap=True, overflow="ellipsis", max_width=30)
    for name in ("value", "embedding alone"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in frame.iterrows():
        cells = (number(row["value"], "+"), number(row["alone"], "+"))
        table.add_row(Text(visible(row["token"])), *cells)
    yield table


def _contexts(frame: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    name = visible(frame["value_token"].iloc[0])
    room = max(30, width - 45)
    for group, rows in frame.groupby("group", sort=False):
        table = new_table()
        table.add_column("value", justify="right", no_wrap=True, min_width=7)
        table.add_column("above", justify="right", no_wrap=True, min_width=6)
        table.add_column(f"{group} contexts", no_wrap=True, width=room)
        table.add_column("next", justify="right", no_wrap=True, min_width=7)
        table.add_column(Text(name), justify="right", no_wrap=True, min_width=7, max_width=12)
        for _, row in rows.iterrows():
            effects = [row["effect_next"], row["effect_value"]]
            table.add_row(
                f"{row['value']:.3f}",
                percent(row["share_below"]),
                _in_text(row, room),
                *(NONE if pd.isna(effect) else f"{effect:+.3f}" for effect in effects),
            )
        yield table
    yield Text(
        "above: share of random places with a lower activation; next: logits that the neuron adds "
        f"to the token that follows in the text; {name}: to the token that it raises most anywhere "
        "(both against the vocabulary's mean)",
        style="dim",
    )


def _in_text(row: pd.Series[Any], room: int) -> Text:
    """The token in the middle of a line, with as much of the text as fits."""
    token = visible(row["token"])
    left, right = (_SPACES.sub(" ", str(row[side])) for side in ("before", "after"))
    side = max(0, room * 2 // 3 - cell_len(token))
    left = _shown(left)[-side:].rjust(side) if side else ""
    return Text.assemble((left, "dim"), (token, "bold"), (_shown(right), "dim"))


def _shown(text: str) -> str:
    return visible(text).replace("·", " ") if text else ""


def _classes(frame: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    if frame["layer"].nunique() > 1:
        yield from grid(frame, ("layer", "class"), width, float(frame["value"].abs().max()))
        return
    table = new_table()
    table.add_column("class")
    for name in ("value, 95 %", "active", "tokens", "windows"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in frame.iterrows():
        table.add_row(
            row["class"],
            with_interval(row, "+"),
            percent(row["active"]),
            f"{row['tokens']:,}",
            f"{int(row['n']):,}",
        )
    yield table


def _overview(frame: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    table = new_table()
    table.add_column("neuron")
    table.add_column("active, 95 %", justify="right", no_wrap=True)
    for name in ("mean", "maximum", "peaked"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("most active at", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("stands out on")
    table.add_column("contrast", justify="right", no_wrap=True)
    for _, row in frame.iterrows():
        interval = plus_minus(row["ci_low"], row["ci_high"], percent)
        table.add_row(
            row["component"],
            Text.assemble((percent(row["value"]), "bold"), interval),
            number(row["mean"], "+"),
            number(row["maximum"]),
            f"{row['peaked']:,.1f}",
            Text(visible(row["token"])),
            row["class"],
            number(row["contrast"], "+"),
        )
    yield table
    yield Text(
        "peaked: excess kurtosis of the activation over tokens; contrast: mean on the class minus "
        "mean elsewhere, in standard deviations",
        style="dim",
    )
