"""Which figure shows a result? A view is one file with a function marked ``@view``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from circuits.catalog import VIEW, Catalog
from circuits.figures.views.base import View

if TYPE_CHECKING:
    from circuits.result import Result

VIEWS = Catalog[View](VIEW)


def draw(result: Result) -> Figure:
    """The figure of this result, as its `view` and `axes` say.

    Raises:
        CircuitsError: for an unknown view, or more than a figure can show.
    """
    return VIEWS.require(result.view)(result)
