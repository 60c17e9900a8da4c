"""The user's own prompts in a file, read whole or block by block."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from circuits.errors import CircuitsError, nearest
from circuits.files import is_broken
from circuits.prompts.prompts import Prompts
from circuits.prompts.user import Row, from_rows

if TYPE_CHECKING:
    from circuits.model import HookedModel

COLUMNS = ("clean", "corrupted", "answer", "distractor", "template")
BLOCK = 500  # prompts
_BOM = "\ufeff"


@dataclass(frozen=True)
class Mark:
    """The place up to which an input has been read.

    `n_prompts` prompts, which in a file are `line` lines and `offset` bytes; `sha256` is of what
    was read, by which it is known again.
    """

    n_prompts: int = 0
    line: int = 0
    offset: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class PromptFile:
    r"""The prompts of a file in batches, `block` prompts at a time.

    The file is read as it is needed, so it may hold millions of prompts. Each block is padded for
    itself. Iterating starts at the file's beginning every time. The formats are `from_file`'s.

    Raises:
        CircuitsError: when the name has none of the known suffixes; while iterating, naming file
            and line, for anything that cannot be read.
        TokenError: while iterating, for answers of several tokens and prompts too long.

    >>> import tempfile
    >>> from circuits.checkpoints import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "words.txt")
    ...     n_written = path.write_text("CBABBC\nABCABC\nCCCBBB\n")
    ...     [len(prompts) for prompts in PromptFile(load("sort-abc"), path, block=2)]
    [2, 1]
    """

    model: HookedModel
    path: Path
    block: int = BLOCK
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        if self.path.suffix.lower() not in _READERS:
            raise CircuitsError(
                f"{self.path} is no file of prompts: its name should end in {', '.join(_READERS)}"
            )
        if self.block < 1:
            raise CircuitsError(f"blocks of {self.block} prompts: take at least 1")

    def __iter__(self) -> Iterator[Prompts]:
        return (prompts for prompts, _ in self.after(Mark()))

    @property
    def n_bytes(self) -> int:
        """The file's size."""
        with _readable(self.path):
            return self.path.stat().st_size

    def count(self) -> int:
        """The number of prompts in the file: all of it is read, and none of it made into tokens.

        Raises:
            CircuitsError: as iterating does, for what cannot be read.
        """
        with _readable(self.path), self.path.open("rb") as file:
            lines = _Lines(self.path.name, file)
            return sum(1 for _ in _READERS[self.path.suffix.lower()](lines))

    def after(self, mark: Mark) -> Iterator[tuple[Prompts, Mark]]:
        """The blocks that follow this mark, each with the mark at its end.

        Raises:
            CircuitsError: when the file up to the mark is not what it was, or when the mark was
                the file's end, amid a block, and is no longer.
        """
        with _readable(self.path), self.path.open("rb") as file:
            lines = _Lines(self.path.name, file)
            rows = _READERS[self.path.suffix.lower()](lines)
            # Also when starting later: the first row says what all rows have.
            first = next(rows, None)
            if first is None:
                raise CircuitsError(f"{self.path} has no prompts; write at least one")
            if mark.offset:
                lines.jump(mark)
            else:
                rows = chain([first], rows)
            n_prompts = mark.n_prompts
            while block := list(islice(rows, self.block)):
                if n_prompts % self.block:
                    raise CircuitsError(
                        f"{self.path} has grown: it ended at line {mark.line} before, and that "
                        "block would be another one now; start anew with the whole file, or put "
                        "the new prompts into one of their own"
                    )
                n_prompts += len(block)
                prompts = from_rows(self.model, block, lines.name, self.prepend_bos, first)
                yield prompts, lines.mark(n_prompts)


def from_file(model: HookedModel, path: str | Path, *, prepend_bos: bool | None = None) -> Prompts:
    """The prompts of this file as one batch.

    ``.txt`` has one prompt a line. ``.csv`` (with a header) and ``.jsonl`` (one object a line) have
    the fields clean, and if wanted corrupted, answer, distractor, template (a name for the sentence
    that the prompt was made of). Lines of nothing but blanks are skipped; where blanks alone are
    meant, they stand in ``.jsonl``. Text is taken as it stands: GPT-2's tokens for words begin with
    a space, so an answer usually does too.

    Raises:
        CircuitsError: naming the file and the line, for anything that cannot be read.
        TokenError: the same, for answers of several tokens and prompts too long for the context.
    """
    return next(iter(PromptFile(model, Path(path), sys.maxsize, prepend_bos)))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CircuitsError(f"{path} cannot be read: {error.strerror}") from error


class _Lines:
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

    def place(self, n_lines: int = 1) -> str:
        """Where the last lines that were read begin, for messages."""
        return f"line {self._number - n_lines + 1} of {self.name}"

    def mark(self, n_prompts: int) -> Mark:
        """Up to here."""
        return Mark(n_prompts, self._number, self._offset, self._digest.hexdigest())

    def jump(self, mark: Mark) -> None:
        """Go on after this mark; what stands before it must be what was there."""
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


