"""How decompositions of the residual stream look in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.tables import MOST_ROWS, NONE, asked_of, more, new_table, number, percent
from circuits.cli.terminal import visible
from circuits.result import Result

_WIDE = 20  # cells of the longest bar


def attribution(result: Result, width: int) -> Iterator[RenderableType]:
    """What adds most to the answer, and what the approximation is worth."""
    spread = ["spread"] if "spread" in result.frame else []
    for of, rows in asked_of(result.frame):
        first = rows.iloc[0]
        yield Text(f"\n{of}: {number(first['total'])} {first['unit']}", "bold")
        yield Text("the sum of all rows" + _over(first["n"]), "dim")
        table = new_table()
        table.add_column("part", overflow="fold")
        table.add_column("adds, 95 %", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, width=_WIDE)
        for name in (*spread, "share", "recomputed", "error"):
            table.add_column(name, justify="right", no_wrap=True)
        largest = float(rows["value"].abs().max())
        order = rows["value"].abs().sort_values(ascending=False, kind="stable").index
        for _, row in rows.loc[order[:MOST_ROWS]].iterrows():
            table.add_row(
                Text(row["component"]),
                _with_interval(row),
                bar(row["value"], largest),
                *(number(row[name]) for name in spread),
                _share(row["share"]),
                number(row["recomputed"], "+"),
                number(row["error"], "+"),
            )
        yield table
        yield from more(len(rows))
        yield _worst(rows)
    yield Text(
        "adds: with the final LayerNorm's scale held; recomputed: what is lost without the part, "
        "LayerNorm computed anew; error: the first less the second"
        + ("; spread: standard deviation of the first over the templates" if spread else ""),
        style="dim",
    )


def reasons(result: Result, width: int) -> Iterator[RenderableType]:
    """Which parts ask for which: as a grid with its sums, and the strongest pairs."""
    frame, first = result.frame, result.frame.iloc[0]
    compared = result.provenance.arguments["against"] is not None
    total = f"; the difference taken apart: {number(first['total'], '+')}" if compared else ""
    yield Text(
        f"score {number(first['score'])}, attention {percent(first['weight'])}{total}"
        f"{_over(first['n'])}"
    )
    yield _grid(frame, width)
    table = new_table()
    for name in ("query part", "key part"):
        table.add_column(name, overflow="fold")
    table.add_column("adds, 95 %", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_WIDE)
    table.add_column("share", justify="right", no_wrap=True)
    largest = float(frame["value"].abs().max())
    order = frame["value"].abs().sort_values(ascending=False, kind="stable").index
    for _, row in frame.loc[order[:MOST_ROWS]].iterrows():
        cells = (Text(row["query_part"]), Text(row["key_part"]), _with_interval(row))
        table.add_row(*cells, bar(row["value"], largest), _share(row["share"]))
    yield table
    yield from more(len(frame))
    if not compared:
        yield Text(
            "softmax sees differences between keys only: --against mean, or --against POSITION, "
            "leaves out what is the same for all keys",
            style="dim",
        )


def trajectories(frame: pd.DataFrame) -> Iterator[RenderableType]:
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


def tuning(result: Result, width: int) -> Iterator[RenderableType]:
    """The KL of each stage before and after training."""
    frame = result.frame
    table = new_table()
    table.add_column("after", no_wrap=True)
    for name in ("logit lens, 95 %", "tuned lens, 95 %", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_WIDE)
    both = {str(name): rows.set_index("stage") for name, rows in frame.groupby("lens")}
    largest = float(frame["value"].max())
    for stage, row in both["tuned"].iterrows():
        table.add_row(
            str(stage),
            _with_interval(both["logit"].loc[str(stage)], ""),
            _with_interval(row, ""),
            f"{row['gain']:.0%}" if row["value"] else NONE,
            bar(row["value"], largest),
        )
    yield table
    first, arguments = frame.iloc[0], result.provenance.arguments
    yield Text(
        f"KL(final || stage) in nats on {first['n']} windows that were held out; trained on "
        f"{first['trained']} windows of {first['width']} tokens, {first['text']}. The lens is in "
        f"{arguments['out']}: circuits logit-lens PROMPT --lens {arguments['out']}",
        style="dim",
    )


def _grid(frame: pd.DataFrame, width: int) -> RenderableType:
    """Query parts by key parts, with the sums of rows and columns."""
    order = {"index": frame["query_part"].unique(), "columns": frame["key_part"].unique()}
    grid = frame.pivot(index="query_part", columns="key_part", values="value").reindex(**order)
    grid["all"] = grid.sum(axis=1)
    grid.loc["all"] = grid.sum(axis=0)
    wide = max(6, *(len(str(name)) for name in grid.columns))
    rows = max(len(str(name)) for name in grid.index)
    if rows + (wide + 1) * len(grid.columns) > width:
        return Text(
            "the grid of parts does not fit into this terminal; --figure FILE draws it", "dim"
        )
    largest = float(frame["value"].abs().max()) or 1.0
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("query \\ key", style="dim", no_wrap=True)
    for name in grid.columns:
        table.add_column(str(name), justify="right", no_wrap=True, width=wide)
    for label, values in grid.iterrows():
        table.add_row(str(label), *(_shaded(float(value), largest) for value in values))
    return table


def _shaded(value: float, largest: float) -> Text:
    """A number, the stronger colored the larger."""
    color = "blue" if value > 0 else "dark_orange3"
    strong, weak = abs(value) > 0.5 * largest, abs(value) <= 0.02 * largest
    shown = f"{value:+.2f}"
    style = f"bold white on {color}" if strong else "dim" if weak else color
    return Text("0" if float(shown) == 0 else shown, style=style)


def _share(value: float) -> str:
    return NONE if pd.isna(value) else f"{value:.1%}"


def bar(value: float, largest: float) -> Text:
    """As long as the number is large; blue above 0, orange below."""
    n = round(_WIDE * abs(value) / largest) if largest else 0
    return Text("━" * n, style="blue" if value > 0 else "dark_orange3")


def _with_interval(row: pd.Series[Any], sign: str = "+") -> Text:
    half = (row["ci_high"] - row["ci_low"]) / 2
    known = "" if pd.isna(half) else f" ± {number(half)}"
    return Text.assemble((number(row["value"], sign), "bold"), known)


def _over(n: int) -> str:
    return f"; means over {n} prompts" if n > 1 else ""


def _worst(rows: pd.DataFrame) -> Text:
    """Where does holding LayerNorm's scale mislead most?"""
    row = rows.iloc[int(rows["error"].abs().argmax())]
    kept = rows["value"].corr(rows["recomputed"])
    agree = "" if pd.isna(kept) else f"; over all parts, the two correlate with {kept:.2f}"
    return Text(
        f"the scale held errs most for {row['component']} ({number(row['error'], '+')}){agree}",
        style="dim",
    )
