"""Scores of other tools, which are of a loss, as scores of a metric; and back.

EAP-IG and auto-circuit are meant to be given a loss, such as minus the logit difference: their
score of an edge is (about) how much the loss rises when this edge is corrupted. Ours is what that
does to the metric, m(part corrupted) - m(clean). So the sign turns for a metric that is better when
it is higher, and stays for one that is a loss itself. But a file does not say what its scores are
of, and some are of the metric (MIB's own example is). What shows it: the scores of the edges that
leave the input add up to (about) what corrupting the whole input does, and that raises a loss.

Shapes: r readers, w writers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from circuits.arrays import Bools, Floats
from circuits.circuit.circuit import Circuit
from circuits.circuit.graph import Graph
from circuits.circuit.parts import Origin, Score
from circuits.components import Edge
from circuits.errors import CircuitsError
from circuits.metrics import Metric, get_metric

ScoresOf = Literal["loss", "metric"]
UNNAMED = "an unnamed model"  # of which a file tells the shape only


@dataclass(frozen=True)
class Reading:
    """How the scores of a file are to be read.

    `metric` is what they are changes of, if that is known; `scores_of` says whether they are of a
    loss or of the metric itself: None for a loss, if nothing speaks against it.
    """

    metric: str | None = None
    scores_of: ScoresOf | None = None

    def origin(self, path: Path, tool: str, selection: str) -> Origin:
        """What is known of a circuit in another tool's file.

        Raises:
            CircuitsError: for a metric that there is not.
        """
        if self.scores_of not in (None, *get_args(ScoresOf)):
            raise CircuitsError(f"scores_of={self.scores_of!r}: choose loss or metric")
        known = None if self.metric is None else get_metric(self.metric)
        return Origin(
            UNNAMED,
            method=f"unknown: {tool}'s file does not say it",
            metric=self.metric,
            unit=None if known is None else known.unit,
            higher_is_better=known is None or known.higher_is_better,
            selection=f"{selection}; the file's scores are read as changes of {self._what(known)}"
            f", on {tool}'s scale",
            source=f"{path.name}, of {tool}, which does not say of which model and weights it is",
        )

    def ours(self, theirs: Floats, origin: Origin) -> Floats:
        """The scores of a file as scores of the metric."""
        return theirs if self.scores_of == "metric" else turned(theirs, origin)

    def require_loss(self, from_input: float, path: Path) -> None:
        """Refuse to take scores for those of a loss that corrupting the input would lower.

        Raises:
            CircuitsError: unless somebody said what they are of.
        """
        if self.scores_of is None and from_input < 0:
            raise CircuitsError(
                f"{path}: the scores of the edges that leave the input add up to {from_input:.4g}, "
                "so what they are of falls when the input is corrupted, which a loss should not; "
                "say what they are of: scores_of='metric' (the metric itself) or 'loss'"
            )

    def _what(self, known: Metric | None) -> str:
        name = self.metric or "the metric"
        is_loss = known is not None and not known.higher_is_better
        return name if is_loss or self.scores_of == "metric" else f"a loss, minus {name}"


def turned(scores: Floats, origin: Origin) -> Floats:
    """Scores of the metric as scores of the loss, or the other way round.

    >>> turned(np.array([0.5, 0.0]), Origin("mini")).tolist()
    [-0.5, 0.0]
    """
    return 0.0 - scores if origin.higher_is_better else scores


def known_or_0(scores: Floats) -> Floats:
    """The scores, 0 where none is known; infinite ones stay.

    >>> known_or_0(np.array([np.nan, -np.inf, 0.5])).tolist()
    [0.0, -inf, 0.5]
    """
    known: Floats = np.where(np.isnan(scores), 0.0, scores)
    return known


def circuit_of(graph: Graph, kept: Bools, scores: Floats, origin: Origin) -> Circuit:
    """The circuit of these edges [r w], with their scores [r w], NaN where there is none.

    What stands at places where the graph has no edge is not looked at.
    """
    values, chosen = scores[graph.exists].tolist(), kept[graph.exists].tolist()
    return Circuit(
        graph,
        frozenset(edge for edge, is_kept in zip(graph.edges, chosen, strict=True) if is_kept),
        origin,
        {
            edge: Score(value)
            for edge, value in zip(graph.edges, values, strict=True)
            if not math.isnan(value)
        },
    )


def matrices(circuit: Circuit, tool: str) -> tuple[Bools, Floats]:
    """Which edges are kept [r w], and their scores of the loss [r w], NaN where there is none.

    Raises:
        CircuitsError: for edges at one position only, and circuits of neurons.
    """
    graph = circuit.graph
    if circuit.level == "neurons":
        raise CircuitsError(
            f"this is a circuit of neurons, for which {tool}'s files have no place; save it in "
            "this package's own format"
        )
    scored = {part: s.value for part, s in circuit.scores.items() if isinstance(part, Edge)}
    for edge in (*circuit.edges, *scored):
        if edge.receiver.position is not None:
            raise CircuitsError(
                f"{edge} acts at one position, and {tool}'s files have edges at every position "
                "only; save circuit.everywhere(), or use this package's own format"
            )
    scores = np.full(graph.exists.shape, np.nan)
    for edge, score in scored.items():
        scores[graph.place(edge)] = score
    return graph.mask(circuit.edges), turned(scores, circuit.origin)
