"""Files of lines: one prompt a line, or one object of JSON a line."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from circuits.errors import CircuitsError
from circuits.prompts.formats.fields import check_fields, is_read, renamed, said_of_repeated, to_row
from circuits.prompts.formats.marks import Mark
from circuits.prompts.user import Row

_BOM = "\ufeff"


class Lines:
    """The lines of a file, each with its ending, and how far they have been read."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self._file = file
        self._number, self._offset, self._digest = 0, 0, hashlib.sha256()
        start = file.read(len(_BOM.encode()))
        if start == _BOM.encode():
            self._count(start)
        file.seek(self._offset)
        self._text = self._decoded()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self._number += 1
        try:
            self._count(line.encode())
        except UnicodeEncodeError as error:
            raise CircuitsError(f"{self.place()} is not UTF-8 text; save it as UTF-8") from error
        if "\0" in line:
            raise CircuitsError(
                f"{self.place()} has a NUL character, as UTF-16 text has many; save it as UTF-8"
            )
        if line.startswith(_BOM):
            raise CircuitsError(
                f"{self.place()} begins with a byte order mark (U+FEFF), which only a file may; "
                "delete it"
            )
        return line

    def size(self) -> int:
        """How many bytes there are; nothing is read from here on but after a `jump`."""
        return self._file.seek(0, os.SEEK_END)

    def place(self, n_lines: int = 1) -> str:
        """Where the last lines that were read begin, for messages."""
        return f"line {self._number - n_lines + 1} of {self.name}"

    def mark(self, n_prompts: int) -> Mark:
        """Up to here."""
        return Mark(n_prompts, self._number, self._offset, self._digest.hexdigest())

    def jump(self, mark: Mark) -> None:
        """Go on after this mark; what stands before it must be what was there.

        Raises:
            CircuitsError: when it is not.
        """
        self._text.detach()
        self._file.seek(0)
        self._offset, self._number, self._digest = 0, mark.line, hashlib.sha256()
        while piece := self._file.read(min(1 << 20, mark.offset - self._offset)):
            self._count(piece)
        if (self._offset, self._digest.hexdigest()) != (mark.offset, mark.sha256):
            raise CircuitsError(
                f"{self.name} is not the file it was: something in its first {mark.line} lines "
                "has changed, and their results are there already; take the file as it was, or "
                "start anew (only later lines may be mended)"
            )
        self._text = self._decoded()

    def _decoded(self) -> io.TextIOWrapper:
        # What is not UTF-8 is escaped here and refused line by line, so that the line can be named.
        return io.TextIOWrapper(self._file, "utf-8", errors="surrogateescape", newline="")

    def _count(self, piece: bytes) -> None:
        self._offset += len(piece)
        self._digest.update(piece)


def read_txt(lines: Lines) -> Iterator[Row]:
    """One prompt a line."""
    for line in lines:
        if line.strip():
            yield Row(lines.place(), line.rstrip("\r\n"))


def read_jsonl(lines: Lines) -> Iterator[Row]:
    """One object a line.

    Raises:
        CircuitsError: naming the line, for what cannot be read.
    """
    for line in lines:
        if not line.strip():
            continue
        place = lines.place()
        record = _parsed(place, line)
        if not isinstance(record, dict):
            raise CircuitsError(
                f'{place} is not an object like {{"clean": "...", "answer": "..."}}; each line is '
                "one"
            )
        check_fields(place, list(record))
        for name, value in record.items():
            if value == "" and is_read(name) and name not in ("clean", "prompt"):
                raise CircuitsError(f"{place}: {name} is empty; write null if there is none")
        yield to_row(place, record)


def jsonl_columns(lines: Lines) -> list[str]:
    """The columns that are carried along, in the order in which they first appear.

    A line that cannot be read has none: it is refused in its turn, when what stands before it is
    answered.
    """
    names: dict[str, None] = {}
    while True:
        try:
            line = next(lines, None)
            if line is None:
                return list(names)
            record = _parsed(lines.place(), line) if line.strip() else None
            if isinstance(record, dict):
                check_fields(lines.place(), list(record))
                names |= dict.fromkeys(name for name in renamed([*record]) if not is_read(name))
        except CircuitsError:
            continue


def _parsed(place: str, line: str) -> object:
    """What this line of JSON holds."""
    try:
        return _JSON.decode(line)
    except CircuitsError as error:
        raise CircuitsError(f"{place} {error}") from None
    except json.JSONDecodeError as error:
        raise CircuitsError(
            f"{place} is not JSON: {error.msg} at column {error.colno}; each line is one object"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers and nesting beyond all measure
        raise CircuitsError(f"{place} cannot be read: {error}") from error


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise CircuitsError(said_of_repeated([name for name, _ in pairs]))
    return record


_JSON = json.JSONDecoder(object_pairs_hook=_object)
