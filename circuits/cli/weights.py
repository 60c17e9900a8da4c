"""How weights look in a terminal: what heads match and write, and who could read whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.effects import grid
from circuits.cli.tables import MOST_ROWS, more, new_table, number, percent
from circuits.cli.terminal import visible
from circuits.result import Result

_WORDS = {"ov": ("source", "destination", "copying"), "qk": ("query", "key", "matching")}


def tokens(result: Result, width: int) -> Iterator[RenderableType]:
    """What a head's token-to-token matrix says; of all heads, a grid of scores."""
    frame = result.frame
    row, column, score = _WORDS[result.provenance.analysis]
    if "pair" in frame:
        yield _pairs(frame, row, column, result.unit)
        yield Text(f"{result.unit} relative to the {row}'s mean; sd: over all entries", "dim")
    elif "within" in frame:
        yield from _diagonal(frame)
    elif "offset" in frame:
        yield from _offsets(frame)
    elif "eigenvalue" in frame:
        yield from _eigenvalues(frame, score)
    elif "reading" in frame:
        yield _directions(frame, row, column)
        yield Text(f"+ and -: {row} tokens at this end write or match those {column}s", "dim")
    else:
        yield from grid(frame, ("layer", "head"), width, 1.0)
        yield _ranked(frame, score)
        yield from more(len(frame))
        yield Text(
            f"{score}: sum of eigenvalues over sum of their sizes; control: with shuffled tokens; "
            "spread: root mean square of the head's matrix",
            style="dim",
        )


def composition(result: Result, width: int) -> Iterator[RenderableType]:
    """The pairs that stand out by slot; or directions; or what path patching says."""
    frame = result.frame
    if "agreement" in frame:
        yield from _checked(frame)
        return
    if "direction" in frame:
        yield _table(frame, ("edge", "direction"), ("strength", "score", "baseline", "z", "share"))
        yield Text(
            "strength: share of what the sender writes; score: how much of this direction the "
            "receiver reads; share: of the pair's squared score",
            style="dim",
        )
        return
    for slot, rows in frame.groupby("slot", sort=False):
        yield Text(f"\n{_SLOTS[str(slot)]}", "bold")
        best = rows.sort_values("z", ascending=False, kind="stable").head(MOST_ROWS)
        yield _table(best, ("edge",), ("score", "baseline", "z"))
        yield from more(len(rows))
    yield Text(
        "score: |W_A W_B| / (|W_A| |W_B|); baseline: with what is written turned at random; z: "
        "standard deviations above that",
        style="dim",
    )


_SLOTS = {"q": "read by queries", "k": "read by keys", "v": "read by values"}


