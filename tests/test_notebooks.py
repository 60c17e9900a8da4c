"""Every notebook runs from a clean state, is short to read, and is committed with its outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from notebooks import cleaned, execute, paths, read

MOST_BYTES = 300_000
MOST_LINES = 8  # of a cell


@pytest.fixture(params=paths(), ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.mark.slow
def test_it_runs_as_it_stands(path: Path) -> None:
    before = read(path)
    after = execute(path)  # an error in a cell is an error here
    for was, now in zip(before.cells, after.cells, strict=True):
        if was.cell_type == "code":
            kinds = [[output.output_type for output in cell.outputs] for cell in (was, now)]
            assert kinds[0] == kinds[1], f"{path.name} is committed with outputs of another kind"


def test_it_is_read_with_its_outputs(path: Path) -> None:
    notebook = read(path)
    assert path.stat().st_size < MOST_BYTES
    assert path.read_text(encoding="utf-8") == nbformat.writes(cleaned(read(path))) + "\n"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) > 2 * len(code) * 0.7  # prose between the cells
    assert notebook.cells[0].source.startswith("# ")
    assert all(cell.execution_count for cell in code)
    assert sum(bool(cell.outputs) for cell in code) > len(code) / 2
    for cell in code:
        assert len(cell.source.splitlines()) <= MOST_LINES, cell.source
        assert not any(output.output_type in ("error", "stream") for output in cell.outputs)


def test_it_shows_no_place_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert not re.search(r"https?://[^\s\"\\)]*cdn", text)


def test_they_are_numbered_without_a_gap() -> None:
    assert [path.name[:2] for path in paths()] == [f"{i + 1:02d}" for i in range(len(paths()))]
