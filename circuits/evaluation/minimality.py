"""Is every part of the circuit needed? Minimality.

Each part is dropped from the circuit, and what that changes is compared with what it changes to
drop a random edge that a random path has added to the circuit (an inflated circuit). A part is
superfluous if it matters less than nine of ten such edges would: that is tested by how many of them
it exceeds, corrected for the number of parts. Source: Shi et al. 2024 (2410.13032, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from circuits.circuit import EMBED, LOGITS, Part
from circuits.components import Edge
from circuits.evaluation.cells import CIRCUIT, Cells
from circuits.evaluation.evidence import NOTHING, Evidence, Row, verdict
from circuits.evaluation.hypothesis_tests import ALPHA, QUANTILE, at_most, holm
from circuits.evaluation.subject import Subject

_TRIES = 100  # paths that may be in the circuit already, before the test is given up


@dataclass(frozen=True)
class Minimality:
    """The circuit without each of its units, and inflated circuits with and without an edge.

    Attributes:
        dropped: the place of the circuit without each unit, by the unit's name.
        inflated: pairs of places: an inflated circuit, and the same without an added edge.
    """

    dropped: tuple[tuple[str, int], ...]
    inflated: tuple[tuple[int, int], ...]

    @classmethod
    def ask(
        cls, subject: Subject, cells: Cells, n_random: int, rng: np.random.Generator
    ) -> Minimality:
        """The cells of every unit, and of as many random edges."""
        parts, dropped, inflated = frozenset(subject.parts), [], []
        for name, unit in subject.units.items():
            place = cells.add(subject.alone(parts - unit, f"circuit without {name}"))
            dropped.append((name, place))
        for i in range(n_random):
            added = _added(subject, rng)
            if not added:
                break
            gone = added[int(rng.integers(len(added)))]
            more = parts | frozenset(added)
            inflated.append(
                (
                    cells.add(subject.alone(more, f"inflated {i}")),
                    cells.add(subject.alone(more - {gone}, f"inflated {i} without {gone}")),
                )
            )
        return cls(tuple(dropped), tuple(inflated))

    def rows(self, evidence: Evidence) -> Iterator[Row]:
        """How many parts are superfluous, then each part, the least important first."""
        if not self.inflated:
            says = "there is no edge to compare with"
            yield Row("minimality", "superfluous parts", float("nan"), against=says)
            return
        first, second = (list(places) for places in zip(*self.inflated, strict=True))
        means = evidence.effects.mean(1)
        random = np.abs(means[first] - means[second])
        places = [place for _, place in self.dropped]
        sizes = np.abs(means[places] - means[CIRCUIT])
        beaten = [int((size > random + evidence.tolerance).sum()) for size in sizes]
        p_values = holm(np.array([at_most(k, len(random), QUANTILE) for k in beaten]))
        superfluous = int((p_values <= ALPHA).sum())
        yield Row(
            "minimality",
            "superfluous parts",
            superfluous / len(places),
            n=len(places),
            p_value=float(p_values.min()),
            verdict=verdict(superfluous == 0),
            against=f"{superfluous} of {len(places)} matter less than {QUANTILE:.0%} of "
            f"{len(random)} random edges of inflated circuits",
        )
        null = float(random.mean()) / abs(float(evidence.full.mean()))
        for i in np.argsort(sizes, kind="stable"):
            name, place = self.dropped[i]
            lost = evidence.share(evidence.effects[place] - evidence.effects[CIRCUIT])
            yield Row(
                "part",
                name,
                **asdict(lost),
                n=evidence.n,
                null=null,
                p_value=float(p_values[i]),
                verdict=NOTHING if np.isnan(p_values[i]) else verdict(p_values[i] > ALPHA),
                against=f"what F loses without it; more than {beaten[i]} of {len(random)} "
                "random edges",
            )


def _added(subject: Subject, rng: np.random.Generator) -> list[Part]:
    """The parts that inflate the circuit: a random path's, or one random node or neuron.

    None where the circuit has them all.
    """
    if subject.circuit.level != "edges":
        left = [part for part in subject.every if part not in subject.circuit.parts]
        return [left[int(rng.integers(len(left)))]] if left else []
    for _ in range(_TRIES):
        added = [edge for edge in random_path(subject, rng) if edge not in subject.circuit.parts]
        if added:
            return list(added)
    return []


def random_path(subject: Subject, rng: np.random.Generator) -> list[Edge]:
    """Edges from the embedding to the logits, each drawn among all that leave its writer."""
    graph, path, writer = subject.graph, [], EMBED
    while True:
        readers = np.flatnonzero(graph.exists[:, graph.writer[writer]])
        reader = graph.readers[int(readers[int(rng.integers(len(readers)))])]
        path.append(Edge(writer, reader))
        if reader == LOGITS:
            return path
        writer = replace(reader, slot=None)
