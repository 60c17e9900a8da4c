"""Sends each task to every library in turn, and believes a time only if its numbers agree."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np

from experiments.benchmarks.items import ITEMS, Item, Shape
from experiments.benchmarks.peers import Peer

PACKAGE = __name__.rpartition(".")[0]
ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 5e-3  # of the standard deviation of the numbers; whole numbers agree exactly
WARM_UP = 5.0  # seconds; a first run that takes longer counts
LIMIT = 900.0  # seconds for one answer


@dataclass(frozen=True)
class Effort:
    """Up to `repeats` runs of a task in each library, but no further one after `seconds`.

    `probe` seconds are spent on each way to find out how fast the machine is. `clock` is "wall", or
    "processor" where other programs run: their time is not counted, but all threads' is.
    """

    repeats: int = 5
    seconds: float = 12.0
    probe: float = 1.5
    threads: int = 2
    clock: str = "wall"


@dataclass
class Timing:
    """How did a library do a task? `word` says why there is no time, or what is wrong with it."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    numbers: list[list[float]] = field(default_factory=list)
    exact: bool = True
    word: str = ""
    is_compared: bool = False  # with another family's numbers

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds and not self.word else None

    @property
    def peak(self) -> float | None:
        return statistics.median(self.peaks) if self.peaks and not self.word else None

    def to_json(self) -> dict[str, Any]:
        return {
            "median_seconds": self.median,
            "seconds": self.seconds,
            "peak_bytes": self.peak,
            "word": self.word,
            "is_compared": self.is_compared,
        }


class WorkerDied(Exception):
    """The process ended before it answered. The message is the last it said."""


