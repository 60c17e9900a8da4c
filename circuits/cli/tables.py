"""Tables and numbers for people, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
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
    """The rows of each task, and of each template where these are told apart, with their name."""
    by = ["task", *(["template"] if "template" in frame else [])]
    for names, rows in frame.groupby(by, sort=False):
        yield ", ".join(on_one_line(str(name)) for name in names), rows


def on_one_line(text: str) -> str:
    r"""A sentence with its line breaks visible.

    >>> on_one_line("When {A}\nand")
    'When {A}\\nand'
    """
    return "".join(char if char == " " else visible(char) for char in text)


def new_table() -> Table:
    """A table of this house's looks."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def more(n: int) -> Iterator[RenderableType]:
    """Where the other rows are, if there are any."""
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
