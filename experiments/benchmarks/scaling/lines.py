"""The measured points as lines, each with the powers by which its costs grow."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from experiments.benchmarks.scaling.counting import operations
from experiments.benchmarks.scaling.fits import Fit, fit, reaches
from experiments.benchmarks.scaling.points import AXES
from experiments.benchmarks.scaling.runs import Results, Row

MOST_BYTES, MOST_SECONDS = 16e9, 3600.0  # of memory; of time


@dataclass(frozen=True)
class Line:
    """The measured points of one line, from small to large."""

    axis: str
    name: str
    rows: tuple[Row, ...]

    @cached_property
    def sizes(self) -> list[float]:
        return [float(row.point.x) for row in self.rows]

    @cached_property
    def seconds(self) -> list[float]:
        return [seconds(row) for row in self.rows]

    @cached_property
    def peaks(self) -> list[float]:
        return [float(row.measured.peak) for row in self.rows if row.measured]

    @cached_property
    def growths(self) -> list[float]:
        """By how much the process grows with the task."""
        return [float(row.measured.peak - row.measured.before) for row in self.rows if row.measured]

    @property
    def time(self) -> Fit | None:
        return fit(self.sizes, self.seconds)

    @property
    def memory(self) -> Fit | None:
        """Of the whole process where the model grows; elsewhere of what the task adds."""
        return fit(self.sizes, self.peaks if self.axis == "model" else self.growths)

    @property
    def counted(self) -> Fit | None:
        """Of the operations at the same sizes, where they are counted."""
        counts = [operations(row.point) for row in self.rows]
        return None if None in counts else fit(self.sizes, [float(c or 0) for c in counts])

    @property
    def slow_at(self) -> float | None:
        """The size at which it takes `MOST_SECONDS`."""
        return reaches(self.sizes, self.seconds, MOST_SECONDS)

    @property
    def large_at(self) -> float | None:
        """The size at which the process has `MOST_BYTES`."""
        if self.axis == "model":
            return reaches(self.sizes, self.peaks, MOST_BYTES)
        left = MOST_BYTES - (self.peaks[-1] - self.growths[-1])
        return reaches(self.sizes, self.growths, left)


def lines(results: Results) -> list[Line]:
    """All lines that have points, axis by axis, in the order in which they were measured."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        if row.measured:
            rows.setdefault((row.point.axis, row.point.series), []).append(row)
    places = list(AXES)
    return [
        Line(axis, name, tuple(sorted(some, key=lambda row: row.point.x)))
        for (axis, name), some in sorted(rows.items(), key=lambda item: places.index(item[0][0]))
    ]


def of_axis(results: Results, axis: str) -> list[Line]:
    """The lines of one axis."""
    return [line for line in lines(results) if line.axis == axis]


def seconds(row: Row) -> float:
    """The median of its runs."""
    return statistics.median(row.measured.seconds) if row.measured else float("nan")


def more(rows: Sequence[Row], name: str) -> list[float]:
    """One of the other numbers that were measured, of each row."""
    return [row.measured.more[name] for row in rows if row.measured and name in row.measured.more]
