"""A long sweep on disk: Parquet parts and a manifest, with which a run that died goes on.

A part is a file with one block of prompts. It is written aside, flushed to the disk and renamed,
and counts once the manifest says so: ``manifest.jsonl`` has a first line that says which question
is answered, a line for every part, and a last one when the input has ended. Lines are only ever
added, so at whatever moment a run dies, the lines before are complete, and so are their parts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.errors import CircuitsError
from circuits.files import utf8
from circuits.prompts import Mark, free_name

try:
    import fcntl
except ImportError:  # a system without such locks: who starts a run twice there is not told
    fcntl = None  # type: ignore[assignment]

Columns = Mapping[str, Sequence[str | None]]
FORMAT = 1
MANIFEST = "manifest.jsonl"
_ROWS_AT_ONCE = 1 << 20  # of a Parquet row group: bounds the memory that writing takes
_ASIDE = ".tmp"


@dataclass(frozen=True)
class Part:
    """One file: how many prompts and rows, the file's SHA-256, and where in the input it ends."""

    file: str
    prompts: int
    rows: int
    sha256: str
    end: Mark


class Parts:
    """The parts in a folder, in order: read those that are there, write the next. See `opened`."""

    def __init__(self, folder: Path, cells: Sequence[str], manifest: FileIO) -> None:
        self.folder, self.cells = folder, tuple(cells)
        self._manifest = manifest
        path, lines = folder / MANIFEST, _finished_lines(manifest)
        try:
            if lines[0]["format"] != FORMAT:
                raise CircuitsError(
                    f"{path} has format {lines[0]['format']}, and this version of the package "
                    f"writes {FORMAT}; go on with the version that began, or start anew in another "
                    "folder"
                )
            self.question, self.began = dict(lines[0]["question"]), dict(lines[0]["began"])
            # A run is complete where nothing follows the line that says so.
            self.complete = "complete" in lines[-1]
            self.written = [_part(line) for line in lines[1:] if "complete" not in line]
        except (LookupError, TypeError) as error:
            raise _damaged(path) from error

    @property
    def end(self) -> Mark:
        """Where in the input the written parts end."""
        return self.written[-1].end if self.written else Mark()

    def read(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """Each part's values [cells prompts], and which cells changed anything [cells].

        Raises:
            CircuitsError: when a part is gone, or is not what was written.
        """
        for part in self.written:
            path = self.folder / part.file
            try:
                content = path.read_bytes()
            except OSError as error:
                raise CircuitsError(f"{path} cannot be read: {error.strerror}") from error
            if hashlib.sha256(content).hexdigest() != part.sha256:
                raise CircuitsError(
                    f"{path} is not what was written (its checksum is another); put the file back, "
                    "or start anew in another folder"
                )
            yield _decode(content, len(self.cells))

    def write(
        self,
        values: NDArray[np.float64],
        changed: NDArray[np.bool_],
        end: Mark,
        columns: Columns | None = None,
    ) -> None:
        """Add a block: `values` [cells prompts], `changed` [cells], and its `end` in the input.

        `columns` are what is said of the prompts, [prompts] each; a name that the parts have
        themselves gets ``prompt_`` before it.

        Raises:
            CircuitsError: when it cannot be written; what stands there before stays as it is.
        """
        index, first = len(self.written), self.end.n_prompts
        name = f"part-{index:06d}.parquet"
        about = {"question": self.question, "part": index, "end": asdict(end)}
        table = _Table(values, changed, self.cells, first, columns or {})
        content = table.encoded(about)
        digest = hashlib.sha256(content).hexdigest()
        part = Part(name, values.shape[1], values.size, digest, end)
        with _writing(self.folder / name, f"the {index} parts before it are whole"):
            _appear(self.folder / name, content)
            self._add(asdict(part))
        self.written.append(part)

    def finish(self) -> None:
        """Note that the input has ended."""
        if not self.complete:
            with _writing(self.folder / MANIFEST, "all parts are whole"):
                self._add({"complete": True, "prompts": self.end.n_prompts})
            self.complete = True

    def _add(self, line: Mapping[str, Any]) -> None:
        _put(self._manifest, _line(line))


@contextmanager
def opened(
    folder: Path,
    question: Mapping[str, Any],
    cells: Sequence[str],
    *,
    resume: bool = False,
    began: Mapping[str, Any] | None = None,
) -> Iterator[Parts]:
    """The parts of this question's run in a folder; with `resume`, those that are there already.

    `question` (JSON values) tells runs apart; `cells` are the names of what is measured; `began` is
    what a run that begins here has measured, and one that goes on should take over
    (`Parts.began`). Files that a killed run left, and that no manifest counts, are removed.

    Raises:
        CircuitsError: when the folder holds a run and `resume` is not wanted, or the other way
            round; when that run answers another question; when another process writes it; when the
            folder cannot be written.
    """
    arrow()  # says before anything is computed when it is not installed
    question = json.loads(json.dumps(dict(question)))
    path = folder / MANIFEST
    with _writing(path, "nothing is computed yet"):
        if not resume:
            _begin(folder, {"question": question, "began": dict(began or {})})
        elif not path.is_file():
            raise CircuitsError(
                f"{folder} holds no run to go on with; leave resume out to start it"
            )
        manifest = path.open("rb+", buffering=0)
    with manifest:
        with _writing(path, "what it counts is whole"):
            _lock(folder, manifest)
            parts = Parts(folder, cells, manifest)
            _require_same(folder, parts.question, question)
            _sweep_up(parts)
        yield parts


def arrow() -> Any:
    """The package that writes Parquet.

    Raises:
        CircuitsError: when it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CircuitsError(
            "parts are Parquet files, and pyarrow, which writes them, is not installed; run: "
            'pip install "gpt2-circuits[parts]"'
        ) from error
    return pyarrow


def _begin(folder: Path, header: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir()} - {_aside(folder / MANIFEST).name}
    if MANIFEST in there:
        raise CircuitsError(
            f"{folder} already holds a run; go on with it by resume (--resume), or choose another "
            "folder"
        )
    if there:
        raise CircuitsError(
            f"{folder} already holds other files; choose a new folder for the parts"
        )
    _appear(folder / MANIFEST, _line({"format": FORMAT, **header}))


def _finished_lines(manifest: FileIO) -> list[dict[str, Any]]:
    """The finished lines; an unfinished one is cut off, and writing goes on there."""
    content = manifest.readall()
    finished = content[: content.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in finished.splitlines()]
    except ValueError as error:
        raise _damaged(Path(str(manifest.name))) from error
    if len(finished) < len(content):
        manifest.truncate(len(finished))
    manifest.seek(len(finished))
    return lines


def _damaged(path: Path) -> CircuitsError:
    return CircuitsError(f"{path} is damaged; start anew in another folder")


def _part(line: Mapping[str, Any]) -> Part:
    return Part(**{**line, "end": Mark(**line["end"])})


def _require_same(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = dict(_leaves(was)), dict(_leaves(now))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if differing:
        said = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differing)
        raise CircuitsError(
            f"{folder} holds the run of another question: {said}; ask the same, or choose another "
            "folder"
        )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _sweep_up(parts: Parts) -> None:
    """Remove what a killed run left: files half written, and a part that no line counts."""
    counted = {part.file for part in parts.written}
    for path in parts.folder.iterdir():
        is_part = path.name.startswith("part-") and path.suffix == ".parquet"
        is_aside = path.name.startswith(".part-") and path.suffix == _ASIDE
        if is_aside or (is_part and path.name not in counted):
            path.unlink()


def _lock(folder: Path, manifest: FileIO) -> None:
    """Only one process may write; the lock is gone with the process, however it ends."""
    if fcntl is None:
        return
    try:
        fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CircuitsError(
            f"another process is writing to {folder}; let it finish, or stop it first"
        ) from error


@contextmanager
def _writing(path: Path, remains: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CircuitsError(
            f"{path} cannot be written: {error.strerror}; {remains}, so go on with resume "
            "(--resume) once it can be"
        ) from error


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{_ASIDE}")


def _appear(path: Path, content: Any) -> None:
    """Write a file that is there whole or not at all, also after a power failure."""
    aside = _aside(path)
    try:
        with aside.open("wb", buffering=0) as file:
            _put(file, content)
        aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink()
    if os.name == "posix":  # the name, too, must reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _put(file: FileIO, content: Any) -> None:
    """Write all of it, down to the disk. (A full disk may take a piece without complaint.)"""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _line(content: Mapping[str, Any]) -> bytes:
    return utf8(json.dumps(content, ensure_ascii=False)) + b"\n"


@dataclass(frozen=True, eq=False)
class _Table:
    """What stands in a part: a row for each cell and prompt, the cells in their order."""

    values: NDArray[np.float64]
    changed: NDArray[np.bool_]
    cells: Sequence[str]
    first: int
    columns: Columns

    def encoded(self, about: Mapping[str, Any]) -> Any:
        """The Parquet file, which says what it is `about`."""
        pa = arrow()
        n_cells, n = self.values.shape
        words = pa.dictionary(pa.int32(), pa.string())
        own = {"prompt": pa.int64(), "cell": words, "value": pa.float64(), "changed": pa.bool_()}
        taken = {*own, *self.columns}
        carried = {
            free_name(f"prompt_{name}", taken) if name in own else name: words
            for name in self.columns
        }
        kinds = list({**own, **carried}.items())
        schema = pa.schema(kinds, metadata={"circuits": json.dumps(about)})
        labels = [
            pa.array(list(some), pa.string()).dictionary_encode() for some in self.columns.values()
        ]
        sink = pa.BufferOutputStream()
        at_once = max(1, _ROWS_AT_ONCE // n)
        with pa.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
            for start in range(0, n_cells, at_once):
                some = np.arange(start, min(start + at_once, n_cells))
                again = pa.array(np.tile(np.arange(n), len(some)))
                arrays = [*self._of(some), *(column.take(again) for column in labels)]
                writer.write_table(pa.table(arrays, schema=schema))
        return sink.getvalue()

    def _of(self, some: NDArray[np.int64]) -> list[Any]:
        """The columns of these cells."""
        pa, n = arrow(), self.values.shape[1]
        codes = pa.array(np.repeat(some, n), pa.int32())
        return [
            pa.array(np.tile(np.arange(self.first, self.first + n), len(some))),
            pa.DictionaryArray.from_arrays(codes, pa.array(self.cells, pa.string())),
            pa.array(self.values[some].ravel()),
            pa.array(np.repeat(self.changed[some], n)),
        ]


def _decode(content: bytes, n_cells: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    pa = arrow()
    table = pa.parquet.read_table(pa.BufferReader(content), columns=["value", "changed"])
    values = table["value"].to_numpy().reshape(n_cells, -1)
    return values, table["changed"].to_numpy().reshape(values.shape)[:, 0]
