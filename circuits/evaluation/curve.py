"""How much of the model do circuits of other sizes explain? The curve, and the areas CPR and CMD.

Mueller et al. 2025 (2504.13151, circuit track): circuits of .1 % to all parts, counted before
pruning, the best by score; CPR is the area below F of circuits by signed score (high is good), CMD
that between F and 1 of circuits by absolute score (low is good), by the trapezoid over a linear
axis from .001 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd

from circuits.arrays import Floats
from circuits.circuit import Part
from circuits.components import Edge
from circuits.errors import CircuitsError
from circuits.evaluation.cells import Cells
from circuits.evaluation.evidence import Evidence, Row, Share
from circuits.evaluation.subject import Subject

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Ranking = Literal["signed", "absolute"]
RANKINGS: tuple[Ranking, ...] = ("signed", "absolute")
MEANINGS = {
    "ranking": "by which scores the parts are chosen: signed (for CPR) or absolute (for CMD)",
    "size": "share of all parts that are kept, before pruning",
    "kept": "how many these are, before pruning",
    "pruned": "how many of them no path from the embedding to the logits uses",
    "value": "F of the circuit: 1 does what the model does, 0 nothing of it (ratio of means)",
}


@dataclass(frozen=True)
class Point:
    """A circuit of the curve, and the place of its cell."""

    ranking: Ranking
    size: float
    kept: int
    pruned: int
    place: int


@dataclass(frozen=True)
class Curve:
    """The circuits of all sizes, of both rankings."""

    points: tuple[Point, ...]
    scored: int  # how many parts have a score
    every: int

    @classmethod
    def ask(cls, subject: Subject, cells: Cells) -> Curve:
        """The cells of every size.

        Raises:
            CircuitsError: when the circuit has no scores to choose by.
        """
        circuit = subject.circuit
        every = subject.ranked
        scored = sum(part in circuit.scores for part in every)
        if not circuit.scores:
            raise CircuitsError(
                "the circuit has no scores, so there are no circuits of other sizes; find it with "
                "circuits discover, or leave the curve out"
            )
        points = []
        for ranking in RANKINGS:
            ranked = circuit.ranked(every, signed=ranking == "signed")
            for size in SIZES:
                n = int(size * len(every))
                chosen = pruned_of(subject, ranked[:n])
                place = cells.add(subject.alone(chosen, f"{ranking} {size:g}"))
                points.append(Point(ranking, size, n, n - len(chosen), place))
        return cls(tuple(points), scored, len(every))

    def areas(self, evidence: Evidence) -> tuple[Share, Share]:
        """CPR and CMD, with intervals by the ratio estimator (of CMD, at the signs that F - 1 has).

        >>> weights(np.array([0.0, 1.0, 3.0])).tolist()
        [0.5, 1.5, 1.0]
        """
        by_ranking = {name: [p for p in self.points if p.ranking == name] for name in RANKINGS}
        weight = weights(np.array(SIZES))
        signed, absolute = (
            evidence.effects[[point.place for point in by_ranking[name]]] for name in RANKINGS
        )
        lost = evidence.share(weight @ signed)
        total = float(weight.sum())
        cpr = Share(total - lost.value, lost.stderr, total - lost.ci_high, total - lost.ci_low)
        away = np.sign(absolute.mean(1) / evidence.full.mean())
        distance = evidence.share((weight * away) @ absolute)
        cmd = Share(distance.value, distance.stderr, max(0.0, distance.ci_low), distance.ci_high)
        return cpr, cmd

    def rows(self, evidence: Evidence) -> Iterator[Row]:
        """The two areas."""
        scores = f"{self.scored} of {self.every} parts have a score"
        cpr, cmd = self.areas(evidence)
        yield Row(
            "curve",
            "CPR, by signed score (high is good)",
            **asdict(cpr),
            n=evidence.n,
            against=f"a perfect curve has {SIZES[-1] - SIZES[0]:.3f}; {scores}",
        )
        yield Row(
            "curve",
            "CMD, by absolute score (low is good)",
            **asdict(cmd),
            n=evidence.n,
            null=float("nan"),
            against=f"a perfect curve has 0; {scores}",
        )

    def frame(self, evidence: Evidence) -> pd.DataFrame:
        """A row for each size of each ranking."""
        rows = [
            {
                "ranking": point.ranking,
                "size": point.size,
                "kept": point.kept,
                "pruned": point.pruned,
                **asdict(evidence.faithful(point.place)),
                "n": evidence.n,
            }
            for point in self.points
        ]
        frame: pd.DataFrame = pd.DataFrame(rows)
        return frame


def pruned_of(subject: Subject, parts: Sequence[Part]) -> Sequence[Part]:
    """These parts without edges that no path from the embedding to the logits uses."""
    if subject.circuit.level != "edges":
        return parts
    graph, edges = subject.graph, [part for part in parts if isinstance(part, Edge)]
    alive = graph.alive(graph.mask(edges))
    return [edge for edge in edges if alive[graph.place(edge)]]


def weights(x: Floats) -> Floats:
    """What each point [k] counts in the area below straight lines between them."""
    steps = np.diff(x)
    each: Floats = np.concatenate([steps, [0.0]]) / 2 + np.concatenate([[0.0], steps]) / 2
    return each
