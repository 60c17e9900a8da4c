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

    Where there is no column ``score``, ``value`` is the score. The result's circuit, if it has one,
    knows more: how many layers there are, what was measured, and the classes of heads.
    """
    frame, whole = scored(result.frame), result.circuit
    if whole is None:
        return wiring(frame, words=Wording(result.title))
    metric = whole.origin.metric or "the metric"
    words = Wording(result.title, metric, whole.classes)
    return wiring(frame, n_layers=whole.graph.n_layers, words=words)
