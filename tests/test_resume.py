"""A long run that is killed for real goes on where it was: nothing lost, nothing twice."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from long_runs import environment, write_words

from circuits.prompts.files import BLOCK
from circuits.sweep.parts import MANIFEST

pq = pytest.importorskip("pyarrow.parquet")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX"),
]

N = 15 * BLOCK + 30
QUESTION = "ablate --model sort-abc --all-heads --method mean --quiet --json".split()
LIMIT = 300.0  # seconds after which a test fails rather than hangs


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "words.csv", N)


@pytest.fixture(scope="module")
def undisturbed(words: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What comes of a run that nobody disturbs, and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return finish(words, folder), folder


@pytest.fixture
def begun(tmp_path: Path, undisturbed: tuple[str, Path]) -> Path:
    """The folder of a run that died before its first part, begun as the undisturbed one."""
    (tmp_path / "run").mkdir()
    header = (undisturbed[1] / MANIFEST).read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "run" / MANIFEST).write_bytes(header)
    return tmp_path / "run"


def command(words: Path, folder: Path, *options: str) -> list[str]:
    files = ["--file", str(words), "--parts", str(folder)]
    return [sys.executable, "-m", "circuits", *QUESTION, *files, *options]


def start(words: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(words, folder, *options), stdout=pipe, stderr=pipe, text=True, env=environment()
    )


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
    out, err = process.communicate(timeout=LIMIT)
    assert out == ""  # it was not done yet
    return err


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


def test_killed_three_times(words: Path, begun: Path, undisturbed: tuple[str, Path]) -> None:
    for n in (1, 5, 10):
        process = start(words, begun, "--resume")
        disturb(process, begun, n, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert n <= n_parts(begun) < 16
    assert finish(words, begun, "--resume") == undisturbed[0]
    check_same(begun, undisturbed[1])


def test_interrupted_from_the_keyboard(
    words: Path, begun: Path, undisturbed: tuple[str, Path]
) -> None:
    process = start(words, begun, "--resume")
    said = disturb(process, begun, 5, signal.SIGINT)
    assert (process.returncode, said) == (130, "interrupted\n")
    assert not list(begun.glob(".*"))  # nothing half written is left
    assert finish(words, begun, "--resume") == undisturbed[0]
    check_same(begun, undisturbed[1])


def test_a_full_disk(words: Path, begun: Path, undisturbed: tuple[str, Path]) -> None:
    """A process that may write only small files finds itself, in mid-run, as on a full disk."""
    disturb(start(words, begun, "--resume"), begun, 3, signal.SIGKILL)
    before = n_parts(begun)
    limited = f"ulimit -f 1; exec {shlex.join(command(words, begun, '--resume'))}"
    done = subprocess.run(
        ["bash", "-c", limited],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = f"error: {begun}/part-[0-9]*.parquet cannot be written: File too large; the [0-9]* "
    assert re.match(said, done.stderr)
    assert n_parts(begun) >= before - 1  # one may have been there before it counted
    assert finish(words, begun, "--resume") == undisturbed[0]
    check_same(begun, undisturbed[1])
