"""Parquet files: one prompt a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from circuits.errors import CircuitsError
from circuits.prompts.formats.fields import check_fields, is_read, to_row
from circuits.prompts.formats.marks import Mark
from circuits.prompts.user import Row

_AT_ONCE = 1 << 10  # records


class Records:
    """The records of a Parquet file in their order, and how far they have been read.

    Raises:
        CircuitsError: when pyarrow is not installed, or the file is not Parquet.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        pa = _arrow(name)
        # Besides pyarrow's own: dates and texts that Python cannot hold.
        self._wrong = (pa.ArrowException, OSError, OverflowError, ValueError)
        try:
            self._file = pa.parquet.ParquetFile(file)
        except self._wrong as error:
            raise self._damaged(error) from error
        self._start()

    def __iter__(self) -> Iterator[dict[str, object]]:
        return self

    def __next__(self) -> dict[str, object]:
        try:
            record: dict[str, object] = next(self._records)
        except self._wrong as error:
            raise self._damaged(error) from error
        self._number += 1
        self._digest.update(json.dumps(record, default=str).encode())
        return record

    @property
    def columns(self) -> list[str]:
        """Their names, of which some may stand there twice."""
        return list(self._file.schema_arrow.names)

    def place(self) -> str:
        """Where the last record stands, for messages."""
        return f"record {self._number} of {self.name}"

    def mark(self, n_prompts: int) -> Mark:
        """Up to here."""
        return Mark(n_prompts, self._number, self._number, self._digest.hexdigest())

    def jump(self, mark: Mark) -> None:
        """Go on after this mark; what stands before it must be what was there.

        Raises:
            CircuitsError: when it is not.
        """
        self._start()
        while self._number < mark.line and next(self, None) is not None:
            pass
        if (self._number, self._digest.hexdigest()) != (mark.line, mark.sha256):
            raise CircuitsError(
                f"{self.name} is not the file it was: something in its first {mark.line} records "
                "has changed, and their results are there already; take the file as it was, or "
                "start anew (only later records may be mended)"
            )

    def size(self) -> int:
        """How many records there are."""
        n_records: int = self._file.metadata.num_rows
        return n_records

    def _start(self) -> None:
        self._number, self._digest = 0, hashlib.sha256()
        self._records = self._read()

    def _read(self) -> Iterator[dict[str, object]]:
        for batch in self._file.iter_batches(_AT_ONCE):
            yield from batch.to_pylist()

    def _damaged(self, error: Exception) -> CircuitsError:
        return CircuitsError(f"{self.name} cannot be read as Parquet: {error}")


def read_parquet(records: Records) -> Iterator[Row]:
    """The prompts that these records are; an empty text is none, as in a table of text.

    Raises:
        CircuitsError: for what is no prompt.
    """
    check_fields(records.name, records.columns)
    for record in records:
        given = {
            name: None if value == "" and is_read(name) else value for name, value in record.items()
        }
        yield to_row(records.place(), given)


def _arrow(name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CircuitsError(
            f"{name} is a Parquet file, and pyarrow, which reads it, is not installed; run: "
            'pip install "gpt2-circuits[parts]", or write the prompts as .csv or .jsonl'
        ) from error
    return pyarrow
