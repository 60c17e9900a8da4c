"""Losses in context, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import (
    new_table,
    number,
    with_interval,
)
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Each curve's mean, its difference, and its course as a line of blocks."""
    frame = result.frame
    low, high = float(frame["value"].min()), float(frame["value"].max())
    table = new_table()
    table.add_column("curve")
    for name in ("mean loss, 95 %", "difference, 95 %", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    room = min(60, width - 55)
    table.add_column("by position", no_wrap=True, min_width=room)
    for curve, rows in frame.groupby("curve", sort=False):
        first = rows.iloc[0]
        itself = curve == "copy 1"
        table.add_row(
            str(curve),
            with_interval(first, columns=("mean", "mean_low", "mean_high")),
            Text("") if itself else with_interval(first, "+", ("score", "score_low", "score_high")),
            str(int(first["n"])),
            Text(_line(rows["value"].to_numpy(float), low, high, room), "blue"),
        )
    yield table
    compared = frame.loc[frame["curve"] != "copy 1", "score_of"].iloc[-1]
    alone = frame["curve"].nunique() == 1
    what = compared if alone else "loss minus copy 1's, without each copy's first token"
    yield Text(
        f"nats per token; difference: {what}, negative where the context helps; lines go from "
        f"{number(low)} (▁) to {number(high)} (█)",
        style="dim",
    )


_LEVELS = "▁▂▃▄▅▆▇█"


def _line(values: NDArray[np.float64], low: float, high: float, room: int) -> str:
    """The values as blocks of eight heights, several in one where there are too many."""
    parts = np.array_split(values, min(room, len(values)))
    share = (np.array([part.mean() for part in parts]) - low) / ((high - low) or 1)
    return "".join(_LEVELS[int(level)] for level in np.clip(share * 8, 0, 7))
