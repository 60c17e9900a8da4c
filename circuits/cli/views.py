"""How each result looks in a terminal. What has no view of its own is shown as a plain table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli import (
    behavior,
    comparisons,
    effects,
    heads,
    looks,
    residual,
    walkthrough,
    weights,
)
from circuits.cli.tables import new_table, percent, plain
from circuits.cli.terminal import visible
from circuits.result import Result


def show(result: Result, console: Console) -> None:
    """Print the result: what was asked of which model, and the answer."""
    about = result.provenance
    console.print(Text(result.title, style="bold"))
    console.print(Text(f"model {about.model}, weights {about.checksum[:12]}", style="dim"))
    view = effects.planned if about.arguments.get("plan") else VIEWS.get(about.analysis, plain)
    for part in view(result, console.width):
        console.print(part)
    if about.population is not None and "ci_low" in result.frame:
        console.print(Text(f"95 % intervals: {about.population}", style="dim"))


def lens(result: Result, width: int) -> Iterator[RenderableType]:
    """One position as a table of stages; several as a grid of top tokens; targets by themselves."""
    frame = result.frame
    if "target" in frame:
        yield from residual.trajectories(frame)
        frame = frame.drop_duplicates(["position", "stage"])
    if frame["position"].nunique() == 1:
        yield _stages(frame, width)
        yield _takeover(frame)
    else:
        yield from _positions(frame, width)


VIEWS: Mapping[str, Callable[[Result, int], Iterator[RenderableType]]] = {
    "ablate": effects.ablation,
    "attention": looks.attention,
    "attribute": residual.attribution,
    "approximate": effects.patching,
    "composition": weights.composition,
    "diff": comparisons.difference,
    "heads": heads.report,
    "icl": behavior.in_context,
    "interchange": comparisons.interchange,
    "logit_lens": lens,
    "neurons": behavior.neurons,
    "ov": weights.tokens,
    "patch": effects.patching,
    "paths": effects.patching,
    "qk": weights.tokens,
    "tune_lens": residual.tuning,
    "why": residual.reasons,
    "walkthrough": walkthrough.walk,
}


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
    shown = next((one for one in tries if 8 * len(one) <= width), stages[-1:])
    return shown, max(4, min(12, width // len(shown) - 2))


def _colored(row: pd.Series[Any]) -> Text:
    p = float(row["probability"])
    style = "bold white on blue" if p > 0.5 else "blue" if p > 0.2 else "" if p > 0.05 else "dim"
    return Text(visible(row["token"]), style=style)