def _table(frame: pd.DataFrame, names: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = new_table()
    for name in names:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in frame.iterrows():
        cells = (_cell(name, row[name]) for name in numbers)
        table.add_row(*(Text(str(row[name])) for name in names), *cells)
    return table


def _cell(name: str, value: float) -> str:
    if name in ("strength", "share"):
        return percent(value)
    return f"{value:+.1f}" if name == "z" and not pd.isna(value) else number(value)


def _checked(frame: pd.DataFrame) -> Iterator[RenderableType]:
    for task, rows in frame.groupby("task", sort=False):
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
                half = (row["ci_high"] - row["ci_low"]) / 2
                interval = "" if pd.isna(half) else f"± {number(half)}"
                effect = Text(number(row["value"], "+"), "bold")
                z = f"{row['z']:+.1f}"
                table.add_row(Text(row["edge"]), z, effect, interval, percent(row["share"]))
        yield table
        if pd.isna(first["agreement"]):
            yield Text("z and the effects cannot be compared: one of them is constant", "dim")
            continue
        among = f" (p = {first['p_value']:.2g} among random orders within each {first['blocks']})"
        if pd.isna(first["p_value"]):
            among = f" (no {first['blocks']} has two pairs to compare with chance)"
        yield Text.assemble(
            "rank correlation of z and the effect's size: ",
            (f"{first['agreement']:+.2f}", "bold"),
            among,
        )


def _pairs(frame: pd.DataFrame, row: str, column: str, unit: str) -> Table:
    table = new_table()
    table.add_column(row, no_wrap=True, max_width=24, overflow="ellipsis")
    table.add_column(column, no_wrap=True, max_width=24, overflow="ellipsis")
    for title in (unit, "sd"):
        table.add_column(title, justify="right", no_wrap=True)
    before = 0
    for _, pair in frame.iterrows():
        if pair["place"] * before < 0 or (before and abs(pair["place"]) == 1):
            table.add_section()
        before = pair["place"]
        names = (Text(visible(pair[row])), Text(visible(pair[column])))
        table.add_row(*names, number(pair["value"], "+"), f"{pair['deviations']:+.1f}")
    return table


def _diagonal(frame: pd.DataFrame) -> Iterator[RenderableType]:
    own, chance = (frame[frame["matrix"] == name] for name in ("this head", "random"))
    table = new_table()
    table.add_column("own token in the")
    for title in ("this head", "random"):
        table.add_column(title, justify="right", no_wrap=True)
    for (_, ours), (_, theirs) in zip(own.iterrows(), chance.iterrows(), strict=True):
        table.add_row(ours["within"], percent(ours["value"]), percent(theirs["value"]))
    yield table
    first = own.iloc[0]
    yield Text.assemble(
        "mean rank of the own token: ",
        (f"{first['mean_rank']:,.1f}", "bold"),
        f" ({chance.iloc[0]['mean_rank']:,.1f} at random), over {first['tokens']:,} tokens",
    )


def _offsets(frame: pd.DataFrame) -> Iterator[RenderableType]:
    by_share = frame.sort_values(["best", "value"], ascending=False, kind="stable")
    table = new_table()
    for title in ("positions back", "mean score", "lowest", "highest", "best for"):
        table.add_column(title, justify="right", no_wrap=True)
    for _, row in by_share.head(MOST_ROWS).iterrows():
        scores = (number(row[name], "+") for name in ("value", "lowest", "highest"))
        table.add_row(str(row["offset"]), *scores, percent(row["best"]))
    yield table
    yield from more(len(frame))
    yield Text(
        "scores relative to the mean of the query's keys; best for: share of queries whose highest "
        "score is here",
        style="dim",
    )


def _eigenvalues(frame: pd.DataFrame, score: str) -> Iterator[RenderableType]:
    first = frame.iloc[0]
    yield Text.assemble(
        f"{score} score ",
        (f"{first[score]:+.3f}", "bold"),
        f" (with shuffled tokens {first['control']:+.3f})",
    )
    table = _table(frame.head(MOST_ROWS), ("eigenvalue",), ("value", "real", "imaginary"))
    table.columns[1].header = "size"
    yield table
    yield from more(len(frame))


def _directions(frame: pd.DataFrame, row: str, column: str) -> Table:
    table = new_table()
    table.add_column("", no_wrap=True)
    for title in ("size", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in (f"{row}s", f"{column}s"):
        table.add_column(title, ratio=1)
    for _, one in frame.head(2 * MOST_ROWS).iterrows():
        ends = (Text(" ".join(_read(one, side)), overflow="fold") for side in (row, column))
        name = f"{one['direction']}{one['sign']}"
        table.add_row(name, number(one["value"]), percent(one["share"]), *ends)
    return table


def _read(row: pd.Series[Any], side: str) -> Iterator[str]:
    place = 1
    while f"{side}_{place}" in row:
        yield visible(row[f"{side}_{place}"])
        place += 1


def _ranked(frame: pd.DataFrame, score: str) -> Table:
    best = frame.sort_values("value", ascending=False, kind="stable").head(MOST_ROWS)
    table = _table(best, ("component",), ("value", "control", "spread"))
    table.columns[1].header = score
    return table