def _read_txt(lines: _Lines) -> Iterator[Row]:
    for line in lines:
        if line.strip():
            yield Row(lines.place(), line.rstrip("\r\n"))


def _read_csv(lines: _Lines) -> Iterator[Row]:
    taken: list[str] = []  # the lines of one record; several where a break is within quotes
    header: list[str] = []
    try:
        for cells in csv.reader(_noting(lines, taken), strict=True):
            place, raw = lines.place(len(taken)), "".join(taken)
            taken.clear()
            if not raw.strip():
                continue
            if header:
                yield _csv_row(place, header, cells, raw)
            else:
                header = _csv_header(lines.name, cells)
    except csv.Error as error:
        raise CircuitsError(
            f"{lines.place(len(taken))} is not CSV: {error}; a field that begins with a quote ends "
            "with one, and a quote inside it is written twice"
        ) from error
    if not header:
        _csv_header(lines.name, [])


def _noting(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _csv_header(name: str, cells: Sequence[str]) -> list[str]:
    """The names of the columns."""
    place, header = f"the header of {name}", [cell.strip() for cell in cells]
    parted = next((mark for mark in (";", "\t", "|") if mark in "".join(header)), None)
    if len(header) == 1 and parted:
        raise CircuitsError(f"{place} is parted by {parted!r}: {header[0]!r}; part it by commas")
    if "" in header:
        raise CircuitsError(
            f"{place} gives column {header.index('') + 1} of {len(header)} no name; the names are "
            f"{', '.join(COLUMNS)}, and a column that is none of these is left out"
        )
    _check_fields(place, header)
    return header


def _csv_row(place: str, header: Sequence[str], cells: Sequence[str], raw: str) -> Row:
    """The cells under their names; `raw` is what they were read from."""
    if len(cells) != len(header):
        raise CircuitsError(
            f"{place} does not have {len(header)} fields as the header ({', '.join(header)}), but "
            f"{len(cells)}; put fields with commas in double quotes, the first right after a comma"
        )
    for name, text in zip(header, cells, strict=True):
        # Whether quotes stood around blanks, nobody can tell any more.
        if text and not text.strip():
            raise CircuitsError(
                f"{place}: {name} is blanks alone; leave it empty if there is none, and if blanks "
                "are meant, write the prompts as .jsonl"
            )
        if text.lstrip()[:1] == '"' != text[:1] and f",{text}," in f",{raw.rstrip()},":
            raise CircuitsError(
                f"{place}: in {name} a quote comes after a blank, where it would be part of the "
                f"text; put it right after the comma, and the blank inside: {text!r}"
            )
    return _row(place, {name: text or None for name, text in zip(header, cells, strict=True)})


def _read_jsonl(lines: _Lines) -> Iterator[Row]:
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
        _check_fields(place, list(record))
        for name, value in record.items():
            if value == "" and name != "clean":
                raise CircuitsError(f"{place}: {name} is empty; write null if there is none")
        yield _row(place, record)


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
        raise CircuitsError(_said_of_repeated([name for name, _ in pairs]))
    return record


_JSON = json.JSONDecoder(object_pairs_hook=_object)
_READERS: dict[str, Callable[[_Lines], Iterator[Row]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}


def _check_fields(place: str, fields: Sequence[str]) -> None:
    unknown = [field for field in fields if field not in COLUMNS]
    if unknown:
        raise CircuitsError(
            f"{place} has a field {unknown[0]!r}; the fields are {', '.join(COLUMNS)}"
            f"{nearest(unknown[0], COLUMNS)}"
        )
    if len(set(fields)) != len(fields):
        raise CircuitsError(f"{place} {_said_of_repeated(fields)}")
    if "clean" not in fields:
        raise CircuitsError(f"{place} lacks the field 'clean', the prompt itself")


def _said_of_repeated(fields: Sequence[str]) -> str:
    name = next(field for field in fields if fields.count(field) > 1)
    times = "twice" if fields.count(name) == 2 else f"{fields.count(name)} times"
    return f"has the field {name!r} {times}, and only one can be meant; keep that one"


def _row(place: str, record: Mapping[str, object]) -> Row:
    texts: dict[str, str | None] = {}
    for name, value in record.items():
        if value is not None and not isinstance(value, str):
            shown = json.dumps(value, ensure_ascii=False)
            shown = shown if len(shown) <= 40 else f"{shown[:39]}…"
            raise CircuitsError(f"{place}: {name} is {shown}; give a text in quotes")
        if value is not None and is_broken(value):
            raise CircuitsError(
                f"{place}: {name} has half a character (a lone surrogate): {value!r}; mend the text"
            )
        texts[name] = value
    clean = texts.pop("clean")
    if not clean:
        raise CircuitsError(f"{place}: clean is empty; write a prompt")
    return Row(place, clean, **texts)
