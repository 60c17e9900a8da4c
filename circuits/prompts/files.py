"""The user's own prompts in a file, read whole or block by block."""

from __future__ import annotations

import gzip
import hashlib
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from circuits.errors import CircuitsError, printed
from circuits.files import named_path
from circuits.metrics.readout import LABEL
from circuits.prompts.formats import FORMATS, LISTS, Cursor, Format, Mark, guessed, is_gzip
from circuits.prompts.prompts import Prompts
from circuits.prompts.user import Row, from_rows

if TYPE_CHECKING:
    from circuits.model import HookedModel

BLOCK = 500  # prompts
_STDIN, _GZ = "-", ".gz"
_PLAIN = "one prompt a line (it has no header with clean or prompt, and no JSON)"


@dataclass(frozen=True)
class PromptFile:
    r"""The prompts of a file in batches, `block` prompts at a time.

    The file is read as it is needed, so it may hold millions of prompts. Each block is padded for
    itself. Iterating starts at the file's beginning every time. The formats are `from_file`'s.
    Compressed files are unpacked as they are read, and standard input (the path ``-``) is kept in
    memory. With `classes`, answers and distractors name classes of a readout, see `from_rows`.

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
    classes: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.is_stdin and self._suffix not in FORMATS:
            raise CircuitsError(
                f"{self.path} is no file of prompts: its name should end in {', '.join(FORMATS)}, "
                f"or in one of these and {_GZ}; '-' is standard input"
            )
        if self.block < 1:
            raise CircuitsError(f"blocks of {self.block} prompts: take at least 1")

    def __iter__(self) -> Iterator[Prompts]:
        return (prompts for prompts, _ in self.after(Mark()))

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input, which another run cannot read again."""
        return str(self.path) == _STDIN

    @property
    def name(self) -> str:
        """What the prompts are called."""
        return "stdin" if self.is_stdin else self.path.name

    @property
    def size(self) -> int:
        """How large the file is, in what `Mark.offset` counts: bytes, unpacked, or records."""
        with self._opened() as cursor:
            return self._format.size(cursor)

    @property
    def checksum(self) -> str:
        """A hash of all that the file holds, unpacked."""
        digest = hashlib.sha256()
        with self._bytes() as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()[:16]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What else the file says of its prompts, by name: every block has all of these columns.

        Of JSON lines all are read for that, once.
        """
        with self._opened() as lines:
            first = next(self._format.rows(lines), None)
        named = [name for name in LISTS if self.classes and getattr(first, name, None) is not None]
        if first is None or self._format.columns is None:
            return (*named, *(() if first is None else first.columns))
        with self._opened() as lines:
            return (*named, *self._format.columns(lines))

    def count(self) -> int:
        """The number of prompts in the file: all of it is read, and none of it made into tokens.

        Raises:
            CircuitsError: as iterating does, for what cannot be read.
        """
        with self._opened() as cursor:
            return sum(1 for _ in self._format.rows(cursor))

    def rows(self) -> Iterator[Row]:
        """The prompts as they stand in the file, of which no token is made.

        Raises:
            CircuitsError: as iterating does, for what cannot be read.
        """
        with self._opened() as cursor:
            yield from self._format.rows(cursor)

    def say(self, first: Prompts) -> None:
        """Warn of what is done with the file that its user may not expect.

        `first` are its prompts, or the first block of them.
        """
        if self.is_stdin:
            kind = f"{self._suffix[1:]} by its beginning" if self._suffix != ".txt" else _PLAIN
            warnings.warn(f"standard input is read as {kind}", stacklevel=3)
        used = (*LISTS, LABEL) if self.classes else ()
        carried = [name for name in first.columns if name not in used]
        if carried:
            names = ", ".join(map(printed, carried))
            warnings.warn(
                f"{self.name} has columns that no prompt is made of: {names}; "
                "they are carried along into the parts of a run (--parts), and by=COLUMN (--by) "
                "gives the groups of one by themselves",
                stacklevel=3,
            )

    def after(self, mark: Mark) -> Iterator[tuple[Prompts, Mark]]:
        """The blocks that follow this mark, each with the mark at its end.

        Raises:
            CircuitsError: when the file up to the mark is not what it was, or when the mark was
                the file's end, amid a block, and is no longer.
        """
        with self._opened() as lines:
            rows: Iterator[Row] = self._format.rows(lines)
            # Also when starting later: the first row says what all rows have.
            first = next(rows, None)
            if first is None:
                raise CircuitsError(f"{self._where} has no prompts; write at least one")
            if mark.offset:
                lines.jump(mark)
            else:
                rows = chain([first], rows)
            n_prompts = mark.n_prompts
            while block := list(islice(rows, self.block)):
                if n_prompts % self.block:
                    raise CircuitsError(
                        f"{self._where} has grown: it ended at line {mark.line} before, and that "
                        "block would be another one now; start anew with the whole file, or put "
                        "the new prompts into one of their own"
                    )
                n_prompts += len(block)
                prompts = from_rows(
                    self.model,
                    block,
                    lines.name,
                    self.prepend_bos,
                    first,
                    self.columns,
                    classes=self.classes,
                )
                yield prompts, lines.mark(n_prompts)

    @property
    def _where(self) -> str:
        return "standard input" if self.is_stdin else str(self.path)

    @property
    def _suffix(self) -> str:
        """What tells the format: of the name, or for standard input, of what it holds."""
        if self.is_stdin:
            return guessed(_standard_input(sys.stdin))
        is_packed = self.path.suffix.lower() == _GZ
        return (self.path.with_suffix("") if is_packed else self.path).suffix.lower()

    @property
    def _format(self) -> Format:
        return FORMATS[self._suffix]

    @contextmanager
    def _opened(self) -> Iterator[Cursor]:
        with self._bytes() as file:
            yield self._format.cursor(self.name, file)

    @contextmanager
    def _bytes(self) -> Iterator[BinaryIO]:
        """What the file holds, unpacked.

        Raises:
            CircuitsError: when it cannot be read.
        """
        try:
            if self.is_stdin:
                yield BytesIO(_standard_input(sys.stdin))
            elif self.path.suffix.lower() == _GZ:
                with gzip.open(self.path, "rb") as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                with self.path.open("rb") as file:
                    yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CircuitsError(
                f"{self._where} cannot be unpacked ({error}); compress the prompts anew by gzip"
            ) from error
        except OSError as error:
            raise CircuitsError(
                f"{self._where} cannot be read: {error.strerror or error}"
            ) from error


def from_file(model: HookedModel, path: str | Path, *, prepend_bos: bool | None = None) -> Prompts:
    """The prompts of this file as one batch.

    ``.txt`` has one prompt a line. ``.csv`` and ``.tsv`` (with a header), ``.jsonl`` (one object a
    line) and ``.parquet`` (by the extra ``parts``) have the fields clean (or prompt, or text, which
    is the same), and if wanted corrupted, answer, distractor, template (a name for the sentence
    that the prompt was made of). Other columns are carried along, as text (`Prompts.columns`). Each
    may be compressed (``.csv.gz``); ``-`` is standard input, whose beginning tells what it is: JSON
    lines, a table with a header that has clean or prompt, or one prompt a line.

    In ``.jsonl`` and ``.parquet``, answer and distractor may be lists, of which any counts; what
    that means, the docstrings of `circuits.metrics` say. Twins of another length than their prompts
    are no error, but cannot be patched from. Lines of nothing but blanks are skipped; where blanks
    alone are meant, they stand in ``.jsonl``. Text is taken as it stands: GPT-2's tokens for words
    begin with a space, so an answer usually does too.

    Raises:
        CircuitsError: naming the file and the line, for anything that cannot be read.
        TokenError: the same, for answers of several tokens and prompts too long for the context.
    """
    file = PromptFile(model, named_path(path), sys.maxsize, prepend_bos)
    prompts = next(iter(file))
    file.say(prompts)
    return prompts


@lru_cache(maxsize=1)  # what has been read is gone from the stream
def _standard_input(stream: TextIO | None) -> bytes:
    """What stands on standard input, unpacked.

    Raises:
        CircuitsError: when there is none, or it is compressed and damaged.
    """
    if stream is None:  # closed by who started this program
        raise CircuitsError("there is no standard input to read prompts from; give a file")
    content = stream.buffer.read()
    try:
        return gzip.decompress(content) if is_gzip(content) else content
    except (OSError, EOFError, zlib.error) as error:
        raise CircuitsError(
            f"standard input cannot be unpacked ({error}); compress the prompts anew by gzip"
        ) from error
