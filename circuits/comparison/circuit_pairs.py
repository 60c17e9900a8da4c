"""What two circuits have in common, level by level, and how well one finds the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations

import numpy as np

from circuits.agreement import spearman
from circuits.arrays import Floats
from circuits.circuit import Circuit, Level, Part, Score
from circuits.comparison.chance import Chance, chance
from circuits.comparison.rankings import Finding
from circuits.components import Component, Edge
from circuits.errors import CircuitsError

# Of circuits of which level what can be seen, from fine to coarse.
VIEWS: Mapping[Level, tuple[Level, ...]] = {
    "edges": ("edges", "nodes", "heads"),
    "nodes": ("nodes", "heads"),
    "heads": ("heads",),
    "neurons": ("neurons",),
}


@dataclass(frozen=True, eq=False)
class Named:
    """A circuit and what it is called here."""

    name: str
    circuit: Circuit


@dataclass(frozen=True, eq=False)
class Side:
    """One circuit, seen at a level: its parts, and the scores of parts of this level."""

    name: str
    parts: frozenset[Part]
    scores: Mapping[Part, Score]
    higher_is_better: bool
    checksum: str | None

    def losses(self, parts: Sequence[Part]) -> Floats:
        """How much worse the metric gets without each of these parts, [s]."""
        sign = -1.0 if self.higher_is_better else 1.0
        return np.array([sign * self.scores[part].value for part in parts], dtype=np.float64)

    @cached_property
    def scored(self) -> list[Part]:
        """The parts that have a score, in an order that depends on nothing else."""
        known = (part for part, score in self.scores.items() if not math.isnan(score.value))
        return sorted(known, key=str)


@dataclass(frozen=True, eq=False)
class Pair:
    """A circuit beside another one, which is its reference, at a level.

    `n_parts` is how many parts of this level the model has, None where that is not known.
    """

    level: Level
    circuit: Side
    reference: Side
    n_parts: int | None

    @property
    def n_both(self) -> int:
        """How many parts are in both."""
        return len(self.circuit.parts & self.reference.parts)

    @property
    def jaccard(self) -> float:
        """The share of the parts in either circuit that is in both; NaN if both are empty."""
        return ratio(self.n_both, len(self.circuit.parts | self.reference.parts))

    @property
    def chance(self) -> Chance:
        """What random circuits of the same sizes share; NaN where the number of parts is unknown.

        Every part of the level is as likely as every other.
        """
        if self.n_parts is None:
            return Chance(math.nan, math.nan, math.nan)
        n_a, n_b = len(self.circuit.parts), len(self.reference.parts)
        return chance(self.n_parts, n_a, n_b, self.n_both)

    @property
    def losses(self) -> tuple[Floats, Floats]:
        """How much worse the metric gets without each part that both have a score of, [s] each."""
        theirs = {*self.reference.scored}
        both = [part for part in self.circuit.scored if part in theirs]
        return self.circuit.losses(both), self.reference.losses(both)

    def finding(self, of: Callable[[Floats], Floats]) -> Finding | None:
        """How the circuit's scores, or what `of` makes of them, find the reference.

        None where it has none, or the number of parts is not known.
        """
        parts = self.circuit.scored
        if not parts or self.n_parts is None:
            return None
        is_hit = np.array([part in self.reference.parts for part in parts])
        scores = of(self.circuit.losses(parts))
        return Finding.of(scores, is_hit, len(self.reference.parts), self.n_parts)


RANKINGS: Mapping[str, Callable[[Floats], Floats]] = {"absolute": np.abs, "signed": np.positive}


def row(pair: Pair) -> dict[str, object]:
    """Everything that is said of a pair."""
    n_a, n_b, n_both = len(pair.circuit.parts), len(pair.reference.parts), pair.n_both
    at_random, (x, y) = pair.chance, pair.losses
    findings = {name: pair.finding(of) for name, of in RANKINGS.items()}
    sums = pair.circuit.checksum, pair.reference.checksum
    return {
        **named(pair),
        "value": pair.jaccard,
        "n_circuit": n_a,
        "n_reference": n_b,
        "n_both": n_both,
        "only_circuit": n_a - n_both,
        "only_reference": n_b - n_both,
        "n_parts": pair.n_parts,
        "expected_both": at_random.n_both,
        "expected_jaccard": at_random.jaccard,
        "p_value": at_random.p_value,
        "precision": ratio(n_both, n_a),
        "recall": ratio(n_both, n_b),
        "f1": ratio(2 * n_both, n_a + n_b),
        "n_scored": len(x),
        "spearman_absolute": spearman(np.abs(x), np.abs(y)),
        "spearman_signed": spearman(x, y),
        **{f"roc_{name}": math.nan if f is None else f.roc_area for name, f in findings.items()},
        **{f"at_size_{name}": math.nan if f is None else f.at_size for name, f in findings.items()},
        "same_weights": None if None in sums else sums[0] == sums[1],
    }


def parts_of_one(pair: Pair) -> Iterator[dict[str, object]]:
    """A row for each part that only one of the two has, the largest by its score first."""
    for side, other in ((pair.circuit, pair.reference), (pair.reference, pair.circuit)):
        sizes = {part: abs(side.scores[part].value) for part in side.scored}
        place = {part: i for i, part in enumerate(sorted(sizes, key=lambda p: -sizes[p]), start=1)}
        last = len(place)
        alone = sorted(side.parts - other.parts, key=lambda p: (place.get(p, last + 1), str(p)))
        for part in alone:
            scores = [each.scores.get(part, Score(math.nan)).value for each in (side, other)]
            finite = [score if math.isfinite(score) else math.nan for score in scores]
            yield {
                "level": pair.level,
                "only_in": side.name,
                "other": other.name,
                "part": str(part),
                "value": finite[0],
                "rank": place.get(part),
                "value_other": finite[1],
            }


def curve(pair: Pair, what: str) -> Iterator[dict[str, object]]:
    """The corners of the ROC or precision-recall curve of a pair, for both rankings.

    There is none without scores, or where the reference is empty: nothing can be found.
    """
    n_hits = len(pair.reference.parts)
    for ranking, of in RANKINGS.items():
        finding = pair.finding(of)
        if finding is None or pair.n_parts is None or not n_hits:
            continue
        for taken, right in zip(*(each.tolist() for each in finding.corners()), strict=True):
            of_found = {"true_positive_rate": ratio(right, n_hits)}
            if what == "roc":
                x = {"false_positive_rate": ratio(taken - right, pair.n_parts - n_hits)}
                value = of_found["true_positive_rate"]
            else:
                x, value = {"recall": of_found["true_positive_rate"]}, ratio(right, taken)
            if taken or what == "roc":
                yield {**named(pair), "ranking": ranking, "size": taken, **x, "value": value}


def named(pair: Pair) -> dict[str, object]:
    """The level and names of a pair."""
    return {"level": pair.level, "circuit": pair.circuit.name, "reference": pair.reference.name}


def ratio(part: int, whole: int) -> float:
    """The share; NaN of nothing."""
    return part / whole if whole else math.nan


def pairs(
    circuits: Sequence[Named],
    reference: str | None,
    *,
    level: Level | None,
    positions: bool,
    n_neurons: int | None,
) -> list[Pair]:
    """Each circuit beside each other one, or only beside the reference, at each of their levels.

    `n_neurons` is how many neurons the model has. Where `positions` are not told apart, scores at
    a position are of no part.

    Raises:
        CircuitsError: for circuits of other models, without a common level, or without positions
            where these are asked for.
    """
    for a, b in combinations(circuits, 2):
        _require_comparable(a, b)
    given = circuits if positions else [replace(c, circuit=everywhere(c.circuit)) for c in circuits]
    if positions:
        _require_positions(given)
    common = [each for each in VIEWS if all(each in _levels(c.circuit, positions) for c in given)]
    chosen = _chosen(given, common, level, positions)
    made = []
    for each in chosen:
        sides = [_side(c, each) for c in given]
        for two in permutations(sides, 2):
            if reference in (None, two[1].name):
                n_parts = _n_parts(given[0].circuit, each, two, n_neurons)
                made.append(Pair(each, *two, n_parts))
    return made


def everywhere(circuit: Circuit) -> Circuit:
    """The circuit without positions: its parts wherever they act, and scores that are of no one."""
    without = circuit.everywhere()
    scores = {part: score for part, score in without.scores.items() if _position(part) is None}
    return replace(without, scores=scores)


def _levels(circuit: Circuit, positions: bool) -> tuple[Level, ...]:
    """What can be seen of a circuit; at which positions nodes act, edges do not say."""
    return ("edges",) if positions and circuit.level == "edges" else VIEWS[circuit.level]


def _side(named: Named, level: Level) -> Side:
    circuit = named.circuit
    parts: Iterable[Part]
    if level == circuit.level:
        parts, scores = circuit.parts, circuit.scores
    elif circuit.level == "edges":
        parts, scores = (circuit.nodes if level == "nodes" else circuit.heads), {}
    else:
        parts = [part for part in circuit.parts if _is_head(part)]
        scores = {part: score for part, score in circuit.scores.items() if _is_head(part)}
    origin = circuit.origin
    return Side(named.name, frozenset(parts), scores, origin.higher_is_better, origin.checksum)


def _n_parts(
    circuit: Circuit, level: Level, two: Iterable[Side], neurons: int | None
) -> int | None:
    """How many parts of this level there are, at the positions that either circuit names."""
    graph = circuit.graph
    counts: dict[Level, int | None] = {
        "edges": len(graph),
        "nodes": len(graph.writers) - 1,
        "heads": graph.n_layers * graph.n_heads,
        "neurons": neurons,
    }
    n = counts[level]
    at = {_position(part) for side in two for part in (*side.parts, *side.scores)}
    return None if n is None else n * max(1, len(at))


def _chosen(
    circuits: Sequence[Named], common: Sequence[Level], level: Level | None, positions: bool
) -> list[Level]:
    of = ", ".join(f"{c.name} of {c.circuit.level}" for c in circuits)
    if not common:
        where = " at positions" if positions else ""
        raise CircuitsError(
            f"the circuits have no level{where} in common: {of}; compare circuits of neurons with "
            "one another, and edges at positions with edges"
        )
    if level is None:
        return list(common)
    if level not in common:
        raise CircuitsError(
            f"level={level!r} cannot be seen of all circuits ({of}); choose {', '.join(common)}"
        )
    return [level]


def _require_comparable(a: Named, b: Named) -> None:
    if a.circuit.graph != b.circuit.graph:
        shapes = [
            f"{each.name} is of {each.circuit.origin.model}, with {g.n_layers} layers of "
            f"{g.n_heads} heads{'' if g.has_mlps else ' and no MLPs'}"
            for each in (a, b)
            for g in [each.circuit.graph]
        ]
        raise CircuitsError(
            f"{shapes[0]}, and {shapes[1]}: they have no parts in common; take circuits of models "
            "of the same shape"
        )


def _require_positions(circuits: Iterable[Named]) -> None:
    for each in circuits:
        if any(_position(part) is None for part in each.circuit.parts):
            raise CircuitsError(
                f"{each.name} has parts that act at every position; leave positions out, so that "
                "all circuits are compared wherever they act"
            )


def _position(part: Part) -> str | int | None:
    return part.receiver.position if isinstance(part, Edge) else part.position


def _is_head(part: Part) -> bool:
    return isinstance(part, Component) and part.kind == "head"
