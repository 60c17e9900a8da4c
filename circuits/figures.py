"""Arrays and labels to matplotlib figures, without a display and without global state."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from circuits.errors import CircuitsError

Numbers = NDArray[np.floating[Any]]
Interval = tuple[Numbers, Numbers]  # lower and upper ends, each of the shape of the values
Panel = tuple[Numbers, Interval | None, str]  # values, their interval, their unit
Labels = Sequence[str] | Mapping[str, Sequence[str]]  # the same for all panels, or by panel

FORMATS = (".png", ".svg", ".pdf")
_INK, _GRAY = "#222222", "#777777"
# The font comes with matplotlib, so a figure looks the same, and has the same bytes, everywhere.
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.8,
    "hatch.color": "#dcdcdc",
    "svg.hashsalt": "circuits",
    "pdf.fonttype": 42,  # keep text as text
} | {
    f"{axis}tick.{name}": value
    for axis in "xy"
    for name, value in {"color": _INK, "labelsize": 9, "major.size": 0, "minor.size": 0}.items()
}
_BLUE, _ORANGE = "#2166ac", "#b35806"
# Orange to white to blue and white to blue: told apart with any kind of color vision, and in print.
_DIVERGING = LinearSegmentedColormap.from_list(
    "orange-blue", ["#7f3b08", "#e08214", "#fdd9ae", "#ffffff", "#c3daee", "#4393c3", "#053061"]
)
_SEQUENTIAL = LinearSegmentedColormap.from_list(
    "blues", ["#ffffff", "#d6e6f4", "#8fc1de", "#3787c0", "#08306b"]
)
_MOST_NUMBERED = 16  # columns up to which a cell has room for its number
_MOST_BARS = 60
_MOST_ACROSS = 3  # panels in a row
_MOST_POSITIONS = 80


@rc_context(_STYLE)
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


@rc_context(_STYLE)
def heatmaps(
    panels: Mapping[str, Panel],
    *,
    rows: Labels | None = None,
    columns: Labels | None = None,
    axes: tuple[str, str] = ("layer", "head"),
    title: str = "",
) -> Figure:
    """Where is each of several effects? Heatmaps side by side, with one scale for each unit.

    `panels` maps titles to values [r c], their intervals and their unit; `rows` and `columns` are
    the same for all, or map titles to labels. For the rest see `heatmap`.

    Raises:
        CircuitsError: as `heatmap`.

    >>> grid = np.array([[0.1, -2.0], [0.0, 1.0]])
    >>> len(heatmaps({"ioi": (grid, None, "logits"), "repeated": (grid, None, "nats")}).axes)
    4
    """
    shapes = [_grid_shape(values, interval) for values, interval, _ in panels.values()]
    limits: dict[str, float] = {}
    for values, _, unit in panels.values():
        limits[unit] = max(limits.get(unit, 0.0), float(np.nanmax(np.abs(values))))
    across = min(len(panels), _MOST_ACROSS)
    widths = [n * min(0.5, 9 / n) + 1.9 for _, n in shapes]
    widths = [max(widths[i::across]) for i in range(across)]
    heights = [n * min(0.42, 9 / m) + 0.9 for n, m in shapes]
    heights = [max(heights[i : i + across]) for i in range(0, len(panels), across)]
    figure = _figure(sum(widths), sum(heights) + 0.5)
    ratios: dict[str, Any] = {"width_ratios": widths, "height_ratios": heights}
    places = figure.add_gridspec(len(heights), across, **ratios)
    notes: dict[str, None] = {}
    for i, (name, panel) in enumerate(panels.items()):
        ax = _add_axes(figure, places[divmod(i, across)], name)
        ax.set(ylabel=axes[0], xlabel=axes[1])
        for axis, n, labels in zip((ax.yaxis, ax.xaxis), shapes[i], (rows, columns), strict=True):
            _label_axis(axis, n, labels[name] if isinstance(labels, Mapping) else labels)
        notes |= dict.fromkeys(_draw_grid(figure, ax, panel, limits[panel[2]] or 1.0))
    if title:
        figure.suptitle(_drawable(title, 400), x=0.01, ha="left", fontsize=12)
    figure.supxlabel(" · ".join(notes), fontsize=8, color=_GRAY)
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
    """Draw the cells and their color bar; what has to be said about them?"""
    values, interval, unit = panel
    ax.set_facecolor("#bbbbbb")
    image = ax.imshow(
        np.ma.masked_invalid(values), cmap=_DIVERGING, vmin=-limit, vmax=limit, aspect="auto"
    )
    unsure = np.zeros(values.shape, bool)
    if interval is not None:
        unsure = (interval[0] <= 0) & (interval[1] >= 0)
        _hatch(ax, unsure)
    if values.shape[1] <= _MOST_NUMBERED:
        _write_numbers(ax, values, unsure, limit)
    _color_bar(figure, ax, image, unit)
    notes = ["hatched: the interval contains 0"] if unsure.any() else []
    return notes + (["gray: no value"] if np.isnan(values).any() else [])


@rc_context(_STYLE)
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
    if not 0 < len(labels) <= _MOST_BARS or len(labels) != len(values):
        raise CircuitsError(
            f"a bar chart shows 1 to {_MOST_BARS} values with a label each; given were "
            f"{len(values)} values and {len(labels)} labels (Result.top(n) picks the largest)"
        )
    figure, axes = _canvas(6, 0.26 * len(labels) + 1.3, title)
    at = np.arange(len(labels))
    axes.barh(at, values, color=np.where(values < 0, _ORANGE, _BLUE).tolist(), height=0.7)
    if interval is not None:
        known = np.isfinite(interval[0]) & np.isfinite(interval[1])
        axes.hlines(at[known], interval[0][known], interval[1][known], color=_INK, linewidth=1.2)
        for ends in interval:
            axes.plot(ends[known], at[known], "|", color=_INK, markersize=5)
    axes.axvline(0, color=_INK, linewidth=0.8)
    _label_axis(axes.yaxis, len(labels), labels)
    pad = max(0, 3 - len(labels)) / 2  # one bar does not fill the figure
    axes.set_ylim(len(labels) - 0.4 + pad, -0.6 - pad)
    axes.set_xlabel(unit)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    return figure


@rc_context(_STYLE)
def lens_grid(
    tokens: Sequence[Sequence[str]],
    probabilities: Numbers,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> Figure:
    """What would each layer say after each token? The classic picture of the logit lens.

    `tokens` [r c] are the top tokens, `probabilities` [r c] color their cells. `rows` names the
    layers from the first to the last (drawn from the bottom up), `columns` the prompt's tokens.

    Raises:
        CircuitsError: when shapes disagree, or there are more positions than can be read.

    >>> share = np.array([[0.4, 0.1]])
    >>> grid = lens_grid([[" the", " a"]], share, rows=["m0"], columns=["to", "be"])
    >>> [text.get_text() for text in grid.axes[0].texts]
    ['·the', '·a']
    """
    shape = (len(rows), len(columns))
    widths = {len(line) for line in tokens}
    if probabilities.shape != shape or len(tokens) != shape[0] or widths != {shape[1]}:
        raise CircuitsError(
            f"{shape[0]} row and {shape[1]} column labels need as many tokens and probabilities; "
            f"given were tokens {(len(tokens), *sorted(widths))} and probabilities "
            f"{probabilities.shape}"
        )
    if shape[1] > _MOST_POSITIONS:
        raise CircuitsError(
            f"a picture of {shape[1]} positions cannot be read; choose at most {_MOST_POSITIONS} "
            "of them"
        )
    figure, axes = _canvas(shape[1] * 0.82 + 2, shape[0] * 0.27 + 1.5, title)
    image = axes.imshow(
        probabilities, cmap=_SEQUENTIAL, vmin=0, vmax=1, aspect="auto", origin="lower"
    )
    for i, line in enumerate(tokens):
        for j, token in enumerate(line):
            color = "white" if probabilities[i, j] > 0.75 else _INK
            _text(axes, j, i, visible(token, 10), color=color, size=7.5)
    _cell_borders(axes, shape)
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(shape[1]), [visible(token, 10) for token in columns], **slanted)
    _label_axis(axes.yaxis, shape[0], rows)
    axes.set_xlabel("prompt")
    _color_bar(figure, axes, image, "probability of the top token")
    return figure


@rc_context(_STYLE)
def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG, SVG or PDF, chosen by the file's name. Returns the path.

    The same figure gives the same bytes. The file appears whole or not at all.

    Raises:
        CircuitsError: for another kind of file, or a place that cannot be written.
    """
    path = Path(path)
    suffix = figure_format(path)
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    # The suffix stays last, for matplotlib to see.
    partial = path.with_name(f".{path.stem}-{os.getpid()}{suffix}")
    try:
        figure.savefig(partial, dpi=200, metadata=metadata[suffix], facecolor="white")
        partial.replace(path)
    except OSError as error:
        raise CircuitsError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it was moved, or could not be made
            partial.unlink()
    return path


