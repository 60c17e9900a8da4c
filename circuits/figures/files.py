"""Figures as files: complete or not at all, the same bytes for the same figure."""

from __future__ import annotations

import io
import re
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from circuits.errors import CircuitsError
from circuits.figures.style import STYLE
from circuits.files import FIGURE_FORMATS as FORMATS
from circuits.files import named_path, replacing

# What each kind of file shall not say of the day and the program that wrote it.
_UNSAID = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}


@rc_context(STYLE)
def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG, SVG or PDF, chosen by the file's name. Returns the path.

    The same figure gives the same bytes. The file appears whole or not at all.

    Raises:
        CircuitsError: for another kind of file, or a place that cannot be written.
    """
    path = named_path(path)
    suffix = figure_format(path)
    metadata = {_UNSAID[suffix]: None}
    with replacing(path) as partial:
        figure.savefig(partial, dpi=200, metadata=metadata, facecolor="white")
    return path


@rc_context(STYLE)
def figure_svg(figure: Figure) -> str:
    """The figure as an SVG element, to stand inside a page.

    The same figure gives the same text. Labels are drawn as shapes, and are not in it as text.

    >>> figure_svg(Figure())[:5]
    '<svg '
    """
    text = io.StringIO()
    # No metadata: it names other addresses.
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
    drawn = re.sub(r"<!--.*?-->", "", text.getvalue(), flags=re.S)  # where matplotlib notes labels
    return drawn[drawn.index("<svg ") :]


def figure_format(path: Path) -> str:
    """The kind of figure that this name asks for, one of `FORMATS`.

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
