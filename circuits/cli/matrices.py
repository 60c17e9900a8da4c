"""What the token-to-token matrices of heads say: entries, ranks, eigenvalues and directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.grids import grid
from circuits.cli.tables import MOST_ROWS, more, new_table, number, percent, table_of
from circuits.cli.terminal import visible
from circuits.result import Result


def matrix(
    result: Result, width: int, *, row: str, column: str, score: str
) -> Iterator[RenderableType]:
    """What one head's matrix says, in the way that was asked for; of all heads, a grid of scores.

    `row`, `column` and `score` are what the result's columns call the matrix' rows and columns and
    the score of its eigenvalues.
    """
    frame = result.frame
    if "pair" in frame:
        yield _pairs(frame, row, column, result.unit)
        yield Text(f"{result.unit} relative to the {row}'s mean; sd: over all entries", "dim")
    elif "within" in frame:
        yield from _diagonal(frame)
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
    """How high each token's own entry ranks in its row, beside a random matrix."""
    of_head, of_random = (frame[frame["matrix"] == name] for name in ("this head", "random"))
    table = new_table()
    table.add_column("own token in the")
    for title in ("this head", "random"):
        table.add_column(title, justify="right", no_wrap=True)
    for (_, head), (_, random) in zip(of_head.iterrows(), of_random.iterrows(), strict=True):
        table.add_row(head["within"], percent(head["value"]), percent(random["value"]))
    yield table
    first = of_head.iloc[0]
    yield Text.assemble(
        "mean rank of the own token: ",
        (f"{first['mean_rank']:,.1f}", "bold"),
        f" ({of_random.iloc[0]['mean_rank']:,.1f} at random), over {first['tokens']:,} tokens",
    )


def _eigenvalues(frame: pd.DataFrame, score: str) -> Iterator[RenderableType]:
    first = frame.iloc[0]
    yield Text.assemble(
        f"{score} score ",
        (f"{first[score]:+.3f}", "bold"),
        f" (with shuffled tokens {first['control']:+.3f})",
    )
    table = table_of(frame.head(MOST_ROWS), ["eigenvalue"], ["value", "real", "imaginary"])
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
    for _, direction in frame.head(2 * MOST_ROWS).iterrows():
        ends = (" ".join(_tokens(direction, side)) for side in (row, column))
        table.add_row(
            f"{direction['direction']}{direction['sign']}",
            number(direction["value"]),
            percent(direction["share"]),
            *(Text(end, overflow="fold") for end in ends),
        )
    return table


def _tokens(direction: pd.Series[Any], side: str) -> Iterator[str]:
    """The tokens as which one side of a direction reads, best first."""
    place = 1
    while f"{side}_{place}" in direction:
        yield visible(direction[f"{side}_{place}"])
        place += 1


def _ranked(frame: pd.DataFrame, score: str) -> Table:
    best = frame.sort_values("value", ascending=False, kind="stable").head(MOST_ROWS)
    table = table_of(best, ["component"], ["value", "control", "spread"])
    table.columns[1].header = score
    return table
