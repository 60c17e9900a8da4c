"""How effects look in a terminal: ablation, patching, paths, and what they would cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.tables import (
    MOST_ROWS,
    amount,
    asked_of,
    duration,
    more,
    new_table,
    number,
    on_one_line,
    percent,
)
from circuits.cli.terminal import visible
from circuits.result import Result

SPREAD = "spread: standard deviation of the effect over the templates"
WORST = 5  # estimates that are listed, of those that were checked


def ablation(result: Result, width: int) -> Iterator[RenderableType]:
    """Effects as a table; for all heads also as a grid, worst first."""
    frame = result.frame
    tasks = list(asked_of(frame))
    if len(tasks) == len(frame):
        yield _effects(frame)
    else:
        for of, rows in tasks:
            first = rows.iloc[0]
            yield Text(f"\n{of}: effect on {first['metric']} ({first['unit']})", "bold")
            yield from grid(rows, ("layer", "head"), width, float(rows["value"].abs().max()))
            yield _effects(rows.sort_values("rank", kind="stable").head(MOST_ROWS))
            yield from more(len(rows))
    units = frame[["metric", "unit"]].drop_duplicates().itertuples(index=False)
    notes = ["effect = ablated - clean", *(f"{name} in {unit}" for name, unit in units)]
    notes += ["rank 1 hurts most"] if frame["rank"].notna().any() else []
    if frame["rank"].isna().all() and frame["head"].notna().all():
        notes += ["--rank says its place among all heads"]
    if "direct" in frame:
        many = frame.drop_duplicates("task")[["task", "n"]].itertuples(index=False)
        notes += [f"means over {n} {task} prompts" for task, n in many if n > 1]
        notes += [
            "direct: straight to the logits; indirect = effect - direct, where it makes up for"
        ]
        notes[-1] += " direct damage the model repairs itself"
        notes += [
            "held: direct if the final LayerNorm kept its scale; direct less held is what its new "
            "scale makes up for"
        ]
    notes += [SPREAD] if "spread" in frame else []
    notes += [f"written instead: {' / '.join(frame['reference'].unique())}"]
    yield Text("; ".join(notes), style="dim")
    if "token_1" in frame and len(frame) == 1:
        yield from _changes(frame.iloc[0])


def patching(result: Result, width: int) -> Iterator[RenderableType]:
    """Effects as grids, and the largest as a table."""
    frame = result.frame
    subject = "edge" if "edge" in frame else "component"
    for of, rows in asked_of(frame):
        first = rows.iloc[0]
        yield Text(f"\n{of}: effect on {first['metric']} ({first['unit']})", "bold")
        ends = f"clean {number(first['clean'])}, corrupted {number(first['corrupted'])}"
        many = f"; means over {first['n']} prompts" if first["n"] > 1 else ""
        yield Text(ends + many, style="dim")
        if result.view == "heatmap" and result.axes[-2] != "template":
            largest = float(rows["value"].abs().max())
            panels = [name for name in result.axes[:-2] if name not in ("task", "template")]
            for names, part in rows.groupby(panels, sort=False) if panels else [((), rows)]:
                yield from (Text(f"at {name}", "bold") for name in names)
                yield from grid(part, (result.axes[-2], result.axes[-1]), width, largest)
        order = rows["value"].abs().sort_values(ascending=False, kind="stable").index
        yield _patches(rows.loc[order[:MOST_ROWS]], subject)
        yield from more(len(rows))
        if "exact" in frame:
            yield from checked(rows)
    yield Text("; ".join(_notes(result)), style="dim")


def planned(result: Result, width: int) -> Iterator[RenderableType]:
    """What a sweep would cost."""
    table = new_table()
    table.add_column("task", overflow="fold")
    for name in ("cells", "prompts", "forwards", "needed", "saved", "time", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in result.frame.iterrows():
        counts = [f"{round(row[name]):,}" for name in ("cells", "prompts", "forwards", "work")]
        costs = [percent(row["saved"]), duration(row["value"]), amount(row["bytes"])]
        table.add_row(Text(row["task"]), *counts, *costs)
    yield table
    yield Text(
        "forwards: passes through the whole model that one run for each cell and prompt would "
        "take; needed: what is left after all savings; time and memory are estimates from a short "
        "measurement. Nothing was run.",
        style="dim",
    )


def _effects(rows: pd.DataFrame) -> Table:
    if "direct" in rows:
        return _split_effects(rows)
    spread, words = _of_templates(rows)
    words += ["metric"]
    table = new_table()
    for name in words:
        table.add_column("without" if name == "component" else name, overflow="fold")
    ranked = ["rank"] if rows["rank"].notna().any() else []
    for name in ("clean", "ablated", "effect, 95 %", *spread, "n", *ranked):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        table.add_row(
            *(Text(on_one_line(row[name])) for name in words),
            *(number(row[name]) for name in ("clean", "ablated")),
            _with_interval(row, ("value", "ci_low", "ci_high"), "+"),
            *(number(row[name]) for name in spread),
            str(row["n"]),
            *(f"{row[name]} of {row['ranked']}" for name in ranked),
        )
    return table


def _of_templates(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Which columns tell templates apart, as numbers and as words?"""
    alone = rows["component"].nunique() == 1 and "template" in rows
    words = ["task", *(["template"] if alone else []), "component"]
    return (["spread"] if "spread" in rows else []), words


