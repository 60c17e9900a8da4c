"""What `python -m experiments.benchmarks --scaling` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks.driver import Effort
from experiments.benchmarks.scaling.points import points
from experiments.benchmarks.scaling.report import write_report
from experiments.benchmarks.scaling.runs import Say, measure, read, write

# One thread and the processor's clock, which other programs disturb least.
FULL = Effort(repeats=3, seconds=6.0, threads=1, clock="processor")
QUICK = Effort(repeats=1, seconds=1.0, probe=0.1, threads=1, clock="processor")


@dataclass(frozen=True)
class Asked:
    """What was asked for: which axes (all without names), and whether anew or of tiny models."""

    axes: Sequence[str] = ()
    quick: bool = False
    again: bool = False
    only_report: bool = False


def scaling(folder: Path, asked: Asked, say: Say = print) -> bool:
    """Measure, and write ``scaling.json``, ``.md`` and ``.svg``; whether nothing interrupted it."""
    path, every = folder / "scaling.json", points(quick=asked.quick)
    some = [point for point in every if not asked.axes or point.axis in asked.axes]
    whole = True
    if not asked.only_report:
        try:
            measure(some, path, QUICK if asked.quick else FULL, again=asked.again, say=say)
        except KeyboardInterrupt:
            whole = False
            say("interrupted; the same command goes on from here")
    results = read(path)
    if results is not None:
        results = results.only(every)
        write(results, path)
        write_report(results, folder)
        say(f"written to {folder}")
    return whole
