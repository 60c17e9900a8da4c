"""Tables and numbers for people, in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.terminal import visible
from circuits.result import Result

MOST_ROWS = 10
NONE = "–"


def plain(result: Result, width: int) -> Iterator[RenderableType]:
    """Any result: its first rows as they are."""
    frame = result.frame
    table = new_table()
    for name in frame.columns:
        is_number = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name), justify="right" if is_number else "left")
    for row in frame.head(MOST_ROWS).itertuples(index=False):
        table.add_row(*map(_cell, row))
    yield table
    yield from more(len(frame))


def asked_of(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each task, and of each group where these are told apart, with their name."""
    by = ["task", *group_of(frame)]
    for names, rows in frame.groupby(by, sort=False):
        yield ", ".join(on_one_line(str(name)) for name in names), rows


def group_of(frame: pd.DataFrame) -> list[str]:
    """The column by which groups of prompts are told apart, their template say; none if none is."""
    return [str(frame.columns[1])] if "spread" in frame else []


def spread_of(frame: pd.DataFrame, what: str = "the effect") -> list[str]:
    """What the column spread means, where groups of prompts are told apart."""
    of = [
        "the templates" if name == "template" else f"the groups by {name}"
        for name in group_of(frame)
    ]
    return [f"spread: standard deviation of {what} over {groups}" for groups in of]


def on_one_line(text: str) -> str:
    r"""A sentence with its line breaks visible.

    >>> on_one_line("When {A}\nand")
    'When {A}\\nand'
    """
    return "".join(char if char == " " else visible(char) for char in text)


def new_table() -> Table:
    """A table of this house's looks."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def more(n: int, shown: int = MOST_ROWS) -> Iterator[RenderableType]:
    """Where the other rows are, if there are any."""
    if n > shown:
        text = f"{shown} of {n} rows; all of them with --csv, --json or --save DIR"
        yield Text(text, style="dim")


def table_of(
    rows: pd.DataFrame,
    words: Sequence[str],
    numbers: Sequence[str],
    shown: Callable[[str, float], str] = lambda _, value: number(value),
) -> Table:
    """These columns of the rows as they are; `shown` writes a number of a column."""
    table = new_table()
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        cells = (shown(name, row[name]) for name in numbers)
        table.add_row(*(Text(str(row[name])) for name in words), *cells)
    return table


def largest_first(rows: pd.DataFrame, by: str = "value") -> pd.DataFrame:
    """The rows by the size of a number, positive or negative; ties as they stood."""
    order = rows[by].abs().sort_values(ascending=False, kind="stable").index
    ordered: pd.DataFrame = rows.loc[order]
    return ordered


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


def with_interval(
    row: pd.Series[Any],
    sign: str = "",
    columns: tuple[str, str, str] = ("value", "ci_low", "ci_high"),
) -> Text:
    """A mean of the row in bold, with its interval where that is known."""
    mean, low, high = (row[name] for name in columns)
    return Text.assemble((number(mean, sign), "bold"), plus_minus(low, high))


def plus_minus(low: float, high: float, shown: Callable[[float], str] = number) -> str:
    """How far an interval reaches to both sides; nothing where it is not known.

    >>> plus_minus(0.5, 1.0), plus_minus(float("nan"), float("nan"))
    (' ± 0.250', '')
    """
    half = (high - low) / 2
    return "" if pd.isna(half) else f" ± {shown(half)}"


def over(n_prompts: int) -> str:
    """What a line adds where its numbers are means."""
    return f"; means over {n_prompts} prompts" if n_prompts > 1 else ""


def share(value: float) -> str:
    """A part of a total, which may be negative or more than all of it.

    >>> share(1.25), share(-0.0301), share(float("nan"))
    ('125.0%', '-3.0%', '–')
    """
    return NONE if pd.isna(value) else f"{value:.1%}"


def percent(probability: float) -> str:
    """A probability for people.

    >>> percent(0.394), percent(0.00004), percent(0.0), percent(0.99999)
    ('39.4%', '<0.1%', '0.0%', '>99.9%')
    """
    if 0 < probability < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= probability < 1 else f"{probability:.1%}"


def amount(n_bytes: float) -> str:
    """An amount of memory for people.

    >>> amount(512), amount(228044577), amount(3 * 2**30)
    ('512 B', '217 MiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} GiB"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(0.213), duration(75), duration(7500)
    ('0.2 s', '75 s', '2 h 5 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
