"""Is it better than chance? Random circuits: as many parts, or the same heads per layer elsewhere.

Sufficiency: the circuit comes closer to the model than nine of ten random circuits do. Necessity:
the model loses more without the circuit than without nine of ten others that share no part with
it. Source: Shi et al. 2024 (2410.13032, section 3.4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from circuits.arrays import Floats
from circuits.circuit import Part
from circuits.components import Component, Edge
from circuits.evaluation.cells import CIRCUIT, Cells
from circuits.evaluation.evidence import NOTHING, Evidence, Row
from circuits.evaluation.hypothesis_tests import QUANTILE, at_least
from circuits.evaluation.subject import Subject, position_of

LEAST = 45  # random circuits: who beats all of fewer has no p-value below .05 when there are four
_TRIES = 100  # draws that may be the circuit itself, before a null is given up
Draw = Callable[[Subject, np.random.Generator], frozenset[Part]]


@dataclass(frozen=True)
class Null:
    """Random circuits of a kind.

    Attributes:
        says: what they are.
        places: of their cells.
    """

    says: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Controls:
    """Random circuits of every kind, and the model without the circuit.

    Attributes:
        alone: random circuits that run alone, of every kind.
        left_out: the model without random circuits that have no part of the circuit.
        complement: the place of the model without the circuit.
    """

    alone: tuple[Null, ...]
    left_out: Null
    complement: int

    @classmethod
    def ask(
        cls, subject: Subject, cells: Cells, n_random: int, rng: np.random.Generator
    ) -> Controls:
        """The cells of so many random circuits of each kind."""
        complement = cells.add(subject.without(subject.parts, "model without the circuit"))
        nulls = []
        for says, draw in kinds_of_null(subject).items():
            drawn = [_another(subject, draw, rng) for _ in range(n_random)]
            places = [
                cells.add(subject.alone(parts, f"{says} {i}"))
                for i, parts in enumerate(drawn)
                if parts is not None
            ]
            nulls.append(Null(says, tuple(places)))
        elsewhere = (outside(subject, rng) for _ in range(n_random))
        left_out = [
            cells.add(subject.without(parts, f"model without others {i}"))
            for i, parts in enumerate(elsewhere)
            if parts is not None
        ]
        says = f"as many random {subject.circuit.level} that are not the circuit's"
        return cls(tuple(nulls), Null(says, tuple(left_out)), complement)

    def rows(self, evidence: Evidence) -> Iterator[Row]:
        """Sufficiency and necessity against every kind of random circuits, p-values as they are."""
        shares = evidence.faithfulness
        own = abs(1 - float(shares[CIRCUIT]))
        for null in self.alone:
            others = np.abs(1 - shares[list(null.places)])
            yield _compared("sufficiency", "|1 - F|", own, others, -1, null.says)
        lost = 1 - float(shares[self.complement])
        others, says = 1 - shares[list(self.left_out.places)], self.left_out.says
        yield _compared("necessity", "F lost without it", lost, others, 1, says)


def _compared(test: str, what: str, own: float, others: Floats, sign: int, says: str) -> Row:
    """Own number against those of random circuits; `sign` is 1 where more is better, else -1."""
    what = f"{what}, against {says}"
    n = len(others)
    if not n:
        return Row(test, what, own, against="there are no such circuits")
    beaten = int((sign * (own - others) > 1e-3).sum())
    p_value = at_least(beaten, n, QUANTILE)
    return Row(
        test,
        what,
        own,
        n=n,
        null=float(others.mean()),
        p_value=p_value,
        verdict=NOTHING,
        against=f"better than {beaten} of {n}; passes if clearly better than {QUANTILE:.0%}",
    )


def kinds_of_null(subject: Subject) -> Mapping[str, Draw]:
    """How random circuits of every kind are drawn, by what they are."""
    level = subject.circuit.level
    if level == "neurons":
        return {"as many random neurons": as_many, "as many neurons in each layer": alike_by_layer}
    return {f"as many random {level}": as_many, "the same heads per layer": heads_exchanged}


def as_many(subject: Subject, rng: np.random.Generator) -> frozenset[Part]:
    """As many random parts as the circuit has, at the positions that its parts have.

    Of nodes, as many heads and as many MLPs.
    """
    wanted = Counter((_kind(part), position_of(part)) for part in subject.parts)
    drawn: set[Part] = set()
    for (kind, position), n in wanted.items():
        pool = [part for part in subject.every if _kind(part) == kind]
        for i in rng.choice(len(pool), n, replace=False):
            drawn.add(_at(pool[int(i)], position))
    return frozenset(drawn)


def outside(subject: Subject, rng: np.random.Generator) -> frozenset[Part] | None:
    """As many random parts that the circuit does not have; None where too few are left."""
    own = {_at(part, None) for part in subject.parts}
    drawn: set[Part] = set()
    for kind, n in Counter(map(_kind, subject.parts)).items():
        pool = [part for part in subject.every if _kind(part) == kind and part not in own]
        if len(pool) < n:
            return None
        drawn |= {pool[int(i)] for i in rng.choice(len(pool), n, replace=False)}
    return frozenset(drawn)


def heads_exchanged(subject: Subject, rng: np.random.Generator) -> frozenset[Part]:
    """The same circuit with other heads in the place of its own, in each layer at random.

    It has as many edges, from as many heads of each layer, and is connected in the same way.
    """
    graph = subject.graph
    order = [rng.permutation(graph.n_heads) for _ in range(graph.n_layers)]

    def moved(part: Component) -> Component:
        if part.kind != "head" or part.layer is None or part.head is None:
            return part
        return replace(part, head=int(order[part.layer][part.head]))

    return frozenset(
        Edge(moved(part.sender), moved(part.receiver)) if isinstance(part, Edge) else moved(part)
        for part in subject.parts
    )


def alike_by_layer(subject: Subject, rng: np.random.Generator) -> frozenset[Part]:
    """As many neurons of each layer as the circuit has there."""
    drawn: set[Part] = set()
    by_layer = Counter(part.layer for part in subject.parts if isinstance(part, Component))
    for layer, n in by_layer.items():
        for neuron in rng.choice(subject.d_mlp, n, replace=False):
            drawn.add(Component("neuron", layer, neuron=int(neuron)))
    return frozenset(drawn)


def _another(subject: Subject, draw: Draw, rng: np.random.Generator) -> frozenset[Part] | None:
    """A random circuit that is not the circuit itself; None where there is no other."""
    for _ in range(_TRIES):
        parts = draw(subject, rng)
        if parts != subject.circuit.parts:
            return parts
    return None


def _kind(part: Part) -> str:
    return "edge" if isinstance(part, Edge) else part.kind


def _at(part: Part, position: str | int | None) -> Part:
    return (
        Edge(part.sender, part.receiver.at(position))
        if isinstance(part, Edge)
        else part.at(position)
    )
