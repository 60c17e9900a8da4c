"""From results to a page: exponents, what breaks first, and all numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from circuits.figures import save_figure
from circuits.files import replacing
from experiments.benchmarks.report import _seconds as time_text
from experiments.benchmarks.scaling.counting import operations
from experiments.benchmarks.scaling.figure import figure
from experiments.benchmarks.scaling.fits import Fit
from experiments.benchmarks.scaling.lines import (
    MOST_BYTES,
    MOST_SECONDS,
    Line,
    lines,
    more,
    of_axis,
    seconds,
)
from experiments.benchmarks.scaling.plan import plan
from experiments.benchmarks.scaling.points import AXES
from experiments.benchmarks.scaling.runs import Results, Row

NOTHING = "–"


def write_report(results: Results, folder: Path) -> None:
    """Write ``scaling.md`` and ``scaling.svg`` into this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "scaling.md") as partial:
        partial.write_text(page(results), encoding="utf-8")
    save_figure(figure(results), folder / "scaling.svg")


def page(results: Results) -> str:
    """The whole page."""
    parts = ["# How cost grows", about(results), "![How cost grows](scaling.svg)"]
    parts += ["## With which power", POWERS, exponents(results)]
    parts += ["## What breaks first", breaks(results)]
    for axis, unit in AXES.items():
        if some := of_axis(results, axis):
            parts += [f"## All numbers: {axis}", WORKERS if axis == "workers" else ""]
            parts += [workers_table(some) if axis == "workers" else numbers(results, some, unit)]
    if absent := [f"- {row.point}: {row.word}" for row in results.rows if row.word]:
        parts += ["## Not measured", "\n".join(absent)]
    return "\n\n".join([*filter(None, parts), *plan(results)]) + "\n"


POWERS = (
    "The exponent of time is the slope of the straight line through the logarithms, ± its standard "
    "error from how far the points are off it; “last” is the slope between the two largest sizes. "
    "“Counted” is the slope of the operations that the cheapest exact algorithm needs at the same "
    "sizes. Memory is that of the process where the model grows, elsewhere what the task adds."
)
WORKERS = (
    "Seconds that pass, on the cluster and in one process of one thread, in turn. “A task more” is "
    "what all processes (the cluster's own among them) used of the processors beyond what one "
    "process uses for the same plan, divided by the tasks. Bytes are those that are sent: model "
    "and plan to each worker, scores back from each task."
)


def about(results: Results) -> str:
    """The machine and the manner, in one paragraph."""
    machine = results.machine
    speeds = ", ".join(
        f"{fast['flops'] / 1e9:.0f} GFLOP/s in {dtype} ({fast['by']})"
        for dtype, fast in results.speed.items()
    )
    clock = {
        "processor": "Times are the processor's own, but for the workers', where seconds passed; "
        "other programs ran beside.",
        "wall": "Times are seconds that passed.",
    }[results.clock]
    return (
        f"{machine['threads']} thread{'s' * (machine['threads'] > 1)} of {machine['cpu']} "
        f"({machine['cores']} cores, {machine['system']}), torch {machine['torch']}, "
        f"{results.date}. Every point is a process of its own, and a median of up to three runs. "
        f"{clock} Models but `mini` and `sort-abc` have random weights. The fastest matrix product "
        f"of this thread: {speeds}. “Of the limit” is the least time at that speed, divided by the "
        "measured one. Written by `python -m experiments.benchmarks --scaling`."
        f"{earlier(results)}"
    )


def earlier(results: Results) -> str:
    """Which points did other code measure than most? Empty if none."""
    codes = Counter(row.code for row in results.rows if row.measured)
    others = codes.total() - max(codes.values(), default=0)
    return f" Of another state of the code than the rest: {others} points." if others else ""


def exponents(results: Results) -> str:
    """By which power does each line grow?"""
    head = ["", "", "from – to", "time ∝ size^", "last", "counted", "memory ∝ size^"]
    rows = [
        [
            line.axis,
            line.name,
            f"{short(line.sizes[0])} – {short(line.sizes[-1])}",
            power(line.time),
            f"{line.time.last:.2f}" if line.time else NOTHING,
            f"{line.counted.exponent:.2f}" if line.counted else NOTHING,
            power(line.memory),
        ]
        for line in lines(results)
        if line.axis != "workers"
    ]
    return table(head, rows)


def power(line: Fit | None) -> str:
    """An exponent with its standard error."""
    if line is None:
        return NOTHING
    return f"{line.exponent:.2f}" + ("" if line.stderr is None else f" ± {line.stderr:.2f}")


