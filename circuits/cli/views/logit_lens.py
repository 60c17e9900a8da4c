"""What each layer would say next, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.tables import (
    new_table,
    percent,
)
from circuits.cli.terminal import visible
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """One position as a table of stages; several as a grid of top tokens; targets by themselves."""
    frame = result.frame
    if "target" in frame:
        yield from _trajectories(frame)
        frame = frame.drop_duplicates(["position", "stage"])
    if frame["position"].nunique() == 1:
        yield _stages(frame, width)
        yield _takeover(frame)
    else:
        yield from _positions(frame, width)


def _trajectories(frame: pd.DataFrame) -> Iterator[RenderableType]:
    """What becomes of the tokens that were asked for, stage by stage."""
    for position, rows in frame.groupby("position", sort=False):
        yield Text(f"\nafter {visible(str(rows['after'].iloc[0]))} ({position})", "bold")
        table = new_table()
        table.add_column("after", no_wrap=True)
        names = [str(name) for name in rows["target"].unique()]
        for name in names:
            table.add_column(Text(f"p({visible(name)})"), justify="right", no_wrap=True)
            table.add_column("rank", justify="right", no_wrap=True)
            table.add_column("logit", justify="right", no_wrap=True)
        for stage, at in rows.groupby("stage", sort=False):
            cells = [
                cell
                for _, row in at.iterrows()
                for cell in (
                    percent(row["value"]),
                    str(row["target_rank"]),
                    f"{row['target_logit']:.2f}",
                )
            ]
            table.add_row(str(stage), *cells)
        yield table


def _stages(frame: pd.DataFrame, width: int) -> Table:
    answer = visible(frame["answer"].iloc[0])
    if cell_len(answer) > 12:
        answer = answer[:11] + "…"
    numbers = {f"p({answer})": cell_len(answer) + 3, "rank": 5, "entropy": 7, "KL": 5}
    table = new_table()
    table.add_column("after", no_wrap=True, min_width=5)
    room = width - sum(numbers.values()) - 18
    table.add_column("top tokens", no_wrap=True, overflow="ellipsis", max_width=max(room, 12))
    for name, wide in numbers.items():
        table.add_column(Text(name), justify="right", no_wrap=True, min_width=wide)
    for _, row in frame.iterrows():
        table.add_row(
            row["stage"],
            _top_tokens(row),
            percent(row["answer_probability"]),
            str(row["answer_rank"]),
            f"{row['entropy']:.2f}",
            f"{row['kl']:.2f}",
            style="bold" if row["takes_over"] else None,
        )
    return table


def _top_tokens(row: pd.Series[Any]) -> Text:
    text, place = Text(), 1
    while (name := "token" if place == 1 else f"token_{place}") in row:
        probability = row["probability" if place == 1 else f"probability_{place}"]
        text.append(f"{visible(row[name])} ")
        text.append(f"{percent(probability)}   ", style="dim")
        place += 1
    return text


def _takeover(frame: pd.DataFrame) -> Text:
    row = frame[frame["takes_over"]].iloc[0]
    last = frame.iloc[-1]
    return Text.assemble(
        (visible(row["answer"]), "bold"),
        " takes over after ",
        (row["stage"], "bold"),
        " and stays on top" if row["stage"] != last["stage"] else ", the last stage",
        f"; the model gives it {percent(last['answer_probability'])}",
    )


def _positions(frame: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    stages = list(frame["stage"].unique())
    shown, cell = _fitting(stages, width - 22)
    table = new_table()
    table.add_column("", justify="right", style="dim")
    table.add_column("token", no_wrap=True, width=9, overflow="ellipsis")
    for stage in shown:
        table.add_column(stage, no_wrap=True, width=cell, overflow="ellipsis")
    table.add_column("from", no_wrap=True)
    for position, rows in frame.groupby("position"):
        by_stage = rows.set_index("stage")
        cells = [_colored(by_stage.loc[stage]) for stage in shown]
        since = rows.loc[rows["takes_over"], "stage"].iloc[0]
        table.add_row(str(position), Text(visible(rows["after"].iloc[0])), *cells, since)
    yield table
    hidden = "" if shown == stages else f"; {len(shown)} of {len(stages)} stages shown"
    yield Text(
        f"top token after each stage; from: where the final one takes over{hidden}", style="dim"
    )


def _fitting(stages: list[str], width: int) -> tuple[list[str], int]:
    """As many stages as fit, the last among them, MLPs first; and the width of their columns."""
    after_mlps = stages[2::2]
    tries = [stages, stages[::2], after_mlps]
    tries += [after_mlps[::-k][::-1] for k in range(2, len(after_mlps) + 1)]
    shown = next((some for some in tries if 8 * len(some) <= width), stages[-1:])
    return shown, max(4, min(12, width // len(shown) - 2))


def _colored(row: pd.Series[Any]) -> Text:
    p = float(row["probability"])
    style = "bold white on blue" if p > 0.5 else "blue" if p > 0.2 else "" if p > 0.05 else "dim"
    return Text(visible(row["token"]), style=style)
