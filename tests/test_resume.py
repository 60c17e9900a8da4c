"""A long run that is killed for real goes on where it was: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import long_runs
import numpy as np
import pytest
from long_runs import BLOCK, environment, write_words

pq = pytest.importorskip("pyarrow.parquet")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX"),
]

N = 40 * BLOCK + 30
LIMIT = 300.0  # seconds after which a test fails rather than hangs


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "words.csv", N)


@pytest.fixture(scope="module")
def undisturbed(words: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What comes of a run that nobody disturbs, and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return finish(words, folder), folder


def start(words: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, long_runs.__file__, str(words), str(folder), *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())


def finish(words: Path, folder: Path, *options: str) -> str:
    process = start(words, folder, *options)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return out


def n_parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


def disturb(process: subprocess.Popen[str], folder: Path, n: int, what: signal.Signals) -> str:
    """Send a signal when there are `n` parts; returns what the process said to it."""
    deadline = time.monotonic() + LIMIT
    while n_parts(folder) < n and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(what)
    return process.communicate(timeout=LIMIT)[1]


def check_same(folder: Path, other: Path) -> None:
    """The same files with the same bytes, and every prompt in them once."""
    names = sorted(path.name for path in other.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    tables = [pq.read_table(folder / name) for name in names if name.endswith(".parquet")]
    asked = np.concatenate([table["prompt"].to_numpy() for table in tables])
    counts = np.bincount(asked)
    assert counts.tolist() == [10] * N  # nine heads and the base run


def test_killed_three_times(words: Path, tmp_path: Path, undisturbed: tuple[str, Path]) -> None:
    folder, options = tmp_path / "run", []
    for n in (1, 9, 22):
        process = start(words, folder, *options)
        disturb(process, folder, n, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert n <= n_parts(folder) < 41
        options = ["--resume"]
    assert finish(words, folder, *options) == undisturbed[0]
    check_same(folder, undisturbed[1])


def test_interrupted_from_the_keyboard(
    words: Path, tmp_path: Path, undisturbed: tuple[str, Path]
) -> None:
    folder = tmp_path / "run"
    process = start(words, folder)
    said = disturb(process, folder, 5, signal.SIGINT)
    assert process.returncode in (130, -signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not list(folder.glob(".*"))  # nothing half written is left
    assert finish(words, folder, "--resume") == undisturbed[0]
    check_same(folder, undisturbed[1])


def test_a_full_disk(words: Path, tmp_path: Path, undisturbed: tuple[str, Path]) -> None:
    """The manifest outgrows what the process may write: as on a full disk, in the middle."""
    folder = tmp_path / "run"
    limited = f"ulimit -f 8; exec {sys.executable} {long_runs.__file__} {words} {folder}"
    done = subprocess.run(
        ["bash", "-c", limited],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert "CircuitsError" in done.stderr
    assert "cannot be written: File too large; the " in done.stderr
    assert 0 < n_parts(folder) < 41
    assert finish(words, folder, "--resume") == undisturbed[0]
    check_same(folder, undisturbed[1])