def breaks(results: Results) -> str:
    """At which size does each line take an hour, and when 16 GB; which of them is first?"""
    head = ["", "", f"{MOST_SECONDS / 3600:.0f} h of a thread at", f"{MOST_BYTES / 1e9:.0f} GB at"]
    rows, said = [], []
    for axis, unit in AXES.items():
        ends: list[tuple[float, str]] = []
        for line in of_axis(results, axis) if axis != "workers" else []:
            rows.append([axis, line.name, size(line.slow_at), size(line.large_at)])
            ends += [(at, f"the time of “{line.name}”") for at in [line.slow_at] if at]
            ends += [(at, f"the memory of “{line.name}”") for at in [line.large_at] if at]
        if ends:
            at, what = min(ends)
            said.append(f"- **{axis}**: {what}, at {short(at)} {unit}.")
    said += [*prompts_said(results), *workers_said(results)]
    text = (
        "Each line carried on as between its two largest sizes; “flat” where it does not grow. "
        "GPT-2 itself ends at 1,024 tokens of context."
    )
    return "\n\n".join([text, table(head, rows), "\n".join(said)])


def prompts_said(results: Results) -> list[str]:
    """Is memory flat in the number of prompts?"""
    return [
        f"- **prompts**, {line.name}: the peak is {line.peaks[0] / 1e6:.0f} MB with "
        f"{short(line.sizes[0])} prompts and {line.peaks[-1] / 1e6:.0f} MB with "
        f"{short(line.sizes[-1])}."
        for line in of_axis(results, "prompts")
    ]


def workers_said(results: Results) -> list[str]:
    """What does the cluster cost, and from which number of workers on does it not help?"""
    return [
        f"- **workers**, {line.name}: at best {best[0]:.1f} times as fast as one process, with "
        f"{best[1]:.0f} workers on {results.machine['cores']} cores."
        for line in of_axis(results, "workers")
        if (best := max((here / there, n) for n, here, there in speedups(line)))
    ]


def speedups(line: Line) -> list[tuple[float, float, float]]:
    """Workers, seconds here, seconds there."""
    return list(zip(line.sizes, more(line.rows, "here_seconds"), line.seconds, strict=True))


def numbers(results: Results, some: Sequence[Line], unit: str) -> str:
    """All points of an axis."""
    head = ["", unit, "time", "of the limit", "peak of the process", "the task adds", ""]
    rows = [
        [line.name, f"{row.point.x:,}", *cells(results, row), note(row)]
        for line in some
        for row in line.rows
    ]
    return table(head, rows)


def cells(results: Results, row: Row) -> list[str]:
    """Time, share of the limit, and memory of one point."""
    if row.measured is None:
        return [NOTHING] * 4
    took, count = seconds(row), operations(row.point)
    limit = count / results.speed[row.point.dtype]["flops"] / took if count else None
    added = row.measured.peak - row.measured.before
    return [
        time_text(took),
        f"{limit:.0%}" if limit else NOTHING,
        f"{row.measured.peak / 1e6:,.0f} MB",
        f"{added / 1e6:,.0f} MB",
    ]


def note(row: Row) -> str:
    """The model where that is what differs, and what else was measured."""
    kept = more([row], "cache_bytes")
    named = [row.point.model] if row.point.axis == "model" else []
    return ", ".join([*named, *(f"cache {value / 1e6:,.0f} MB" for value in kept)])


def workers_table(some: Iterable[Line]) -> str:
    """All points of the cluster."""
    head = ["", "workers", "tasks", "one process", "cluster", "a task more", "cluster starts"]
    head += ["first time", "model", "plan", "a task's scores", "a worker's memory"]
    rows = []
    for line in some:
        for row in line.rows:
            known = row.measured.more if row.measured else {}
            beyond = known["there_processor"] - known["here_processor"]
            rows.append(
                [
                    line.name,
                    str(row.point.n),
                    f"{known['tasks']:.0f}",
                    time_text(known["here_seconds"]),
                    time_text(seconds(row)),
                    f"{1000 * beyond / known['tasks']:.1f} ms",
                    time_text(known["cluster_seconds"]),
                    time_text(known["first_seconds"]),
                    *(f"{known[f'{name}_bytes'] / 1e6:,.1f} MB" for name in ("model", "plan")),
                    f"{known['scores_bytes']:,.0f} B",
                    f"{known['worker_bytes'] / 1e6:,.0f} MB",
                ]
            )
    return table(head, rows)


def size(value: float | None) -> str:
    return "flat" if value is None else short(value)


def short(value: float) -> str:
    """A size in few letters.

    >>> short(1024), short(124439808), short(2.2e11)
    ('1,024', '124 M', '220 G')
    """
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:,.3g} {letter}" if value < 1e15 else f"{value:.0e}"
    return f"{value:,.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown: texts on the left, numbers on the right."""
    texts = sum(not cell for cell in head[:2])
    line = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, line, *rows))
