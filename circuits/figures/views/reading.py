"""What views read of a result's table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from circuits.errors import CircuitsError
from circuits.figures.style import Interval, Numbers

if TYPE_CHECKING:
    from circuits.result import Result


def panels(result: Result, n_inner: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows by the values of all axes but the last `n_inner`, with a name for each part."""
    by = list(result.axes[:-n_inner])
    if not by:
        yield result.title, result.frame
        return
    for key, frame in result.frame.groupby(by, sort=False):
        yield " ".join(map(str, key)), frame


def table(frame: pd.DataFrame, row: str, by: str, column: str) -> pd.DataFrame:
    """One column as a grid over two others, both in order of appearance."""
    if column not in frame:
        raise CircuitsError(f"the result has no column {column!r}, which its figure shows")
    order = {"index": frame[row].unique(), "columns": frame[by].unique()}
    table: pd.DataFrame = frame.pivot(index=row, columns=by, values=column).reindex(**order)
    return table


def grid(frame: pd.DataFrame, row: str, by: str, column: str) -> Numbers:
    """The numbers of one column as a grid over two others."""
    return table(frame, row, by, column).to_numpy(float)


def interval(frame: pd.DataFrame) -> Interval | None:
    """Both ends of the rows' intervals; None where there are none."""
    if "ci_low" not in frame:
        return None
    return frame["ci_low"].to_numpy(float), frame["ci_high"].to_numpy(float)
