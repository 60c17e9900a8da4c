"""How alike circuits are, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.tables import MOST_ROWS, NONE, more, new_table, number
from circuits.result import Result

NAMES = ("level", "circuit", "reference")
_MOST_IN_ROWS = 3  # circuits that are shown pair by pair; more make a matrix
_MOST_POINTS = 5  # of a curve
_SCORES = {
    "parts scored in both": "n_scored",
    "rank correlation": "spearman_absolute",
    "signed": "spearman_signed",
    "ROC area": "roc_absolute",
    "signed ": "roc_signed",
    "at its size": "at_size_absolute",
    "signed  ": "at_size_signed",
}


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """What was compared, then what is shared, or which parts are not, or the curves."""
    yield Text(result.provenance.source.replace("; ", "\n"), style="dim", overflow="fold")
    if "only_in" in result.frame:
        yield from _parts(result.frame)
    elif "ranking" in result.frame:
        yield from _curves(result)
    else:
        yield from _overlap(result.frame)


def _overlap(frame: pd.DataFrame) -> Iterator[RenderableType]:
    names = frame["circuit"].unique()
    if len(names) > _MOST_IN_ROWS and frame["reference"].nunique() > 1:
        for level, rows in frame.groupby("level", sort=False):
            yield _matrix(str(level), rows, list(names))
        yield Text("Jaccard index; all other numbers with --csv, --json or --save DIR", style="dim")
        return
    table = _table(frame)
    for name in ("both", "only here", "only there", "Jaccard", "by chance", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("precision", "recall", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in frame.head(2 * MOST_ROWS).iterrows():
        counts = [str(row[n]) for n in ("n_both", "only_circuit", "only_reference")]
        shares = [number(row[n]) for n in ("expected_jaccard", "p_value")]
        truth = [number(row[n]) for n in ("precision", "recall", "f1")]
        value = Text(number(row["value"]), style="bold")
        table.add_row(*_labels(row, frame), *counts, value, *shares, *truth)
    yield table
    scored = frame[(frame["n_scored"] > 0) | frame["roc_absolute"].notna()]
    if len(scored):
        yield _of_scores(scored)
    yield Text(
        "by chance, p: of random circuits of the same sizes, exactly; precision, recall: if the "
        "reference is the truth",
        style="dim",
    )
    if len(scored):
        yield Text(
            "signed: by how much worse the metric gets without a part; ROC area, at its size: how "
            "the circuit's scores find the reference (ties gain nothing)",
            style="dim",
        )
    if (~frame["same_weights"].fillna(True)).any():
        yield Text("some of the circuits are of other weights than the others", style="bold")


def _curves(result: Result) -> Iterator[RenderableType]:
    """Where each curve is, at some of the sizes at which it turns."""
    frame, (ranking, x) = result.frame, result.axes[-2:]
    labels = [name for name in (*NAMES, ranking) if frame[name].nunique() > 1]
    table = new_table()
    for name in labels:
        table.add_column(name, overflow="fold")
    for name in ("parts taken", x.replace("_", " "), result.unit):
        table.add_column(name, justify="right", no_wrap=True)
    for _, points in frame.groupby([*NAMES, ranking], sort=False):
        for step, (_, row) in enumerate(points.iloc[_places(len(points))].iterrows()):
            names = [Text("" if step else str(row[name])) for name in labels]
            table.add_row(*names, str(row["size"]), number(row[x]), number(row["value"]))
        table.add_section()
    yield table
    yield Text("--figure FILE draws the curves; ties gain nothing", style="dim")


def _places(n: int) -> list[int]:
    """Some of so many rows, the first and the last among them.

    >>> _places(3), _places(100)
    ([0, 1, 2], [0, 25, 50, 74, 99])
    """
    n_shown = min(n, _MOST_POINTS)
    return [round(i * (n - 1) / max(1, n_shown - 1)) for i in range(n_shown)]


def _of_scores(frame: pd.DataFrame) -> Table:
    table = _table(frame)
    for title in _SCORES:
        table.add_column(title, justify="right", no_wrap=True)
    for _, row in frame.head(2 * MOST_ROWS).iterrows():
        n_scored, *others = (row[name] for name in _SCORES.values())
        table.add_row(*_labels(row, frame), str(n_scored), *map(number, others))
    return table


def _matrix(level: str, frame: pd.DataFrame, names: Sequence[str]) -> Table:
    """Jaccard indices of all pairs; the columns have the numbers of the rows."""
    known = {(a, b): x for a, b, x in frame[["circuit", "reference", "value"]].to_numpy().tolist()}
    table = new_table()
    table.add_column("")
    table.add_column(level, overflow="fold")
    for i in range(1, len(names) + 1):
        table.add_column(str(i), justify="right", no_wrap=True)
    for i, a in enumerate(names, start=1):
        cells = [number(known[a, b]) if (a, b) in known else NONE for b in names]
        table.add_row(str(i), Text(a), *cells)
    return table


def _parts(frame: pd.DataFrame) -> Iterator[RenderableType]:
    for (name, other), rows in frame.groupby(["only_in", "other"], sort=False):
        yield Text(f"{len(rows)} {rows['level'].iloc[0]} in {name} that {other} lacks", "bold")
        table = new_table()
        table.add_column("part", no_wrap=True)
        for title in ("score", "rank", f"in {other}"):
            table.add_column(title, justify="right", no_wrap=True)
        for _, row in rows.head(MOST_ROWS).iterrows():
            rank = NONE if pd.isna(row["rank"]) else str(row["rank"])
            scores = number(row["value"], "+"), rank, number(row["value_other"], "+")
            table.add_row(Text(row["part"]), *scores)
        yield table
        yield from more(len(rows))
    if frame.empty:
        yield Text("none: the circuits have the same parts")


def _table(frame: pd.DataFrame) -> Table:
    table = new_table()
    for name in _shown(frame):
        table.add_column(name, overflow="fold")
    return table


def _labels(row: pd.Series[str], frame: pd.DataFrame) -> list[Text]:
    return [Text(str(row[name])) for name in _shown(frame)]


def _shown(frame: pd.DataFrame) -> list[str]:
    """Of the names those that are needed to tell the rows apart; the first two always."""
    return [name for name in NAMES if name != "reference" or frame[name].nunique() > 1]
