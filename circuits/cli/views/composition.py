"""Which parts could read which by their weights, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import MOST_ROWS, more, new_table, number, percent, plus_minus, table_of
from circuits.result import Result

_SLOTS = {"q": "read by queries", "k": "read by keys", "v": "read by values"}


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """The pairs that stand out by slot; or directions; or what path patching says."""
    frame = result.frame
    if "agreement" in frame:
        for task, rows in frame.groupby("task", sort=False):
            yield from _checked(str(task), rows)
    elif "direction" in frame:
        numbers = ["strength", "score", "baseline", "z", "share"]
        yield table_of(frame, ["edge", "direction"], numbers, _shown)
        yield Text(
            "strength: share of what the sender writes; score: how much of this direction the "
            "receiver reads; share: of the pair's squared score",
            style="dim",
        )
    else:
        yield from _standing_out(frame)


def _standing_out(frame: pd.DataFrame) -> Iterator[RenderableType]:
    """The pairs with the highest z of each slot."""
    for slot, rows in frame.groupby("slot", sort=False):
        yield Text(f"\n{_SLOTS[str(slot)]}", "bold")
        best = rows.sort_values("z", ascending=False, kind="stable").head(MOST_ROWS)
        yield table_of(best, ["edge"], ["score", "baseline", "z"], _shown)
        yield from more(len(rows))
    yield Text(
        "score: |W_A W_B| / (|W_A| |W_B|); baseline: with what is written turned at random; z: "
        "standard deviations above that",
        style="dim",
    )


def _shown(name: str, value: float) -> str:
    if name in ("strength", "share"):
        return percent(value)
    return f"{value:+.1f}" if name == "z" and not pd.isna(value) else number(value)


def _checked(task: str, rows: pd.DataFrame) -> Iterator[RenderableType]:
    """What patching the chosen pairs does, and whether z ranks them alike."""
    first = rows.iloc[0]
    yield Text(f"\n{task}: effect on {first['metric']} ({first['unit']})", "bold")
    many = f"; means over {first['n']} prompts" if first["n"] > 1 else ""
    ends = f"clean {number(first['clean'])}, corrupted {number(first['corrupted'])}{many}"
    yield Text(ends, style="dim")
    table = new_table()
    table.add_column("edge")
    for title in ("z", "effect", "95 %", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for chosen, part in rows.groupby("chosen", sort=False):
        table.add_section()
        table.add_row(Text(f"{chosen} pairs", "dim"))
        for _, row in part.iterrows():
            interval = plus_minus(row["ci_low"], row["ci_high"]).strip()
            effect = Text(number(row["value"], "+"), "bold")
            z = f"{row['z']:+.1f}"
            table.add_row(Text(row["edge"]), z, effect, interval, percent(row["share"]))
    yield table
    yield _agreement(first["agreement"], first["p_value"], first["blocks"])


def _agreement(correlation: float, p_value: float, blocks: str) -> Text:
    if pd.isna(correlation):
        return Text("z and the effects cannot be compared: one of them is constant", "dim")
    among = f" (p = {p_value:.2g} among random orders within each {blocks})"
    if pd.isna(p_value):
        among = f" (no {blocks} has two pairs to compare with chance)"
    return Text.assemble(
        "rank correlation of z and the effect's size: ", (f"{correlation:+.2f}", "bold"), among
    )