def figure_format(path: Path) -> str:
    """Which kind of figure does this name ask for? One of `FORMATS`.

    >>> figure_format(Path("Lens.PNG"))
    '.png'

    Raises:
        CircuitsError: for any other.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise CircuitsError(
            f"{path} is no kind of figure this package writes; end the name in {', '.join(FORMATS)}"
        )
    return suffix


def visible(token: str, longest: int = 12) -> str:
    r"""How is a token shown in a small cell? With its spaces and breaks visible, and cut if long.

    >>> visible(" garden"), visible("\n"), visible("notwithstanding", 8)
    ('·garden', '\\n', 'notwith…')
    """
    shown = "".join(_ESCAPES.get(char, char) for char in token)
    return _drawable(shown or "∅", longest)


_ESCAPES = {" ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _drawable(text: str, longest: int) -> str:
    """The text in characters that the font has; others by their code point, as in U+1F600."""
    known = _characters()
    parts = [
        char if ord(char) in known and char.isprintable() else f"U+{ord(char):04X}"
        for char in unicodedata.normalize("NFC", text)
    ]
    if sum(map(len, parts)) > longest:
        while parts and sum(map(len, parts)) > longest - 1:
            parts.pop()
        parts.append("…")
    return "".join(parts)


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(_STYLE["font.family"]))).get_charmap())


def _canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    return figure, _add_axes(figure, figure.add_gridspec(1, 1)[0], title)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(max(width, 3.2), max(height, 1.8)), layout="constrained")


def _add_axes(figure: Figure, place: SubplotSpec, title: str) -> Axes:
    axes = figure.add_subplot(place)
    axes.set_title(_drawable(title, 400))
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, ha="center", va="center", **style)


def _color_bar(figure: Figure, axes: Axes, image: AxesImage, label: str) -> None:
    """A strip of the same width whatever the size of the figure."""
    width, pad = 0.2 / figure.get_figwidth(), 0.15 / figure.get_figwidth()
    bar = figure.colorbar(image, ax=axes, fraction=width, pad=pad, aspect=25)
    bar.set_label(label)
    bar.ax.spines[:].set_visible(False)


def _hatch(axes: Axes, cells: NDArray[np.bool_]) -> None:
    for i, j in np.argwhere(cells):
        cell = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="//", linewidth=0)
        cell.set_edgecolor(_STYLE["hatch.color"])
        axes.add_patch(cell)


def _write_numbers(axes: Axes, values: Numbers, unsure: NDArray[np.bool_], limit: float) -> None:
    """Each cell's value, to two digits of the largest."""
    digits = max(0, 1 - int(np.floor(np.log10(limit))))
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(value) > 0.6 * limit
            color = "white" if dark else _GRAY if unsure[i, j] else _INK
            shown = f"{value:.{digits}f}" if limit < 1000 and digits < 4 else f"{value:.0e}"
            shown = "0" if float(shown) == 0 else shown.replace("-", "\u2212")
            _text(axes, j, i, shown, color=color, size=7)


def _cell_borders(axes: Axes, shape: tuple[int, int]) -> None:
    axes.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e3e3e3", linewidth=0.6)


def _label_axis(axis: Axis, n: int, labels: Sequence[str] | None) -> None:
    """A label for each cell, or for every second, third ... where all would not fit."""
    step = 1 if labels is not None and n <= _MOST_BARS else -(-n // 30)
    names = [str(i) for i in range(n)] if labels is None else [_drawable(s, 40) for s in labels]
    axis.set_ticks(range(0, n, step), names[::step])
