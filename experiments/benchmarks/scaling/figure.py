"""One figure: time above, memory below, an axis a column."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from circuits.figures.style import CATEGORIES, GRAY, STYLE
from experiments.benchmarks.scaling.fits import Fit
from experiments.benchmarks.scaling.lines import Line, more, of_axis
from experiments.benchmarks.scaling.points import AXES
from experiments.benchmarks.scaling.runs import Results

COLUMN, HEIGHT = 3.7, 9.0  # inches


@rc_context(STYLE)
def figure(results: Results) -> Figure:
    """How do time and memory grow with each axis? Both on logarithmic axes."""
    names = [axis for axis in AXES if of_axis(results, axis)]
    drawn = Figure(figsize=(COLUMN * max(1, len(names)), HEIGHT), layout="constrained")
    panels = drawn.subplots(2, max(1, len(names)), squeeze=False)
    for (above, below), axis in zip(panels.T, names, strict=False):
        some = of_axis(results, axis)
        if axis == "workers":
            _workers(above, below, some)
            continue
        whole = axis in ("model", "prompts")
        above.set_ylabel("seconds")
        below.set_ylabel("MB of the process" if whole else "MB that the task adds")
        below.set_xlabel(AXES[axis])
        timed = [(line, line.seconds, line.time) for line in some]
        _draw(above, timed, f"{axis}: exponents of time")
        memory = [
            (line, [b / 1e6 for b in (line.peaks if whole else line.growths)], line.memory)
            for line in some
        ]
        _draw(below, memory, "exponents of memory")
    return drawn


def _draw(axes: Axes, some: Sequence[tuple[Line, Sequence[float], Fit | None]], title: str) -> None:
    """Lines on logarithmic axes, named with their exponents."""
    looks = _looks([line.name for line, _, _ in some])
    for line, costs, power in some:
        color, style = looks[line.name]
        said = "" if power is None else f": {power.exponent:.2f}"
        axes.plot(
            line.sizes,
            costs,
            style,
            marker="o",
            markersize=4,
            color=color,
            label=f"{line.name}{said}",
        )
    axes.set(xscale="log", yscale="log")
    lowest = min(cost for _, costs, _ in some for cost in costs)
    highest = max(cost for _, costs, _ in some for cost in costs)
    if highest < 10 * max(lowest, 1e-9):  # so that what is flat looks flat
        middle = (lowest * highest) ** 0.5
        axes.set_ylim(middle / 10, middle * 10)
    if highest < 300 * lowest:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(_number))
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    sizes = sorted({size for line, _, _ in some for size in line.sizes})
    if len(sizes) <= 5:
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    _finish(axes, title)


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A color for each name, and a style of line: half precision is dashed, in the same color."""
    plain = list(dict.fromkeys(name.rpartition(", ")[0] or name for name in names))
    return {
        name: (
            CATEGORIES[plain.index(name.rpartition(", ")[0] or name) % len(CATEGORIES)],
            "--" if name.endswith("bfloat16") else "-",
        )
        for name in names
    }


def _workers(above: Axes, below: Axes, some: Sequence[Line]) -> None:
    """How many times as fast as one process, and what a task costs more."""
    for line, color in zip(some, CATEGORIES, strict=False):
        here = more(line.rows, "here_seconds")
        faster = [alone / there for alone, there in zip(here, line.seconds, strict=True)]
        tasks = more(line.rows, "tasks")
        used = zip(
            more(line.rows, "there_processor"), more(line.rows, "here_processor"), strict=True
        )
        beyond = [1000 * (a - b) / n for (a, b), n in zip(used, tasks, strict=True)]
        look = {"marker": "o", "markersize": 4, "color": color}
        above.plot(line.sizes, faster, "-", label=line.name, **look)
        below.plot(line.sizes, beyond, "-", label=f"{line.name}: {tasks[0]:.0f} tasks", **look)
    most = int(max(size for line in some for size in line.sizes))
    above.plot([1, most], [1, most], ":", color=GRAY, label="as many times as workers")
    below.axhline(0, color=GRAY, linewidth=0.8)
    for axes in (above, below):
        axes.set_xticks(range(1, most + 1))
    above.set_ylabel("times as fast as one process")
    below.set_ylabel("ms of processors that a task costs more")
    below.set_xlabel(AXES["workers"])
    _finish(above, "workers")
    _finish(below, "what it costs")


def _finish(axes: Axes, title: str) -> None:
    """A grid, and the lines' names above it under a title."""
    axes.grid(color="#e3e3e3", linewidth=0.6)
    axes.spines[:].set_visible(False)
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        fontsize=8,
        title=title,
        title_fontproperties={"weight": "bold", "size": 10},
        alignment="left",
        handlelength=2.6,
    )
    legend.set_in_layout(True)


def _number(value: float, _: object) -> str:
    """A number as short as it can be said.

    >>> _number(1500000000, 0), _number(124000000, 0), _number(0.01, 0)
    ('1.5G', '124M', '0.01')
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10 * unit or value >= unit > 1e3:
            return f"{value / unit:.3g}{letter}"
    return f"{value:g}"