class Worker:
    """A library with the model, in a process of its own."""

    def __init__(self, peer: Peer, python: str, folder: Path, threads: int) -> None:
        self.peer, self.python, self.folder, self.threads = peer, python, folder, threads
        self.versions: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Import the library and load the model.

        Raises:
            WorkerDied: when it cannot.
        """
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [self.python, "-m", f"{PACKAGE}.worker", self.peer.module, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=environment(self.threads),
        )
        self.versions = self._read()["versions"]

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One task, one answer; a process that died before is started again.

        Raises:
            WorkerDied: when it dies of this one.
        """
        if self.process is None:
            self.start()
        with suppress(BrokenPipeError):  # `_read` says what happened
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        timer = Timer(LIMIT, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        said = [text.strip() for text in self.errors if text.strip()]
        self.stop()
        raise WorkerDied(f"{said[-1][:200] if said else 'no message'} (status {status})")

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
            self.errors.close()
            self.process = None


def environment(threads: int) -> dict[str, str]:
    """The variables of a worker's process: so many threads, no network."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    own = dict.fromkeys(names, str(threads))
    own |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    return os.environ | own


def run_items(
    items: Sequence[Item],
    workers: Sequence[Worker],
    shape: Shape,
    effort: Effort,
    say: Callable[[str], None],
) -> dict[str, dict[str, Timing]]:
    """Every task in every library: item name -> peer name -> timing."""
    results: dict[str, dict[str, Timing]] = {}
    for item in items:
        timings = {worker.peer.name: Timing() for worker in workers}
        for _ in range(effort.repeats + 2):
            for worker in workers:
                timing = timings[worker.peer.name]
                enough = len(timing.seconds) == effort.repeats
                if not (timing.word or enough or sum(timing.seconds) >= effort.seconds):
                    _once(item, worker, shape, timing, effort.clock)
        agree(timings, {worker.peer.name: worker.peer.family for worker in workers})
        results[item.name] = timings
        say(f"{item.label(shape):45}" + "  ".join(_short(n, t) for n, t in timings.items()))
    return results


def _once(item: Item, worker: Worker, shape: Shape, timing: Timing, clock: str) -> None:
    """Run a task: first to warm up, then for its memory, and then for its time.

    A slow task needs no warming up, and its first run tells both.
    """
    is_first, for_memory = not timing.numbers, not timing.peaks
    try:
        if item.where == "process":
            answer = fresh_import(item, worker)
        else:
            given = item.given(shape).to_json()
            question = {"item": item.name, "given": given, "memory": for_memory, "clock": clock}
            answer = worker.ask(question)
    except WorkerDied as death:
        timing.word = f"failed: {death}"
        return
    if "declined" in answer:
        timing.word = answer["declined"]
        return
    timing.numbers.append(answer["numbers"])
    timing.exact = answer["exact"]
    fast = answer["seconds"] < WARM_UP
    if is_first and fast:
        return
    if answer["peak_bytes"] is not None:
        timing.peaks.append(answer["peak_bytes"])
    if not (for_memory and fast and item.where == "worker"):
        timing.seconds.append(answer["seconds"])


def fresh_import(item: Item, worker: Worker) -> dict[str, Any]:
    """How long does the library's import take in a process that has done nothing else?"""
    statement = worker.peer.imports[item.name == "import_ready"]
    if not statement:
        return {"declined": "is no library to import"}
    code = (
        "import json, time; start = time.perf_counter()\n"
        f"{statement}\n"
        "seconds = time.perf_counter() - start\n"
        "import os; status = '/proc/self/status'; peak = None\n"
        "if os.path.exists(status):\n"
        "    peak = int(open(status).read().split('VmHWM:')[1].split()[0]) * 1024\n"
        "print(json.dumps({'seconds': seconds, 'peak_bytes': peak, 'numbers': [], 'exact': True}))"
    )
    done = subprocess.run(
        [worker.python, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(worker.threads),
        check=False,
    )
    if done.returncode:
        raise WorkerDied((done.stderr.strip() or "no message").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def agree(timings: dict[str, Timing], families: dict[str, str]) -> None:
    """Mark the timings whose numbers are not those that most families of libraries found."""
    done = {name: timing for name, timing in timings.items() if timing.numbers}
    votes = {
        name: len({families[other] for other, theirs in done.items() if _same(own, theirs)})
        for name, own in done.items()
    }
    most = max(votes.values(), default=0)
    leaders = [name for name in done if votes[name] == most]
    several = len({families[name] for name in done}) > 1
    tie = any(not _same(done[leaders[0]], done[name]) for name in leaders)
    for timing in done.values():
        if not _same(timing, timing):
            timing.word = "refused: its numbers differ from run to run"
        elif several and (most < 2 or tie or not _same(done[leaders[0]], timing)):
            timing.word = "refused: its numbers are not those of the others"
        timing.is_compared = several


def _same(a: Timing, b: Timing) -> bool:
    """Are all numbers of the one those of the other, within the tolerance?"""
    expected = np.array(a.numbers[0])
    allowed = 0.0 if a.exact or b.exact else TOLERANCE * expected.std()
    return all(
        len(numbers) == len(expected)
        and bool(np.all(np.abs(np.array(numbers) - expected) <= allowed))
        for numbers in b.numbers
    )


def _short(name: str, timing: Timing) -> str:
    return f"{name}: {timing.word or f'{timing.median:.3g} s'}"


def installed(peer: Peer, interpreter: str) -> str | None:
    """Why can this library not be run by this interpreter? None if it can."""
    if not Path(interpreter).exists():
        return f"{interpreter} does not exist"
    if not peer.distribution:
        return None
    code = f"import importlib.metadata as m; print(m.version({peer.distribution!r}))"
    found = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False)
    version = found.stdout.strip()
    if found.returncode:
        return "not installed"
    return None if version.startswith(peer.version) else f"version {version} is installed"


def chosen_items(
    only: Iterable[str] | None, prompts: int | None = None, tokens: int | None = None
) -> list[Item]:
    """The tasks of these names, in the order of the table; all without names.

    `prompts` and `tokens` are how many each of them gets, instead of its own numbers.
    """
    known = {item.name: item for item in ITEMS}
    unknown = [name for name in only or () if name not in known]
    if unknown:
        sys.exit(f"there is no item {unknown[0]!r}; choose from {', '.join(known)}")
    return [
        replace(item, batch=prompts or item.batch, length=tokens or item.length)
        for item in ITEMS
        if not only or item.name in only
    ]
