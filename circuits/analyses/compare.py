"""How alike are circuits? Shared parts beside chance, agreement of scores, and a reference."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from circuits.circuit import Circuit, Level, read_circuit
from circuits.comparison.circuit_pairs import Named, Pair, curve, pairs, parts_of_one, row
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.registry import analysis
from circuits.result import Provenance, Result, versions

MEANINGS = {
    "level": "what is compared: edges, or the nodes or heads that have them",
    "circuit": "of which the row is",
    "reference": "the circuit that it is compared with",
    "n_circuit": "parts of the circuit",
    "n_reference": "parts of the reference",
    "n_both": "parts that are in both",
    "only_circuit": "parts that are only in the circuit",
    "only_reference": "parts that are only in the reference",
    "n_parts": "parts of this level that the model has (at the positions that either names)",
    "expected_both": "n_both of random circuits of the same sizes, on average (hypergeometric)",
    "expected_jaccard": "their Jaccard index, on average",
    "p_value": "probability that random circuits of the same sizes share at least as many parts",
    "precision": "share of the circuit that is in the reference",
    "recall": "share of the reference that is in the circuit",
    "f1": "harmonic mean of precision and recall",
    "n_scored": "parts that both circuits have a score of, kept or not",
    "spearman_absolute": "correlation of the ranks of these scores' sizes",
    "spearman_signed": "the same with signs: by how much worse the metric gets without the part",
    "roc_absolute": "area under the ROC curve: how the sizes of the circuit's scores find the "
    "reference; pessimistic, so that ties gain nothing",
    "roc_signed": "the same by how much worse the metric gets without the part",
    "at_size_absolute": "precision, and recall, of as many parts as the reference has, those with "
    "the largest scores by size; of ties those that are not in the reference come first",
    "at_size_signed": "the same by how much worse the metric gets without the part",
    "same_weights": "whether both are of the same weights, where both say of which",
}
OF_PARTS = {
    "level": MEANINGS["level"],
    "only_in": "the circuit that has the part",
    "other": "the circuit that lacks it",
    "part": "an edge, node, head or neuron",
    "value": "its score in the circuit that has it; missing where it has none or an infinite one",
    "rank": "its place among all scores of that circuit by size; 1 is the largest",
    "value_other": "its score in the other circuit, if that has scored it",
}
OF_CURVES = {
    **{name: MEANINGS[name] for name in ("level", "circuit", "reference")},
    "ranking": "by the absolute score, or signed by how much worse the metric gets without a part",
    "size": "how many parts with the largest scores are taken",
    "false_positive_rate": "share of the parts outside the reference that is taken",
    "recall": "share of the reference that is taken",
    "value": "share of the reference that is taken, or of what is taken that is in the reference",
}
MOST_NAMED = 4  # circuits in a title
CURVES = {"roc": "true positive rate", "precision-recall": "precision"}
X = {"roc": "false_positive_rate", "precision-recall": "recall"}


@analysis
def compare(
    circuits: Sequence[str | Path | Circuit],
    *,
    reference: str | Path | Circuit | None = None,
    level: Literal["edges", "nodes", "heads", "neurons"] | None = None,
    show: Literal["overlap", "parts", "roc", "precision-recall"] = "overlap",
    positions: bool = False,
    model: HookedModel | None = None,
) -> Result:
    """How alike are these circuits?

    Each circuit is compared with each other one: how many parts they share, as a Jaccard index (the
    share of the parts in either that is in both), beside what random circuits of the same sizes
    share, exactly (hypergeometric); precision, recall and F1, if the other one is the truth; the
    rank correlation of the scores that both have; and how well the circuit's scores find the other
    circuit, whatever its size (area under the ROC curve, pessimistic as in Conmy et al. 2023,
    arXiv 2304.14997, and precision at the other's size). Circuits of edges are also compared by
    their nodes and heads, and with circuits of these. No model is needed, and weights may differ.

    $ circuits compare ioi.json other.json
    $ circuits compare eap.json eap-ig.json --reference exact.json --show roc --figure roc.png
    $ circuits compare found.json ioi --level heads --show parts

    Args:
        circuits: Files, folders of `discover`, or names of published circuits: two or more.
        reference: Compare only with this circuit, as the truth; it may be one of those given.
        level: Compare edges, nodes, heads or neurons only. Without it, all that all circuits have.
        show: How much is shared (overlap); the parts that only one has, largest scores first
            (parts); or curves of how the scores find the other circuit (roc, precision-recall).
        positions: Tell apart where parts act. Without it, parts are compared wherever they act.
        model: A model that all circuits should be of.

    Raises:
        CircuitsError: for less than two circuits, one that is given twice, circuits of models of
            another shape or without a common level; curves without scores; and with a model,
            circuits that are not of its shape and weights.

    >>> from circuits.circuit import Circuit
    >>> from circuits.checkpoints import load
    >>> edges = ["embed->a0.h1<q>", "a0.h1->logits"]
    >>> two = [Circuit.of(load("compiled"), edges[:n]) for n in (1, 2)]
    >>> overlap = compare(two, level="edges").frame
    >>> overlap[["circuit", "value", "precision", "recall"]].values.tolist()
    [['circuit 1', 0.5, 1.0, 0.5], ['circuit 2', 0.5, 0.5, 1.0]]
    """
    if isinstance(circuits, str | Path | Circuit):
        raise CircuitsError("compare takes a list of circuits, two or more; one was given")
    if show not in ("overlap", "parts", *CURVES):
        raise CircuitsError(f"show={show!r}: choose overlap, parts, {' or '.join(CURVES)}")
    given = _given(circuits, reference)
    if model is not None:
        for each in given.circuits:
            each.circuit.require_fits(model)
    n_neurons = None if model is None else model.cfg.n_layers * model.cfg.d_mlp
    compared = pairs(
        given.circuits, given.reference, level=level, positions=positions, n_neurons=n_neurons
    )
    if show == "overlap":
        return _overlap(given, compared)
    return _parts(given, compared) if show == "parts" else _curves(given, compared, show)


@dataclass(frozen=True, eq=False)
class _Given:
    """The circuits, the reference among them, if there is one."""

    circuits: tuple[Named, ...]
    reference: str | None

    @property
    def listed(self) -> str:
        """The names, but for that of the reference."""
        return _listed(self._names)

    @property
    def every(self) -> str:
        """The names, and that of the reference last."""
        last = [] if self.reference is None else [f"the reference {self.reference}"]
        return _listed([*self._names, *last])

    @property
    def _names(self) -> list[str]:
        names = [each.name for each in self.circuits if each.name != self.reference]
        return names if len(names) <= MOST_NAMED else [f"{len(names)} circuits"]

    @property
    def provenance(self) -> Provenance:
        """Of which models the circuits are, and what was read, by its SHA-256."""
        origins = [each.circuit.origin for each in self.circuits]
        sums = {origin.checksum for origin in origins}
        return Provenance(
            analysis="compare",
            model=", ".join(dict.fromkeys(origin.model for origin in origins)),
            checksum=sums.pop() or "" if len(sums) == 1 else "",
            source="; ".join(map(_said, self.circuits)),
            device="cpu",
            dtype="float64",
            arguments={},
            command="",
            versions=versions(),
        )


def _given(
    circuits: Sequence[str | Path | Circuit], reference: str | Path | Circuit | None
) -> _Given:
    every = [*circuits]
    at = None
    if reference is not None:
        at = next((i for i, each in enumerate(every) if _is_same(each, reference)), len(every))
        every += [reference] if at == len(every) else []
    for i, each in enumerate(every):
        if not isinstance(each, Circuit) and any(_is_same(each, other) for other in every[:i]):
            raise CircuitsError(f"{each} was given twice; name each circuit once")
    if len(every) < 2:
        names = "one was" if every else "none were"
        raise CircuitsError(
            f"compare takes two circuits or more, and {names} given; name another file or "
            "published circuit, or a reference"
        )
    named = tuple(map(Named, _names(every), map(read_circuit, every)))
    return _Given(named, None if at is None else named[at].name)


def _is_same(a: str | Path | Circuit, b: str | Path | Circuit) -> bool:
    if isinstance(a, Circuit) or isinstance(b, Circuit):
        return a is b
    return str(a) == str(b)


def _names(every: Sequence[str | Path | Circuit]) -> list[str]:
    """What circuits are called: files by their names alone, where these differ."""
    names = [
        f"circuit {i}" if isinstance(each, Circuit) else Path(each).name.removesuffix(".json")
        for i, each in enumerate(every, start=1)
    ]
    return [
        str(each) if names.count(name) > 1 and not isinstance(each, Circuit) else name
        for name, each in zip(names, every, strict=True)
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _said(named: Named) -> str:
    """What a circuit is, in a line: its content's checksum, what was scored and how."""
    circuit, origin = named.circuit, named.circuit.origin
    digest = hashlib.sha256(circuit.to_json().encode()).hexdigest()[:12]
    about = [origin.method, origin.metric, origin.task, origin.reference]
    return f"{named.name} ({digest}, {', '.join(each for each in about if each)})"


def _overlap(given: _Given, compared: Sequence[Pair]) -> Result:
    frame = pd.DataFrame([row(pair) for pair in compared])
    frame = frame.astype({"n_parts": "Int64", "same_weights": "boolean"})
    one_level = frame["level"].nunique() == 1
    axes = ("circuit",) if given.reference is not None else ("circuit", "reference")
    return Result(
        frame,
        unit="Jaccard index",
        title=f"How alike are {given.every}?",
        provenance=given.provenance,
        axes=axes if one_level else ("level", *axes),
        view="bars" if given.reference is not None else "heatmap",
        meanings={"value": "Jaccard index: shared parts over parts in either", **MEANINGS},
    )


def _parts(given: _Given, compared: Sequence[Pair]) -> Result:
    """The parts that only one of a pair has; each pair once."""
    seen: set[frozenset[str]] = set()
    rows = []
    finest: Level = compared[0].level
    for pair in compared:
        names = frozenset([pair.circuit.name, pair.reference.name])
        if pair.level == finest and names not in seen:
            seen.add(names)
            rows += list(parts_of_one(pair))
    frame = pd.DataFrame(rows, columns=list(OF_PARTS))
    return Result(
        frame.astype({"rank": "Int64", "value": float, "value_other": float}),
        unit="score",
        title=f"Which parts are in only one of {given.every}?",
        provenance=given.provenance,
        axes=("only_in", "part"),
        meanings=OF_PARTS,
    )


def _curves(given: _Given, compared: Sequence[Pair], show: str) -> Result:
    rows = [point for pair in compared for point in curve(pair, show)]
    if not rows:
        raise CircuitsError(
            f"show={show!r} needs scores of the parts that are compared, and a reference that has "
            "parts, and there are none; compare circuits that were scored, at the level of their "
            "scores"
        )
    frame = pd.DataFrame(rows)
    whom = "each other" if given.reference is None else f"the reference {given.reference}"
    names = ("level", "circuit", "reference")
    several = [name for name in names if frame[name].nunique() > 1] or ["circuit"]
    return Result(
        frame,
        unit=CURVES[show],
        title=f"How do the scores of {given.listed} find {whom}?",
        provenance=given.provenance,
        axes=(*several, "ranking", X[show]),
        view="curves",
        meanings={name: says for name, says in OF_CURVES.items() if name in frame},
    )
