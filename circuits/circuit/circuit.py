"""A circuit: which edges (or heads, nodes, neurons) of a model are kept, with their scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from circuits.checkpoints import checksum
from circuits.circuit.graph import EMBED, LOGITS, Graph, graph
from circuits.circuit.parts import LEVELS, Level, Origin, Part, Score, part_of
from circuits.circuit.written import as_json
from circuits.components import Component, Edge, check
from circuits.errors import CircuitsError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from circuits.circuit.exchange import Format, ScoresOf
    from circuits.model import HookedModel

# Of `Circuit.frame`.
COLUMNS = ("part", "sender", "receiver", "position", "score", "ci_low", "ci_high", "kept")


@dataclass(frozen=True)
class Circuit:
    """Which parts of a model are the circuit, and how much does each matter?

    `parts` are edges, or at another `level` heads (with all MLPs), nodes (heads and MLPs) or
    neurons (with all heads); then the circuit has every edge between them. `scores` may also know
    the parts that were left out, so that circuits of other sizes can be had (`chosen`). `classes`
    may say what heads and MLPs are for ("name mover").

    Raises:
        CircuitsError: for parts that are not of this level, or that the graph does not have.

    >>> import circuits
    >>> model = circuits.load("compiled")
    >>> circuit = Circuit.of(model, ["embed->a0.h1<q>", "a0.h1->a1.h1<k>", "a1.h1->logits"])
    >>> len(circuit), [str(head) for head in circuit.heads]
    (3, ['a0.h1', 'a1.h1'])
    """

    graph: Graph
    parts: frozenset[Part]
    origin: Origin
    scores: Mapping[Part, Score] = field(default_factory=dict)
    level: Level = "edges"
    classes: Mapping[Component, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise CircuitsError(
                f"there is no level {self.level!r}; choose {', '.join(LEVELS)}"
                f"{nearest(self.level, LEVELS)}"
            )
        for part in {*self.parts, *self.scores}:
            self._require(part)
        for node in self.classes:
            if node not in self.graph.writer:
                raise CircuitsError(f"{node} has a class, and is no head or MLP of this model")

    @classmethod
    def of(
        cls, model: HookedModel, parts: Iterable[str | Part], *, level: Level = "edges"
    ) -> Circuit:
        """A circuit by hand, of parts that are named.

        Raises:
            CircuitsError: for names outside the grammar, and parts that the model does not have.
        """
        origin = Origin(model.cfg.model_name, checksum(model))
        named = [part if isinstance(part, Component | Edge) else part_of(part) for part in parts]
        for part in named:
            if isinstance(part, Component):
                check(part, model.cfg)
        return cls(graph(model.cfg), frozenset(named), origin, level=level)

    @classmethod
    def whole(cls, model: HookedModel) -> Circuit:
        """The whole model as a circuit: every edge."""
        return cls.of(model, graph(model.cfg).edges)

    def __len__(self) -> int:
        return len(self.parts)

    def __contains__(self, part: str | Part) -> bool:
        return (part_of(part) if isinstance(part, str) else part) in self.parts

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The edges that are kept, in the order of the graph."""
        if self.level == "edges":
            edges = [part for part in self.parts if isinstance(part, Edge)]
            return tuple(sorted(edges, key=lambda e: (*self.graph.place(e), str(e))))
        at: dict[Component, set[str | int | None]] = {EMBED: {None}}
        for node in self._nodes:
            at.setdefault(node.at(None), set()).add(node.position)
        kept = {*at, LOGITS}
        return tuple(
            Edge(edge.sender, edge.receiver.at(position))
            for edge in self.graph
            if edge.sender in kept and replace(edge.receiver, slot=None) in kept
            for position in sorted(at[edge.sender], key=str)
        )

    @property
    def neurons(self) -> tuple[Component, ...] | None:
        """The neurons that are kept; None where MLPs are kept or left out as a whole."""
        if self.level != "neurons":
            return None
        parts = [part for part in self.parts if isinstance(part, Component)]
        return tuple(sorted(parts, key=lambda part: (part.layer or 0, part.neuron or 0)))

    @property
    def nodes(self) -> tuple[Component, ...]:
        """The heads and MLPs that have an edge, in the order of computation."""
        ends = {edge.sender for edge in self.edges}
        ends |= {replace(edge.receiver, slot=None, position=None) for edge in self.edges}
        return tuple(node for node in self.graph.writers if node in ends and node != EMBED)

    @property
    def heads(self) -> tuple[Component, ...]:
        """The heads that have an edge, in the order of computation."""
        return tuple(node for node in self.nodes if node.kind == "head")

    def __or__(self, other: Circuit) -> Circuit:
        return self._with(self._same(other).parts | self.parts, other.scores)

    def __and__(self, other: Circuit) -> Circuit:
        return self._with(self._same(other).parts & self.parts)

    def __sub__(self, other: Circuit) -> Circuit:
        return self._with(self.parts - self._same(other).parts)

    def without(self, *names: str | Part) -> Circuit:
        """The circuit less these parts: an edge, or a head or MLP with every edge that it has.

        Raises:
            CircuitsError: for a part that is not in the circuit.

        >>> import circuits
        >>> model = circuits.load("compiled")
        >>> circuit = Circuit.of(model, ["embed->a0.h1<q>", "a0.h1->a1.h1<k>", "a1.h1->logits"])
        >>> [str(edge) for edge in circuit.without("a0.h1").edges]
        ['a1.h1->logits']
        """
        parts = set(self.parts)
        for name in names:
            part = part_of(name) if isinstance(name, str) else name
            gone = {each for each in parts if each == part or _touches(each, part)}
            if not gone:
                raise CircuitsError(
                    f"{part} is not in the circuit{nearest(str(part), map(str, self.parts))}"
                )
            parts -= gone
        return self._with(frozenset(parts))

    def pruned(self) -> Circuit:
        """Only the edges on a path from the embedding to the logits; the origin counts the others.

        Positions are not looked at: attention moves from one to another.
        """
        if self.level != "edges":
            return self
        alive = self.graph.alive(self.graph.mask(self.edges))
        parts = frozenset(edge for edge in self.edges if alive[self.graph.place(edge)])
        gone = len(self.parts) - len(parts)
        return replace(
            self._with(parts), origin=replace(self.origin, pruned=self.origin.pruned + gone)
        )

    def found_by(self, command: str) -> Circuit:
        """The same circuit, that says which command finds it again."""
        return replace(self, origin=replace(self.origin, command=command))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each part that is kept or has a score, the largest first."""
        rows = [self._row(part) for part in self.ranked({*self.parts, *self.scores})]
        frame: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS))
        return frame

    def ranked(self, parts: Iterable[Part], *, signed: bool = False) -> list[Part]:
        """These parts, the most important first, those without a score last.

        By the size of their scores; or `signed`, by how much the metric gets worse without them,
        so that parts which work against it come last.
        """
        worse = -1 if self.origin.higher_is_better else 1

        def key(part: Part) -> tuple[bool, float, str]:
            score = self.scores.get(part)
            if score is None or math.isnan(score.value):
                return True, 0.0, str(part)
            return False, -(worse * score.value if signed else abs(score.value)), str(part)

        return sorted(parts, key=key)

    def plot(self) -> Figure:
        """Who writes to whom: the kept parts as a figure, see `circuits.figures.wiring`.

        Raises:
            CircuitsError: when nothing is kept.

        >>> from circuits.circuit import compiled_circuit
        >>> compiled_circuit().plot().axes[0].get_title(loc="left")
        'compiled: 6 edges by hand (compiled-ioi)'
        """
        from circuits.circuit.pictures import plot  # matplotlib takes half a second

        return plot(self)

    def require_fits(self, model: HookedModel) -> Circuit:
        """The same circuit, if it is one of this model.

        Raises:
            CircuitsError: when it is of another shape, or of other weights.
        """
        cfg = model.cfg
        if self.graph != graph(cfg):
            raise CircuitsError(
                f"the circuit is of {self.origin.model}, with {self.graph.n_layers} layers of "
                f"{self.graph.n_heads} heads, and {cfg.model_name} has {cfg.n_layers} of "
                f"{cfg.n_heads}; ask about the model that it was found in"
            )
        own = checksum(model)
        if self.origin.checksum not in (None, own):
            raise CircuitsError(
                f"the circuit was found in {self.origin.model} with the weights "
                f"{str(self.origin.checksum)[:12]}, and {cfg.model_name} has {own[:12]}; ask about "
                "the model that it was found in, or find the circuit anew in this one"
            )
        return self

    def to_json(self) -> str:
        """The circuit as text that a person can read: kept parts, the most important first."""
        return as_json(self)

    def save(self, path: str | Path, *, format: Format = "circuits") -> Path:
        """Write the circuit into a file, whole or not at all. Returns the path.

        Args:
            path: the file.
            format: ``circuits``: JSON that `load` reads as it was. ``eap-ig``: a graph of the
                package EAP-IG and of MIB, .json or .pt. ``auto-circuit``: prune scores, .pt. These
                two have scores of a loss: how much it rises without the edge.

        Raises:
            CircuitsError: when the file cannot be written, or the format cannot say this circuit:
                neither has positions.
        """
        from circuits.circuit.exchange import save

        return save(self, Path(path), format)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        metric: str | None = None,
        scores_of: ScoresOf | None = None,
        entry: str | None = None,
    ) -> Circuit:
        """The circuit in this file, of whichever format that `save` writes.

        Files of EAP-IG and auto-circuit say neither what was measured nor the model and its
        weights: `origin.source` tells so, and `require_fits` then compares shapes only.

        Args:
            path: the file.
            metric: of a file of EAP-IG or auto-circuit: what its scores are changes of.
            scores_of: of such a file: whether they are changes of a ``loss``, minus the metric
                (kl and loss are losses themselves), as these packages mean them to be, or of the
                ``metric`` itself. None for a loss, if corrupting the input raises it.
            entry: of a file of auto-circuit with several prune scores, which: "task/algorithm".

        Raises:
            CircuitsError: when the file holds no circuit, or parts that its model does not have;
                or its scores cannot be of a loss, and `scores_of` does not say of what.
        """
        from circuits.circuit.exchange import Reading, load

        return load(Path(path), reading=Reading(metric, scores_of), entry=entry)

    @classmethod
    def published(cls, name: str) -> Circuit:
        """The circuit of this name that comes with the package; `origin.source` says from where.

        Raises:
            CircuitsError: for another name, with those that there are.

        >>> ioi = Circuit.published("ioi")
        >>> len(ioi.heads), ioi.classes[ioi.heads[-1]], sorted(map(str, ioi.parts))[-1]
        (26, 'negative name mover', 'a9.h9@END')
        """
        from circuits.circuit.publications import read_published

        return read_published(name)

    def everywhere(self) -> Circuit:
        """The same parts, at every position, without their scores, which are of one position.

        >>> [str(part) for part in Circuit.published("ioi").everywhere().heads[:2]]
        ['a0.h1', 'a0.h10']
        """
        parts = frozenset(
            Edge(part.sender, part.receiver.at(None)) if isinstance(part, Edge) else part.at(None)
            for part in self.parts
        )
        return self if parts == self.parts else replace(self, parts=parts, scores={})

    @property
    def _nodes(self) -> set[Component]:
        """The heads and MLPs that are kept, where parts are no edges."""
        nodes = {part for part in self.parts if isinstance(part, Component)}
        mlps = {node for node in self.graph.writers if node.kind == "mlp"}
        heads = {node for node in self.graph.writers if node.kind == "head"}
        if self.level == "neurons":
            return heads | {Component("mlp", neuron.layer) for neuron in nodes}
        return nodes | mlps if self.level == "heads" else nodes

    def _with(self, parts: frozenset[Part], more: Mapping[Part, Score] | None = None) -> Circuit:
        return replace(self, parts=parts, scores={**(more or {}), **self.scores})

    def _same(self, other: Circuit) -> Circuit:
        """The other circuit, if the two can be compared part by part."""
        if self.graph != other.graph or self.level != other.level:
            raise CircuitsError(
                f"a circuit of {self.level} of {self.origin.model} and one of {other.level} of "
                f"{other.origin.model} have no parts in common; take two of the same model and "
                "level"
            )
        return other

    def _require(self, part: Part) -> None:
        if isinstance(part, Edge):
            fits = self.level == "edges"
            if fits:
                self.graph.place(part)
        else:
            kinds = {"heads": ("head",), "nodes": ("head", "mlp"), "neurons": ("neuron",)}
            fits = part.kind in kinds.get(self.level, ()) and part.slot is None
            node = replace(part, kind="mlp", neuron=None) if part.kind == "neuron" else part
            if fits and node.at(None) not in self.graph.writer:
                raise CircuitsError(
                    f"{part} is not in a model of {self.graph.n_layers} layers of "
                    f"{self.graph.n_heads} heads"
                )
        if not fits:
            raise CircuitsError(
                f"{part} is none of the {self.level} that this circuit is made of; write edges as "
                "a0.h1->a5.h3<q>, heads as a5.h3, MLPs as m5, neurons as m5.n12"
            )

    def _row(self, part: Part) -> dict[str, object]:
        score = self.scores.get(part, Score(math.nan))
        ends = (part.sender, part.receiver) if isinstance(part, Edge) else (part, None)
        at = part.receiver.position if isinstance(part, Edge) else part.position
        return {
            "part": str(part),
            "sender": str(ends[0]),
            "receiver": None if ends[1] is None else str(ends[1].at(None)),
            "position": None if at is None else str(at),
            "score": score.value,
            "ci_low": score.ci_low,
            "ci_high": score.ci_high,
            "kept": part in self.parts,
        }


def _touches(part: Part, node: Part) -> bool:
    """Whether the part is an edge of this node, or a place of it."""
    if isinstance(node, Edge):
        return False
    if isinstance(part, Component):
        return part.at(None) == node
    ends = part.sender, part.receiver.at(None), replace(part.receiver, slot=None, position=None)
    return node in ends
