"""How comparisons look in a terminal: interchange interventions, and two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.effects import grid
from circuits.cli.tables import MOST_ROWS, NONE, more, new_table, number, percent
from circuits.result import Result


def interchange(result: Result, width: int) -> Iterator[RenderableType]:
    """Accuracies as grids, and the best as a table; of subspaces, all of them and a verdict."""
    for (task, variable), rows in result.frame.groupby(["task", "variable"], sort=False):
        first = rows.iloc[0]
        yield Text(f"\n{task}: {variable}", "bold")
        yield Text(
            f"the model as it is gives the graph's answer in {percent(first['clean'])} of prompts; "
            f"{first['n']} pairs move the answer, {first['n_kept']} keep it",
            style="dim",
        )
        if "subspace" in rows:
            yield _accuracies(rows, "subspace")
            yield _verdict(rows)
            continue
        if result.view == "heatmap":
            yield from _grids(result, rows, width)
        order = rows["value"].sort_values(ascending=False, kind="stable").index
        yield _accuracies(rows.loc[order[:MOST_ROWS]], "component")
        yield from more(len(rows))
    notes = "accuracy: share of moved pairs with the predicted answer; kept: of the others"
    if "control" in result.frame:
        notes += "; elsewhere: mean accuracy at other places of the kind"
    yield Text(notes, style="dim")


def _grids(result: Result, rows: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    panels = [name for name in result.axes[:-2] if name not in ("task", "variable")]
    for names, part in rows.groupby(panels, sort=False) if panels else [((), rows)]:
        yield from (Text(f"at {name}", "bold") for name in names)
        yield from grid(part, (result.axes[-2], result.axes[-1]), width, 1.0)


def _accuracies(rows: pd.DataFrame, subject: str) -> Table:
    more_columns = {"dimensions": "dim.", "kept": "kept", "both": "both", "control": "elsewhere"}
    shown = {name: title for name, title in more_columns.items() if name in rows}
    table = new_table()
    table.add_column(subject, overflow="fold")
    for title in ("accuracy", "95 %", *shown.values()):
        table.add_column(title, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        interval = f"{row['ci_low']:.0%} to {row['ci_high']:.0%}" if row["n"] else NONE
        cells = [_share(row, name) for name in shown]
        table.add_row(
            Text(row[subject]), Text(_share(row, "value"), style="bold"), interval, *cells
        )
    return table


def _share(row: pd.Series[Any], name: str) -> str:
    if pd.isna(row[name]):
        return NONE
    return str(row[name]) if name == "dimensions" else percent(row[name])


def _verdict(rows: pd.DataFrame) -> Text:
    by = rows.set_index("subspace")
    learned, read = (by.loc[name] for name in ("learned", "read"))
    share = percent(learned["share_read"])
    if learned["illusion"]:
        return Text.assemble(
            ("An illusion: ", "bold dark_orange3"),
            f"the learned subspace works ({percent(learned['value'])}) only with the part of it "
            f"that nothing later reads; the part that is read ({share} of it) alone reaches "
            f"{percent(read['value'])}.",
        )
    if learned["ci_low"] <= by.loc["random", "ci_high"]:
        return Text("No subspace was found that works clearly better than a random one.")
    hint = " --reader asks about a single reader." if learned["share_read"] > 0.99 else ""
    return Text.assemble(
        ("No illusion: ", "bold"),
        f"{share} of the learned subspace is read by some later part, and that alone reaches "
        f"{percent(read['value'])}.{hint}",
    )


def difference(result: Result, width: int) -> Iterator[RenderableType]:
    """What changed most, both models side by side."""
    frame = result.frame
    shared = frame[frame["only_in"].isna()]
    changed = shared[shared["value"] != 0]
    yield Text(f"{len(shared)} rows in both, {len(changed)} of them changed", style="dim")
    order = changed["value"].abs().sort_values(ascending=False, kind="stable").index
    labels = _labels(result)
    table = new_table()
    for name in labels:
        table.add_column(name, overflow="fold")
    for title in ("model", "other", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    for _, row in changed.loc[order[:MOST_ROWS]].iterrows():
        names = [Text(NONE if pd.isna(row[name]) else str(row[name])) for name in labels]
        numbers = [number(row["value_a"]), number(row["value_b"])]
        table.add_row(*names, *numbers, _changed(row))
    if len(changed):
        yield table
    yield from more(len(changed))
    for model, rows in frame.dropna(subset=["only_in"]).groupby("only_in", sort=False):
        listed = [" ".join(str(row[name]) for name in labels) for _, row in rows.iterrows()]
        others = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        yield Text(f"only in {model}: {', '.join(listed[:5])}{others}", style="dim")
    notes = f"change: other - model, in {result.unit}"
    if "norm" in frame:
        notes = "model, other: norm of the weights; change: norm of the difference, over model"
    elif "n" in frame and not changed["paired"].all():
        notes += "; intervals as if the two were independent, which is rather too wide"
    yield Text(notes, style="dim")


def _labels(result: Result) -> list[str]:
    """The columns that name a row: the component says layer and head, too."""
    columns = [str(name) for name in result.frame]
    keys = columns[: columns.index("value_a")]
    if "component" in keys or "edge" in keys:
        keys = [
            name for name in keys if name not in ("layer", "head", "position", "part", "metric")
        ]
    return [name for name in keys if result.frame[name].nunique() > 1] or keys[:1]


def _changed(row: pd.Series[Any]) -> Text:
    half = row["ci_high"] - row["ci_low"] if "ci_low" in row else float("nan")
    interval = "" if pd.isna(half) else f" ± {number(half / 2)}"
    return Text.assemble((number(row["value"], "+"), "bold"), interval)
