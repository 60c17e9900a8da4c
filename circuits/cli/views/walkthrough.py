"""The walkthrough in a terminal: what is computed, in which order, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import new_table, number, percent
from circuits.cli.terminal import visible
from circuits.result import Result
from circuits.steps import STEPS


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """The steps of the first pass, with one block for all, and the token that each pass writes."""
    frame = result.frame
    first = frame[frame["step"] == 0]
    table = new_table()
    table.add_column("step", no_wrap=True)
    table.add_column("what", no_wrap=True, overflow="ellipsis", max_width=max(width - 45, 20))
    table.add_column("shape", no_wrap=True)
    table.add_column("norm", justify="right", no_wrap=True)
    for row in first[first["layer"].fillna(0) == 0].itertuples(index=False):
        name = str(row.stage).partition(".")[0]
        table.add_row(row.stage, STEPS[name].does, row.shape, number(row.value))
    yield table
    more = int(first["layer"].max())
    if more:
        yield Text(f"{more} more blocks with the same steps as block 0 follow it", style="dim")
    read = "".join(_labels(frame, "tokens", 0))
    for step in range(frame["step"].nunique()):
        token = _labels(frame, "next", step)[0]
        share = json.loads(_cell(frame, "next", step, "values"))[0]
        yield Text.assemble(visible(read), " → ", (visible(token), "bold"), f"  {percent(share)}")
        read += token
    yield Text("every number, step by step: --html FILE", style="dim")


def _labels(frame: pd.DataFrame, stage: str, step: int) -> list[str]:
    labels: list[str] = json.loads(_cell(frame, stage, step, "labels"))
    return labels


def _cell(frame: pd.DataFrame, stage: str, step: int, column: str) -> str:
    return str(frame.loc[(frame["stage"] == stage) & (frame["step"] == step), column].iloc[0])
