"""What is tested: a circuit's parts, and the sets of parts that tests keep or leave out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from circuits.arrays import Bools
from circuits.circuit import EMBED, LOGITS, Circuit, Graph, Part
from circuits.components import Component, Edge
from circuits.sweep import Elsewhere, Kept
from circuits.sweep.circuit_sweep import Place

MANY = 100  # parts: beyond that, whole heads and MLPs are dropped, not edges one by one


@dataclass(frozen=True, eq=False)
class Subject:
    """A circuit whose parts are kept and left out in sets.

    A set of parts is edges, or heads, nodes or neurons with every edge between them, as the
    circuit's `level` says.

    Attributes:
        circuit: the one that is tested.
        d_mlp: how many neurons each MLP of its model has.
    """

    circuit: Circuit
    d_mlp: int

    @property
    def graph(self) -> Graph:
        """The graph that the circuit is a part of."""
        return self.circuit.graph

    @cached_property
    def every(self) -> tuple[Part, ...]:
        """All parts of the circuit's level that the model has."""
        if self.circuit.level == "edges":
            return self.graph.edges
        if self.circuit.level == "neurons":
            layers, neurons = range(self.graph.n_layers), range(self.d_mlp)
            return tuple(Component("neuron", i, neuron=n) for i in layers for n in neurons)
        kinds = ("head",) if self.circuit.level == "heads" else ("head", "mlp")
        return tuple(node for node in self.graph.writers if node.kind in kinds)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The circuit's parts, by name."""
        return tuple(sorted(self.circuit.parts, key=str))

    @cached_property
    def ranked(self) -> tuple[Part, ...]:
        """All parts that circuits of other sizes choose from: where scores have positions, these.

        Parts without a score are among them.
        """
        scored = self.circuit.scores
        if all(position_of(part) is None for part in scored):
            return self.every
        return tuple(sorted({*scored, *self.circuit.parts}, key=str))

    @cached_property
    def units(self) -> Mapping[str, frozenset[Part]]:
        """What is dropped in one piece, by its name: each part, or where these are many, each node.

        A node goes with every edge that it has; of many neurons, a layer's go together.
        """
        if len(self.parts) <= MANY:
            return {str(part): frozenset({part}) for part in self.parts}
        groups: dict[str, set[Part]] = {}
        for part in self.parts:
            for name in _owners(part):
                groups.setdefault(name, set()).add(part)
        return {name: frozenset(group) for name, group in sorted(groups.items())}

    def alone(self, parts: Collection[Part], name: str) -> Kept:
        """What is kept when these parts are the circuit."""
        if self._at_positions(parts):
            circuit = replace(self.circuit, parts=frozenset(parts), scores={})
            kept = Kept.of(circuit, name)
            everywhere = kept.masks[None]
            once = {at: mask & ~everywhere for at, mask in kept.masks.items()}
            once[None] = everywhere
            return replace(kept, masks=once)
        if self.circuit.level == "edges":
            edges = [part for part in parts if isinstance(part, Edge)]
            return Kept.only(self.graph, self.graph.mask(edges), name)
        return self._of_nodes([part for part in parts if isinstance(part, Component)], name)

    def without(self, parts: Collection[Part], name: str) -> Kept:
        """What is kept when the whole model lacks these parts, and nothing else.

        A part that has positions is lacking there, and a node's edges are those that leave it.
        """
        if self._at_positions(parts):
            return self._without_positions(parts, name)
        if self.circuit.level == "edges":
            edges = [part for part in parts if isinstance(part, Edge)]
            return Kept.only(self.graph, ~self.graph.mask(edges), name)
        gone = frozenset(parts)
        left = [p for p in self.every if p not in gone and isinstance(p, Component)]
        return self._of_nodes(left, name)

    def _at_positions(self, parts: Collection[Part]) -> bool:
        """Whether some of these act at one position only; neurons are taken everywhere."""
        level = self.circuit.level
        return level != "neurons" and any(position_of(part) is not None for part in parts)

    def _without_positions(self, parts: Collection[Part], name: str) -> Kept:
        """Every edge, but for those of these parts at their positions."""
        graph, lacking = self.graph, dict[str | int | None, Bools]()
        for part in parts:
            mask = lacking.setdefault(position_of(part), np.zeros_like(graph.exists))
            if isinstance(part, Edge):
                mask[graph.place(part)] = True
            else:
                mask[:, graph.writer[part.at(None)]] = True
        everywhere = lacking.pop(None, np.zeros_like(graph.exists))
        at = sorted((position for position in lacking if position is not None), key=str)
        which = np.stack([lacking[position] for position in at])  # [positions r w]
        masks: dict[Place, Bools] = {None: graph.exists & ~everywhere & ~which.any(0)}
        for some in np.unique(which.reshape(len(at), -1).T, axis=0):
            if some.any():
                positions = tuple(at[i] for i in np.flatnonzero(some))
                here = (which == some[:, None, None]).all(0)
                masks[Elsewhere(positions)] = graph.exists & ~everywhere & here
        return Kept(name, graph, masks)

    def _of_nodes(self, parts: Collection[Component], name: str) -> Kept:
        """Every edge between these heads, MLPs or neurons, and what always goes with them."""
        graph, level = self.graph, self.circuit.level
        nodes: set[Component] = {EMBED, LOGITS, *parts}
        neurons: Bools | None = None
        if level == "heads":
            nodes |= {node for node in graph.writers if node.kind == "mlp"}
        if level == "neurons":
            nodes |= {node for node in graph.writers if node.kind == "head"}
            neurons = np.zeros((graph.n_layers, self.d_mlp), dtype=bool)
            for part in parts:
                neurons[part.layer, part.neuron] = True
                nodes.add(Component("mlp", part.layer))
        writes = np.array([node in nodes for node in graph.writers])
        reads = np.array([replace(reader, slot=None) in nodes for reader in graph.readers])
        mask = graph.exists & writes & reads[:, None]
        return Kept(name, graph, {None: mask}, neurons)


def position_of(part: Part) -> str | int | None:
    """At which position the part is kept; None: at all of them."""
    return part.receiver.position if isinstance(part, Edge) else part.position


def _owners(part: Part) -> list[str]:
    """The heads and MLPs that a part goes with."""
    if isinstance(part, Edge):
        ends = part.sender, replace(part.receiver, slot=None, position=None)
        return [str(end) for end in ends if end not in (EMBED, LOGITS)]
    return [f"m{part.layer}"] if part.kind == "neuron" else [str(part)]
