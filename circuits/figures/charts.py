"""Bars, curves and scatter plots: how large is each, how does it change, do two agree?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from circuits.errors import CircuitsError
from circuits.figures.style import (
    BLUE,
    CATEGORIES,
    INK,
    MOST_BARS,
    ORANGE,
    STYLE,
    Interval,
    Numbers,
    canvas,
    drawable,
    label_axis,
)

_MOST_WITHIN = 3  # curves whose names find room among them
_MOST_NAMED = 6  # points of a scatter plot that carry their names
_NAME_SIZE = 7.5  # in points
_SQUARE = (5.2, 4.6)  # inches of a scatter plot


@rc_context(STYLE)
def bars(
    labels: Sequence[str],
    values: Numbers,
    *,
    interval: Interval | None = None,
    title: str = "",
    unit: str = "",
) -> Figure:
    """How large is each? Horizontal bars from 0, in the order given, with their intervals.

    `values` and both ends of `interval` are [n]; NaN ends draw no interval.

    Raises:
        CircuitsError: when there are no bars, more than can be read, or labels are missing.

    >>> figure = bars(["a5.h3", "m7"], np.array([1.5, -0.2]), unit="logits")
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['a5.h3', 'm7']
    """
    if not 0 < len(labels) <= MOST_BARS or len(labels) != len(values):
        raise CircuitsError(
            f"a bar chart shows 1 to {MOST_BARS} values with a label each; given were "
            f"{len(values)} values and {len(labels)} labels (Result.top(n) picks the largest)"
        )
    figure, axes = canvas(6, 0.26 * len(labels) + 1.3, title)
    at = np.arange(len(labels))
    axes.barh(at, values, color=np.where(values < 0, ORANGE, BLUE).tolist(), height=0.7)
    if interval is not None:
        known = np.isfinite(interval[0]) & np.isfinite(interval[1])
        axes.hlines(at[known], interval[0][known], interval[1][known], color=INK, linewidth=1.2)
        for ends in interval:
            axes.plot(ends[known], at[known], "|", color=INK, markersize=5)
    axes.axvline(0, color=INK, linewidth=0.8)
    label_axis(axes.yaxis, len(labels), labels)
    pad = max(0, 3 - len(labels)) / 2  # one bar does not fill the figure
    axes.set_ylim(len(labels) - 0.4 + pad, -0.6 - pad)
    axes.set_xlabel(unit)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    return figure


@rc_context(STYLE)
def curves(
    lines: Mapping[str, tuple[Numbers, Numbers, Interval | None]],
    *,
    axes: tuple[str, str],
    ticks: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """How does it change? A line for each name, with its interval as a band.

    `lines` maps names to x [n], y [n] and both ends of y's interval; `axes` labels x and y. With
    `ticks`, x are indices of these names.

    Raises:
        CircuitsError: when there are no lines, or more than colors can tell apart.

    >>> x = np.arange(3.0)
    >>> figure = curves({"copy 1": (x, x, None), "copy 2": (x, -x, None)}, axes=("token", "nats"))
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['copy 1', 'copy 2']
    """
    if not 0 < len(lines) <= len(CATEGORIES):
        raise CircuitsError(
            f"a figure shows 1 to {len(CATEGORIES)} curves; given were {len(lines)} "
            f"({', '.join(list(lines)[:9])})"
        )
    figure, ax = canvas(7 if len(lines) <= _MOST_WITHIN else 8, 3.8, title)
    for color, (name, (x, y, interval)) in zip(CATEGORIES, lines.items(), strict=False):
        ax.plot(x, y, color=color, linewidth=1.6, label=drawable(name, 40), marker=_marker(len(x)))
        if interval is not None:
            ax.fill_between(x, *interval, color=color, alpha=0.18, linewidth=0)
    ax.set_xlabel(axes[0])
    ax.set_ylabel(axes[1])
    ax.grid(color="#e5e5e5", linewidth=0.8)
    if ticks is not None:
        label_axis(ax.xaxis, len(ticks), ticks)
        if max(map(len, ticks)) > 2 and len(ticks) > 8:
            ax.tick_params(axis="x", labelrotation=90)
    if len(lines) > 1:
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        ax.legend(frameon=False, fontsize=9, **(beside if len(lines) > _MOST_WITHIN else {}))
    return figure


def _marker(n: int) -> str:
    return "o" if n <= 2 else ""  # one point makes no line


@rc_context(STYLE)
def scatter(
    x: Numbers,
    y: Numbers,
    *,
    labels: Sequence[str],
    axes: tuple[str, str],
    title: str = "",
    diagonal: bool = False,
) -> Figure:
    """Do two numbers agree? A point for each label; those farthest out carry their names.

    `x` and `y` are [n]; with `diagonal`, a line shows where both are equal, and the points that lie
    farthest from it are named.

    Raises:
        CircuitsError: when there are no points, or not one label for each.

    >>> x = np.array([0.0, 1.0])
    >>> figure = scatter(x, 2 * x, labels=["a0.h0", "a0.h1"], axes=("estimate", "exact"))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['a0.h1', 'a0.h0']
    """
    if not len(x) or not len(x) == len(y) == len(labels):
        raise CircuitsError(
            f"a scatter plot takes at least one point, with a label each; given were {len(x)}, "
            f"{len(y)} numbers and {len(labels)} labels"
        )
    figure, ax = canvas(*_SQUARE, title)
    ax.axhline(0, color="#cccccc", linewidth=0.8)
    ax.axvline(0, color="#cccccc", linewidth=0.8)
    ax.scatter(x, y, s=18, color=BLUE, alpha=0.75, linewidths=0)
    if diagonal:
        ax.axline((0, 0), slope=1, color=ORANGE, linewidth=1)
    far = (
        np.abs(x - y)
        if diagonal
        else np.hypot(x / np.ptp(ax.get_xlim()), y / np.ptp(ax.get_ylim()))
    )
    _name_points(ax, x, y, labels, np.argsort(-far, kind="stable"))
    ax.set_xlabel(axes[0])
    ax.set_ylabel(axes[1])
    return figure


def _name_points(
    ax: Axes, x: Numbers, y: Numbers, labels: Sequence[str], order: NDArray[np.intp]
) -> None:
    """Names beside the first points in this order whose names do not cover another's."""
    low, high = np.array(ax.get_xlim()), np.array(ax.get_ylim())
    across = (x - low[0]) / np.ptp(low) * _SQUARE[0] * 72  # in points, about
    upward = (y - high[0]) / np.ptp(high) * _SQUARE[1] * 72
    taken: list[tuple[float, float, float]] = []
    for i in order:
        name = drawable(labels[i], 30)
        width = len(name) * _NAME_SIZE * 0.65
        left = across[i] > 0.6 * across.max()
        start = across[i] - 4 - width if left else across[i] + 4
        covers = any(
            abs(upward[i] - other) < 1.2 * _NAME_SIZE and start < end and begin < start + width
            for begin, end, other in taken
        )
        if covers:
            continue
        taken.append((start, start + width, upward[i]))
        ax.annotate(
            name,
            (x[i], y[i]),
            (-4, 4) if left else (4, 4),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=_NAME_SIZE,
        )
        if len(taken) == _MOST_NAMED:
            return
