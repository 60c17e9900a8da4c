"""How each result looks in a terminal. What has no view of its own is shown as a plain table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.terminal import visible
from circuits.result import Result

MOST_ROWS = 10
NONE = "–"


def show(result: Result, console: Console) -> None:
    """Print the result: what was asked of which model, and the answer."""
    about = result.provenance
    console.print(Text(result.title, style="bold"))
    console.print(Text(f"model {about.model}, weights {about.checksum[:12]}", style="dim"))
    for part in VIEWS.get(about.analysis, plain)(result, console.width):
        console.print(part)


def plain(result: Result, width: int) -> Iterator[RenderableType]:
    """Any result: its first rows as they are."""
    frame = result.frame
    table = _new_table()
    for name in frame.columns:
        is_number = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name), justify="right" if is_number else "left")
    for row in frame.head(MOST_ROWS).itertuples(index=False):
        table.add_row(*map(_cell, row))
    yield table
    yield from _more(len(frame))


def ablation(result: Result, width: int) -> Iterator[RenderableType]:
    """Effects as a table; for all heads also as a grid, worst first."""
    frame = result.frame
    tasks = [rows for _, rows in frame.groupby("task", sort=False)]
    if len(tasks) == len(frame):
        yield _effects(frame)
    else:
        for rows in tasks:
            first = rows.iloc[0]
            yield Text(f"\n{first['task']}: effect on {first['metric']} ({first['unit']})", "bold")
            yield from _grid(rows, width)
            yield _effects(rows.sort_values("rank", kind="stable").head(MOST_ROWS))
            yield from _more(len(rows))
    units = frame[["metric", "unit"]].drop_duplicates().itertuples(index=False)
    notes = ["effect = ablated - clean", *(f"{name} in {unit}" for name, unit in units)]
    notes += ["rank 1 hurts most"] if frame["rank"].notna().any() else []
    notes += [f"written instead: {' / '.join(frame['reference'].unique())}"]
    yield Text("; ".join(notes), style="dim")
    if "token_1" in frame and len(frame) == 1:
        yield from _changes(frame.iloc[0])


def lens(result: Result, width: int) -> Iterator[RenderableType]:
    """One position as a table of stages; several as a grid of top tokens."""
    frame = result.frame
    if frame["position"].nunique() == 1:
        yield _stages(frame, width)
        yield _takeover(frame)
    else:
        yield from _positions(frame, width)


VIEWS: Mapping[str, Callable[[Result, int], Iterator[RenderableType]]] = {
    "ablate": ablation,
    "logit_lens": lens,
}


def _new_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _effects(rows: pd.DataFrame) -> Table:
    table = _new_table()
    for name in ("task", "without", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("clean", "ablated", "effect, 95 %", "n", "rank"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        half = (row["ci_high"] - row["ci_low"]) / 2
        table.add_row(
            Text(row["task"]),
            row["component"],
            row["metric"],
            number(row["clean"]),
            number(row["ablated"]),
            Text.assemble(
                (number(row["value"], "+"), "bold"), "" if pd.isna(half) else f" ± {number(half)}"
            ),
            str(row["n"]),
            NONE if pd.isna(row["rank"]) else f"{row['rank']} of {row['ranked']}",
        )
    return table


def _grid(rows: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    """Layer by head, the stronger the effect the stronger the color; nothing if it does not fit."""
    grid = rows.pivot(index="layer", columns="head", values="value")
    if 8 * (len(grid.columns) + 1) > width:
        return
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("layer", justify="right", style="dim")
    for head in grid.columns:
        table.add_column(f"h{head}", justify="right", no_wrap=True, width=6)
    largest = float(grid.abs().max(axis=None)) or 1.0
    digits = 2 if largest >= 1 else 3
    for layer, values in grid.iterrows():
        cells = (_shaded(float(value), float(value) / largest, digits) for value in values)
        table.add_row(str(layer), *cells)
    yield table


def _shaded(value: float, share: float, digits: int) -> Text:
    color = "blue" if value > 0 else "dark_orange3"
    strong, weak = abs(share) > 0.5, abs(share) <= 0.1
    style = f"bold white on {color}" if strong else "dim" if weak else color
    shown = f"{value:+.{digits}f}"
    return Text("0" if float(shown) == 0 else shown, style=style)


def _changes(row: pd.Series[Any]) -> Iterator[RenderableType]:
    table = _new_table()
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


def _stages(frame: pd.DataFrame, width: int) -> Table:
    answer = visible(frame["answer"].iloc[0])
    if cell_len(answer) > 12:
        answer = answer[:11] + "…"
    numbers = {f"p({answer})": cell_len(answer) + 3, "rank": 5, "entropy": 7, "KL": 5}
    table = _new_table()
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
    table = _new_table()
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


def _more(n: int) -> Iterator[RenderableType]:
    if n > MOST_ROWS:
        text = f"{MOST_ROWS} of {n} rows; all of them with --csv, --json or --save DIR"
        yield Text(text, style="dim")


def _cell(value: Any) -> Text:
    if isinstance(value, float):
        return Text(number(value))
    return Text(NONE if pd.isna(value) else visible(str(value)))


def number(value: float, sign: str = "") -> str:
    """A number for people: three decimals or four, or powers of ten where these would hide it.

    >>> number(3.29584), number(0.00032, "+"), number(-0.00004, "+"), number(0.0)
    ('3.296', '+0.0003', '-4.0e-05', '0.000')
    """
    if pd.isna(value):
        return NONE
    size = abs(value)
    form = ".1e" if size >= 1e6 or 0 < size < 5e-5 else ".4f" if 0 < size < 5e-4 else ".3f"
    return f"{value:{sign}{form}}"


def percent(probability: float) -> str:
    """A probability for people.

    >>> percent(0.394), percent(0.00004), percent(0.0), percent(0.99999)
    ('39.4%', '<0.1%', '0.0%', '>99.9%')
    """
    if 0 < probability < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= probability < 1 else f"{probability:.1%}"