def _split_effects(rows: pd.DataFrame) -> Table:
    """Total, direct and indirect side by side: as much as 80 columns hold."""
    spread, words = _of_templates(rows)
    table = new_table()
    for name in words:
        table.add_column("without" if name == "component" else name, overflow="fold")
    ranked = ["rank"] if rows["rank"].notna().any() else []
    for name in ("clean", "effect, 95 %", "direct", "indirect", "held", *spread, *ranked):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        table.add_row(
            *(Text(on_one_line(row[name])) for name in words),
            number(row["clean"]),
            _with_interval(row, ("value", "ci_low", "ci_high"), "+"),
            *(
                _with_interval(row, (name, f"{name}_low", f"{name}_high"), "+")
                for name in ("direct", "indirect")
            ),
            number(row["direct_held"], "+"),
            *(number(row[name]) for name in spread),
            *(str(row[name]) for name in ranked),
        )
    return table


def _patches(rows: pd.DataFrame, subject: str) -> Table:
    checked = "exact" in rows
    table = new_table()
    table.add_column(subject, overflow="fold")
    spread = ["spread"] if "spread" in rows else []
    exact = ["really, 95 %"] if checked else []
    names = ("patched", "effect, 95 %", *spread, "share, 95 %", *exact)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        cells = [Text(row[subject]), Text(number(row["patched"]))]
        cells.append(_with_interval(row, ("value", "ci_low", "ci_high"), "+"))
        cells += [Text(number(row[name])) for name in spread]
        cells.append(_with_interval(row, ("share", "share_low", "share_high")))
        if checked:
            cells.append(_with_interval(row, ("exact", "exact_low", "exact_high"), "+"))
        table.add_row(*cells)
    return table


def _with_interval(row: pd.Series[Any], columns: tuple[str, str, str], sign: str = "") -> Text:
    value, low, high = (row[name] for name in columns)
    half = "" if pd.isna(low) else f" ± {number((high - low) / 2)}"
    return Text.assemble((number(value, sign), "bold"), half)


def _notes(result: Result) -> Iterator[str]:
    arguments, frame = result.provenance.arguments, result.frame
    of = "corrupted" if arguments["direction"] == "denoise" else "clean"
    yield f"effect = patched - {of}"
    if "edge" in frame:
        yield "share: of the effect of patching everything"
        if arguments.get("hold") == "heads":
            yield "heads held, MLPs between sender and receiver compute anew"
    else:
        yield "share: 0 is as corrupted, 1 is as clean"
    if "spread" in frame:
        yield SPREAD
    if result.provenance.analysis == "approximate":
        yield "effects are estimates by gradient"
        if "exact" not in frame:
            yield "--check N really patches the largest, --check all everything"


def checked(rows: pd.DataFrame) -> Iterator[RenderableType]:
    """Where estimates were checked: how they agree with exact effects, and the worst of them."""
    known = rows.dropna(subset=["exact"])
    table = new_table()
    table.add_column("worst estimates", no_wrap=True)
    for name in ("estimate", "exact, 95 %", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    order = known["error"].abs().sort_values(ascending=False, kind="stable").index
    for _, row in known.loc[order[:WORST]].iterrows():
        exact = _with_interval(row, ("exact", "exact_low", "exact_high"), "+")
        estimate, error = number(row["value"], "+"), number(row["error"], "+")
        table.add_row(row["component"], estimate, exact, error)
    yield table
    first = known.iloc[0]
    yield Text(
        f"agreement with exact patching over {len(known)} of {len(rows)} rows: "
        f"Pearson {number(first['pearson'])}, Spearman {number(first['spearman'])}",
        style="bold",
    )


def grid(
    rows: pd.DataFrame, axes: tuple[str, str], width: int, largest: float
) -> Iterator[RenderableType]:
    """Row by column, the nearer to the largest effect the stronger the color; if it fits."""
    row, column = axes
    order = {"index": rows[row].unique(), "columns": rows[column].unique()}
    cells = rows.pivot(index=row, columns=column, values="value").reindex(**order)
    names = [f"h{name}" if column == "head" else str(name) for name in cells.columns]
    largest = largest or 1.0
    digits = 2 if largest >= 1 else 3
    wide = max(6, len(f"{-largest:.{digits}f}"), *map(len, names))
    if (wide + 2) * (len(names) + 1) > width:
        size = f"{len(cells)} {row}s by {len(names)} {column}s"
        yield Text(f"{size} do not fit into this terminal; --figure FILE draws them", "dim")
        return
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(row, justify="right", style="dim")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, width=wide)
    for label, values in cells.iterrows():
        table.add_row(str(label), *(_shaded(float(value), largest, digits) for value in values))
    yield table


def _shaded(value: float, largest: float, digits: int) -> Text:
    if pd.isna(value):
        return Text("")
    color = "blue" if value > 0 else "dark_orange3"
    strong, weak = abs(value) > 0.5 * largest, abs(value) <= 0.1 * largest
    style = f"bold white on {color}" if strong else "dim" if weak else color
    shown = f"{value:+.{digits}f}"
    return Text("0" if float(shown) == 0 else shown, style=style)


def _changes(row: pd.Series[Any]) -> Iterator[RenderableType]:
    table = new_table()
    table.add_column("next token")
    for name in ("clean", "ablated", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    place = 1
    while f"token_{place}" in row:
        before, after = row[f"clean_{place}"], row[f"ablated_{place}"]
        token = visible(row[f"token_{place}"])
        table.add_row(Text(token), percent(before), percent(after), f"{after - before:+.1%}")
        place += 1
    yield Text(f"\nAfter the prompt, KL(clean || ablated) = {number(row['kl'])} nats", "bold")
    yield table
