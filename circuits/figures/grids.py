"""Heatmaps: where is the effect?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from circuits.errors import CircuitsError
from circuits.figures.style import (
    DIVERGING,
    GRAY,
    INK,
    STYLE,
    Interval,
    Labels,
    Numbers,
    Panel,
    add_axes,
    color_bar,
    drawable,
    in_lines,
    label_axis,
    new_figure,
    write_text,
)

_MOST_NUMBERED = 16  # columns up to which a cell has room for its number
_MOST_ACROSS = 3  # panels in a row
_CHARACTER = 0.08  # width of one in a label, in inches
_BESIDE_TITLE = 0.5  # inches that labels of rows take
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@rc_context(STYLE)
def heatmap(
    values: Numbers,
    *,
    interval: Interval | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    axes: tuple[str, str] = ("layer", "head"),
    title: str = "",
    unit: str = "",
) -> Figure:
    """Where is the effect? A grid of colors, blue above 0, orange below, white at 0.

    `values` and both ends of `interval` are [r c]. Cells whose interval contains 0 are hatched;
    cells without a value (NaN) are gray. `rows` and `columns` label the cells, which are counted
    from 0 otherwise; `axes` says what they are.

    Raises:
        CircuitsError: when the arrays are not grids of one shape, or nothing is finite.

    >>> heatmap(np.array([[0.1, -2.0], [0.0, 1.0]]), title="zero ablation").axes[0].get_xlabel()
    'head'
    """
    return heatmaps({title: (values, interval, unit)}, rows=rows, columns=columns, axes=axes)


@rc_context(STYLE)
def heatmaps(
    panels: Mapping[str, Panel],
    *,
    rows: Labels | None = None,
    columns: Labels | None = None,
    axes: tuple[str, str] = ("layer", "head"),
    title: str = "",
    notes: Sequence[str] = (),
) -> Figure:
    """Where is each of several effects? Heatmaps side by side, with one scale for each unit.

    `panels` maps titles to values [r c], their intervals and their unit; `rows` and `columns` are
    the same for all, or map titles to labels. `notes` stand below. A panel without any value is
    named there, not drawn. For the rest see `heatmap`.

    Raises:
        CircuitsError: as `heatmap`.

    >>> grid = np.array([[0.1, -2.0], [0.0, 1.0]])
    >>> len(heatmaps({"ioi": (grid, None, "logits"), "repeated": (grid, None, "nats")}).axes)
    4
    """
    empty = [name for name, (values, _, _) in panels.items() if not np.isfinite(values).any()]
    if 0 < len(empty) < len(panels):
        panels = {name: panel for name, panel in panels.items() if name not in empty}
        notes = (*notes, f"no value, so no picture: {', '.join(empty)}")
    shapes = [_grid_shape(values, interval) for values, interval, _ in panels.values()]
    limits: dict[str, float] = {}
    for values, _, unit in panels.values():
        limits[unit] = max(limits.get(unit, 0.0), float(np.nanmax(np.abs(values))))
    across = min(len(panels), _MOST_ACROSS)
    widths = [n * min(0.5, 9 / n) + 1.9 for _, n in shapes]
    widths = [max(widths[i::across]) for i in range(across)]
    heights = [n * min(0.42, 9 / m) + 0.9 for n, m in shapes]
    heights = [max(heights[i : i + across]) for i in range(0, len(panels), across)]
    figure = new_figure(sum(widths), sum(heights) + 0.5)
    room = [width - _BESIDE_TITLE for width in widths]
    ratios: dict[str, Any] = {"width_ratios": widths, "height_ratios": heights}
    places = figure.add_gridspec(len(heights), across, **ratios)
    signs: dict[str, None] = {}
    for i, (name, panel) in enumerate(panels.items()):
        ax = add_axes(figure, places[divmod(i, across)], name, room[i % across])
        ax.set(ylabel=axes[0], xlabel=axes[1])
        for axis, n, labels in zip((ax.yaxis, ax.xaxis), shapes[i], (rows, columns), strict=True):
            label_axis(axis, n, labels[name] if isinstance(labels, Mapping) else labels)
        shown = [tick.get_text() for tick in ax.get_xticklabels()]
        if len(shown) * max(map(len, shown)) * _CHARACTER > widths[i % across] - 1.9:
            ax.tick_params(axis="x", labelrotation=90)
        signs |= dict.fromkeys(_draw_grid(figure, ax, panel, limits[panel[2]] or 1.0))
    if title:
        figure.suptitle(in_lines(title, sum(widths)), x=0.01, ha="left", fontsize=12)
    below = [drawable(note, 400) for note in (" · ".join(signs), *notes) if note]
    figure.supxlabel("\n".join(below), fontsize=8, color=GRAY)
    return figure


def _grid_shape(values: Numbers, interval: Interval | None) -> tuple[int, int]:
    shape = values.shape
    if values.ndim != 2 or any(end.shape != shape for end in interval or ()):
        raise CircuitsError(
            f"a heatmap takes grids of one shape; the values have {shape}"
            + (f", their interval {[end.shape for end in interval]}" if interval else "")
        )
    if not np.isfinite(values).any():
        raise CircuitsError("a heatmap needs at least one finite value; these are all NaN")
    return shape[0], shape[1]


def _draw_grid(figure: Figure, ax: Axes, panel: Panel, limit: float) -> list[str]:
    """Draw the cells and their color bar; returns what has to be said about them."""
    values, interval, unit = panel
    ax.set_facecolor("#bbbbbb")
    image = ax.imshow(
        np.ma.masked_invalid(values), cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto"
    )
    unsure = np.zeros(values.shape, bool)
    if interval is not None:
        unsure = (interval[0] <= 0) & (interval[1] >= 0)
        _hatch(ax, unsure)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    # The scale is always symmetric; a side of it that does not occur need not be shown.
    color_bar(
        figure, ax, image, unit, (-limit if low < 0 else 0, limit if high > 0 or not low else 0)
    )
    notes = ["hatched: the interval contains 0"] if unsure.any() else []
    if values.shape[1] <= _MOST_NUMBERED:
        power = _power_of_ten(limit)
        _write_numbers(ax, values / 10**power, unsure, limit / 10**power)
        if power:
            notes.append(f"numbers in 10{str(power).translate(_SUPERSCRIPTS)} {unit}".rstrip())
    return notes + (["gray: no value"] if np.isnan(values).any() else [])


def _power_of_ten(limit: float) -> int:
    """The power of 1000 that makes numbers short that are very small or large."""
    return 0 if 0.01 <= limit < 1000 else 3 * math.floor(math.log10(limit) / 3)


def _hatch(axes: Axes, cells: NDArray[np.bool_]) -> None:
    for i, j in np.argwhere(cells):
        cell = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="//", linewidth=0)
        cell.set_edgecolor(STYLE["hatch.color"])
        axes.add_patch(cell)


def _write_numbers(axes: Axes, values: Numbers, unsure: NDArray[np.bool_], limit: float) -> None:
    """Each cell's value, to two digits of the largest."""
    digits = max(0, 1 - int(np.floor(np.log10(limit))))
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(value) > 0.6 * limit
            color = "white" if dark else GRAY if unsure[i, j] else INK
            shown = f"{value:.{digits}f}"
            shown = "0" if float(shown) == 0 else shown.replace("-", "\u2212")
            write_text(axes, j, i, shown, color=color, size=7)
