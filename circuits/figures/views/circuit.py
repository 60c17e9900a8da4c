"""A circuit: who writes to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from circuits.figures.views.base import view
from circuits.figures.wiring import Wording, scored, wiring

if TYPE_CHECKING:
    from circuits.result import Result


@view
def circuit(result: Result) -> Figure:
    """Edges between the parts of a model: the rows of `Circuit.frame`, of those that are kept.

    Where there is no column ``score``, ``value`` is the score.
    """
    return wiring(scored(result.frame), words=Wording(result.title))
