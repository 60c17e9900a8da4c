"""The one look of all figures: colors, fonts, and the parts that they share."""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
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
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]
Interval = tuple[Numbers, Numbers]  # lower and upper ends, each of the shape of the values
Panel = tuple[Numbers, Interval | None, str]  # values, their interval, their unit
Labels = Sequence[str] | Mapping[str, Sequence[str]]  # the same for all panels, or by panel

INK, GRAY = "#222222", "#777777"
# The font comes with matplotlib, so a figure looks the same, and has the same bytes, everywhere.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
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
    for name, value in {"color": INK, "labelsize": 9, "major.size": 0, "minor.size": 0}.items()
}
BLUE, ORANGE = "#2166ac", "#b35806"
# Orange to white to blue and white to blue: told apart with any kind of color vision, and in print.
DIVERGING = LinearSegmentedColormap.from_list(
    "orange-blue", ["#7f3b08", "#e08214", "#fdd9ae", "#ffffff", "#c3daee", "#4393c3", "#053061"]
)
SEQUENTIAL = LinearSegmentedColormap.from_list(
    "blues", ["#ffffff", "#d6e6f4", "#8fc1de", "#3787c0", "#08306b"]
)
MOST_BARS = 60
_LETTERS_AN_INCH = 10  # of a title
MOST_POSITIONS = 80
# Okabe and Ito's palette, told apart with any kind of color vision.
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def visible(token: str, longest: int = 12) -> str:
    r"""The token for a small cell: its spaces and breaks are visible, and it is cut if long.

    >>> visible(" garden"), visible("\n"), visible("notwithstanding", 8)
    ('·garden', '\\n', 'notwith…')
    """
    shown = "".join(_ESCAPES.get(char, char) for char in token)
    return drawable(shown or "∅", longest)


_ESCAPES = {" ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def drawable(text: str, longest: int) -> str:
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
    return frozenset(get_font(findfont(FontProperties(STYLE["font.family"]))).get_charmap())


def canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure with one place to draw in; a title that is too long for a line takes several."""
    figure = new_figure(width, height)
    return figure, add_axes(figure, figure.add_gridspec(1, 1)[0], title, figure.get_figwidth())


def in_lines(title: str, width: float) -> str:
    """A title in lines that fit into so many inches."""
    return textwrap.fill(drawable(title, 400), max(12, int(width * _LETTERS_AN_INCH)))


class Picture(Figure):
    """A figure that a notebook shows by itself.

    IPython knows how to show a `Figure` only after ``%matplotlib inline`` or pyplot, and then goes
    its own way with this one, too; until then it asks for the method below.
    """

    def _repr_png_(self) -> bytes:
        """The figure as PNG, cut to what is drawn."""
        content = io.BytesIO()
        with rc_context(STYLE):
            self.savefig(content, format="png", bbox_inches="tight", metadata={"Software": None})
        return content.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, of this size or as large as it has to be."""
    return Picture(figsize=(max(width, 3.2), max(height, 1.8)), layout="constrained")


def add_axes(figure: Figure, place: SubplotSpec, title: str, width: float) -> Axes:
    """A place to draw in, with its title in so many inches."""
    axes = figure.add_subplot(place)
    axes.set_title(in_lines(title, width))
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def write_text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """A text in the middle of a cell."""
    axes.text(x, y, text, ha="center", va="center", **style)


def color_bar(
    figure: Figure,
    axes: Axes,
    image: AxesImage,
    label: str,
    sides: tuple[float, float] | None = None,
) -> None:
    """A strip of the same width whatever the size of the figure; all of its values, or some."""
    width, pad = 0.2 / figure.get_figwidth(), 0.15 / figure.get_figwidth()
    bar = figure.colorbar(image, ax=axes, fraction=width, pad=pad, aspect=25)
    bar.set_label(label)
    if sides is not None:
        bar.ax.set_ylim(sides)
    bar.ax.spines[:].set_visible(False)


def cell_borders(axes: Axes, shape: tuple[int, int]) -> None:
    """Thin lines between the cells of a grid."""
    axes.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e3e3e3", linewidth=0.6)


def label_axis(axis: Axis, n: int, labels: Sequence[str] | None) -> None:
    """A label for each cell, or for every second, third ... where all would not fit."""
    step = 1 if labels is not None and n <= MOST_BARS else -(-n // 30)
    names = [str(i) for i in range(n)] if labels is None else [drawable(s, 40) for s in labels]
    axis.set_ticks(range(0, n, step), names[::step])
