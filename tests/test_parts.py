"""Parts on disk: whole or not there, counted once, and refused when they answer something else."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from circuits.errors import CircuitsError
from circuits.prompts import Mark
from circuits.sweep import parts as module
from circuits.sweep.parts import MANIFEST, Parts, opened

pq = pytest.importorskip("pyarrow.parquet")

CELLS = ("base", "a0.h0", "a0.h1->m1")
QUESTION = {"analysis": "ablate", "arguments": {"method": "zero", "all_heads": True}}
CHANGED = np.array([False, True, True])


def block(index: int, n: int = 4) -> np.ndarray:
    return np.random.default_rng(index).normal(size=(len(CELLS), n))


def end(index: int, n: int = 4) -> Mark:
    return Mark((index + 1) * n, (index + 1) * n, (index + 1) * 7 * n, f"{index:064d}")


def write(folder: Path, n_parts: int, **options: bool) -> None:
    with opened(folder, QUESTION, CELLS, **options) as parts:
        for index in range(len(parts.written), n_parts):
            parts.write(block(index), CHANGED, end(index))


def check(parts: Parts, n_parts: int) -> None:
    read = list(parts.read())
    assert len(read) == n_parts
    for index, (values, changed) in enumerate(read):
        assert_array_equal(values, block(index))
        assert_array_equal(changed, CHANGED)
    assert parts.end == (end(n_parts - 1) if n_parts else Mark())


@pytest.mark.parametrize("n_parts", [0, 1, 3])
def test_what_was_written_is_read(tmp_path: Path, n_parts: int) -> None:
    write(tmp_path / "new" / "run", n_parts)
    with opened(tmp_path / "new" / "run", QUESTION, CELLS, resume=True) as parts:
        check(parts, n_parts)
        assert not parts.complete
        parts.finish()
    with opened(tmp_path / "new" / "run", QUESTION, CELLS, resume=True) as parts:
        check(parts, n_parts)
        assert parts.complete


def test_a_part_is_a_table_that_says_where_it_comes_from(tmp_path: Path) -> None:
    write(tmp_path / "run", 2)
    table = pq.read_table(tmp_path / "run" / "part-000001.parquet")
    assert table.schema.names == ["prompt", "cell", "value", "changed"]
    assert str(table.schema.field("cell").type).startswith("dictionary<values=string")
    frame = table.to_pandas()
    assert frame["prompt"].tolist() == [4, 5, 6, 7] * 3
    assert frame["cell"].tolist() == [name for name in CELLS for _ in range(4)]
    assert_array_equal(frame["value"], block(1).ravel())
    about = json.loads(table.schema.metadata[b"circuits"])
    assert about["question"] == QUESTION
    assert (about["part"], about["end"]["n_prompts"]) == (1, 8)
    lines = list(map(json.loads, (tmp_path / "run" / MANIFEST).read_text().splitlines()))
    assert lines[0] == {"format": 1, "question": QUESTION, "began": {}}
    assert lines[2]["file"] == "part-000001.parquet"
    assert (lines[2]["prompts"], lines[2]["rows"]) == (4, 12)


def test_large_blocks_are_written_in_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 5)
    write(tmp_path / "run", 1)
    assert pq.ParquetFile(tmp_path / "run" / "part-000000.parquet").num_row_groups == 3
    with opened(tmp_path / "run", QUESTION, CELLS, resume=True) as parts:
        check(parts, 1)


@given(st.data())
@settings(max_examples=30)
def test_a_torn_manifest_loses_only_what_was_not_counted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut off anywhere: every line that is whole counts, and the run can go on."""
    folder = tmp_path_factory.mktemp("torn") / "run"
    write(folder, 3)
    manifest = folder / MANIFEST
    content = manifest.read_bytes()
    header = content.index(b"\n") + 1
    cut = data.draw(st.integers(header, len(content)))
    manifest.write_bytes(content[:cut])
    with opened(folder, QUESTION, CELLS, resume=True) as parts:
        n_whole = content[header:cut].count(b"\n")
        check(parts, n_whole)
        assert len(list(folder.glob("part-*"))) == n_whole
        for index in range(n_whole, 3):
            parts.write(block(index), CHANGED, end(index))
        check(parts, 3)
    assert manifest.read_bytes() == content


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    write(tmp_path / "run", 1)
    for name in (".part-000001.parquet.tmp", "part-000001.parquet", "part-000007.parquet"):
        (tmp_path / "run" / name).write_bytes(b"torn")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    write(tmp_path / "run", 2, resume=True)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [MANIFEST, "notes.txt", "part-000000.parquet", "part-000001.parquet"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (QUESTION | {"analysis": "patch"}, "analysis was 'ablate', now 'patch'; ask the same"),
        (QUESTION | {"n": 5}, "n was None, now 5"),
        (
            {"analysis": "ablate", "arguments": {"method": "mean", "all_heads": True}},
            "of another question: arguments.method was 'zero', now 'mean'; ask",
        ),
    ],
)
def test_another_question_is_refused(
    tmp_path: Path, question: dict[str, object], message: str
) -> None:
    write(tmp_path / "run", 1)
    with (
        pytest.raises(CircuitsError, match=message),
        opened(tmp_path / "run", question, CELLS, resume=True),
    ):
        pass
    write(tmp_path / "run", 2, resume=True)  # and nothing was spoiled


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CircuitsError, match="holds no run to go on with"):
        write(tmp_path / "none", 1, resume=True)
    write(tmp_path / "run", 1)
    with pytest.raises(CircuitsError, match=r"already holds a run; go on .*--resume"):
        write(tmp_path / "run", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(CircuitsError, match="already holds other files"):
        write(tmp_path / "mine", 1)
    with pytest.raises(CircuitsError, match=r"cannot be written: (File exists|Not a directory)"):
        write(tmp_path / "mine" / "notes.txt", 1)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            b'{"format": 2, "question": {}}\n',
            "has format 2, and this version of the package writes 1",
        ),
        (b"\0\0\n", "is damaged"),
        (b"[]\n", "is damaged"),
        (b"", "is damaged"),
        (b'{"format": 1, "question": {}, "began": {}}\n{"file": 3}\n', "is damaged"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, header: bytes, message: str) -> None:
    (tmp_path / MANIFEST).write_bytes(header)
    with pytest.raises(CircuitsError, match=message), opened(tmp_path, {}, CELLS, resume=True):
        pass


