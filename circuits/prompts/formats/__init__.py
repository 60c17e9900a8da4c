"""The formats of files of prompts: what each holds, row by row, and how far it has been read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from circuits.prompts.formats.fields import FIELDS, LISTS
from circuits.prompts.formats.lines import Lines, jsonl_columns, read_jsonl, read_txt
from circuits.prompts.formats.marks import Mark
from circuits.prompts.formats.parquet import Records, read_parquet
from circuits.prompts.formats.tables import COMMAS, TABS, read_table
from circuits.prompts.user import Row

__all__ = ["FIELDS", "FORMATS", "LISTS", "Cursor", "Format", "Mark", "guessed", "is_gzip"]

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


class Cursor(Protocol):
    """What reads a file in its order, can say how far it has come, and go on from there."""

    name: str

    def mark(self, n_prompts: int) -> Mark:
        """Up to here, which are so many prompts."""

    def jump(self, mark: Mark) -> None:
        """Go on after this mark; what stands before it must be what was there."""


@dataclass(frozen=True)
class Format:
    """How files of a format are read: `cursor` goes through them, `rows` makes prompts of that.

    `size` is what `Mark.offset` is at the file's end: bytes, or records. `columns` reads the names
    of all columns that are carried along, where not every row has them.
    """

    cursor: Callable[[str, BinaryIO], Cursor]
    rows: Callable[[Any], Iterator[Row]]
    size: Callable[[Any], int]
    columns: Callable[[Any], list[str]] | None = None


def _table(dialect: str) -> Callable[[Lines], Iterator[Row]]:
    return lambda lines: read_table(lines, dialect)


FORMATS: Mapping[str, Format] = {
    ".txt": Format(Lines, read_txt, Lines.size),
    ".csv": Format(Lines, _table(COMMAS), Lines.size),
    ".jsonl": Format(Lines, read_jsonl, Lines.size, jsonl_columns),
    ".tsv": Format(Lines, _table(TABS), Lines.size),
    ".parquet": Format(Records, read_parquet, Records.size),
}


def guessed(content: bytes) -> str:
    r"""The format of what came without a name.

    JSON lines begin with a brace, and a table with a header that names the prompts; all else is one
    prompt a line.

    >>> guessed(b'{"clean": "x"}\n'), guessed(b"id,prompt\n1,x\n"), guessed(b"my prompt, or\n")
    ('.jsonl', '.csv', '.txt')
    """
    if content.startswith(_PARQUET):
        return ".parquet"
    text = content[: 1 << 16].decode("utf-8-sig", "replace").lstrip()
    if text.startswith("{"):
        return ".jsonl"
    header = text.splitlines()[0] if text else ""
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        names = {cell.strip().strip('"') for cell in header.split(delimiter)}
        if {"clean", "prompt"} & names or {"text"} < names:
            return suffix
    return ".txt"


def is_gzip(content: bytes) -> bool:
    """Whether these bytes are compressed by gzip."""
    return content.startswith(_GZIP)
