"""What heads match by their weights, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.matrices import matrix
from circuits.cli.tables import MOST_ROWS, more, new_table, number, percent
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """Which keys a head's queries match, tokens or positions; of all heads, scores."""
    if "offset" in result.frame:
        return _offsets(result.frame)
    return matrix(result, width, row="query", column="key", score="matching")


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