def test_a_part_that_is_gone_or_another_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "run", 2)
    part = tmp_path / "run" / "part-000000.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + b"?")
    with opened(tmp_path / "run", QUESTION, CELLS, resume=True) as parts:
        with pytest.raises(CircuitsError, match="is not what was written"):
            list(parts.read())
        part.unlink()
        with pytest.raises(CircuitsError, match="cannot be read: No such file"):
            list(parts.read())
        part.write_bytes(content)
        check(parts, 2)


def test_only_one_process_writes(tmp_path: Path) -> None:
    with opened(tmp_path / "run", QUESTION, CELLS) as parts:
        with pytest.raises(CircuitsError, match="another process is writing to"):
            write(tmp_path / "run", 1, resume=True)
        parts.write(block(0), CHANGED, end(0))
    write(tmp_path / "run", 2, resume=True)
    assert len(list((tmp_path / "run").glob("part-*"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX")
def test_a_full_disk_leaves_what_is_there(tmp_path: Path) -> None:
    """Where the file size ends, mid-part, as a full disk would end it."""
    folder = tmp_path / "run"
    write(folder, 2)
    code = f"""
import resource, numpy as np
from pathlib import Path
from test_parts import CELLS, CHANGED, QUESTION, end, opened
with opened(Path({str(folder)!r}), QUESTION, CELLS, resume=True) as parts:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    parts.write(np.random.default_rng(0).normal(size=(3, 4000)), CHANGED, end(2))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.returncode == 1
    assert "part-000002.parquet cannot be written: File too large; the 2 parts" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        MANIFEST,
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    write(folder, 3, resume=True)
    with opened(folder, QUESTION, CELLS, resume=True) as parts:
        check(parts, 3)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_appear", full)
    with pytest.raises(CircuitsError, match="cannot be written: No space left on device; nothing"):
        write(tmp_path / "run", 1)


def test_without_pyarrow_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CircuitsError, match=r'pip install "gpt2-circuits\[parts\]"'):
        write(tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()
