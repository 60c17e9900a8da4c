"""Tables of text: a header, and one prompt a record."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterable, Iterator, Sequence

from circuits.errors import CircuitsError, brief, printed
from circuits.prompts.formats.fields import FIELDS, check_fields, is_read, renamed, to_row
from circuits.prompts.formats.lines import Lines
from circuits.prompts.user import Row

COMMAS, TABS = ",", "\t"
# Characters of a cell. Python's own 131,072 are less than a column of documents has; without any, a
# quote that is never closed would take a whole file into memory.
MOST = 1 << 27
_LIMIT = threading.Lock()  # Python has one limit for all that is read
_NAMES = {COMMAS: ("CSV", "comma"), TABS: ("TSV", "tab")}


def read_table(lines: Lines, delimiter: str) -> Iterator[Row]:
    """The prompts of a table whose cells are parted by commas or tabs.

    Raises:
        CircuitsError: naming the line, for what cannot be read.
    """
    taken: list[str] = []  # the lines of one record; several where a break is within quotes
    header: list[str] = []
    try:
        for cells in _records(_noting(lines, taken), delimiter):
            place, raw = lines.place(len(taken)), "".join(taken)
            taken.clear()
            if not raw.strip():
                continue
            if header:
                yield _read_row(place, header, cells, raw, delimiter)
            else:
                header = _read_header(lines.name, cells, delimiter)
    except csv.Error as error:
        long = sum(map(len, taken)) > MOST
        problem = f"a field has more than {MOST:,} characters" if long else str(error)
        raise CircuitsError(
            f"{lines.place(len(taken))} is not {_NAMES[delimiter][0]}: {problem}; a field that "
            "begins with a quote ends with one, and a quote inside it is written twice"
        ) from error
    if not header:
        _read_header(lines.name, [], delimiter)


def _records(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of each record, of up to `MOST` characters; elsewhere the limit stays as it is."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        with _LIMIT:
            usual = csv.field_size_limit(MOST)
            try:
                cells = next(reader, None)
            finally:
                csv.field_size_limit(usual)
        if cells is None:
            return
        yield cells


def _noting(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _read_header(name: str, cells: Sequence[str], delimiter: str) -> list[str]:
    """The names of the columns."""
    place, header = f"the header of {name}", [cell.strip() for cell in cells]
    whole = delimiter.join(cells)
    parted = next((mark for mark in (";", "\t", "|", ",") if mark in whole.strip()), None)
    if len(header) == 1 and parted:
        kind, word = _NAMES[delimiter]
        raise CircuitsError(
            f"{place} is parted by {parted!r}: {brief(header[0])}; part it by {word}s, as {kind} is"
        )
    if "" in header:
        raise CircuitsError(
            f"{place} gives column {header.index('') + 1} of {len(header)} no name; the names are "
            f"{', '.join(FIELDS)}, and any other for a column that is carried along"
        )
    check_fields(place, header)
    return renamed(header)


def _read_row(
    place: str, header: Sequence[str], cells: Sequence[str], raw: str, delimiter: str
) -> Row:
    """The cells under their names; `raw` is what they were read from."""
    word, line = _NAMES[delimiter][1], f"{delimiter}{raw.rstrip()}{delimiter}"
    if len(cells) != len(header):
        raise CircuitsError(
            f"{place} does not have {len(header)} fields as the header "
            f"({', '.join(map(printed, header))}), but {len(cells)}; put fields with {word}s in "
            "double quotes, the first right after "
            f"a {word}"
        )
    for name, text in zip(header, cells, strict=True):
        if not is_read(name):
            continue
        # Whether quotes stood around blanks, nobody can tell any more.
        if text and not text.strip():
            raise CircuitsError(
                f"{place}: {name} is blanks alone; leave it empty if there is none, and if blanks "
                "are meant, write the prompts as .jsonl"
            )
        if text.lstrip()[:1] == '"' != text[:1] and f"{delimiter}{text}{delimiter}" in line:
            raise CircuitsError(
                f"{place}: in {name} a quote comes after a blank, where it would be part of the "
                f"text; put it right after the {word}, and the blank inside: {brief(text)}"
            )
    return to_row(place, {name: text or None for name, text in zip(header, cells, strict=True)})
