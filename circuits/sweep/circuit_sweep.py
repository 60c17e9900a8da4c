"""Circuits run alone: what is asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Bools
from circuits.circuit import Circuit, Graph
from circuits.interventions import Source
from circuits.sweep.cells import require_fitting
from circuits.sweep.circuit_signs import Signs, signs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from circuits.metrics import Metric
    from circuits.prompts import Prompts


@dataclass(frozen=True)
class Elsewhere:
    """All positions but these."""

    positions: tuple[str | int, ...]

    def __str__(self) -> str:
        return f"not {'+'.join(map(str, self.positions))}"

    def where(self, prompts: Prompts) -> Tensor:
        """[b p], True at the real tokens of these prompts that stand elsewhere."""
        here = [prompts.where(position) for position in self.positions]
        return prompts.mask & ~torch.stack(here).any(0)


Place = str | int | Elsewhere | None  # a role, an index, all others, or everywhere


def tokens_at(prompts: Prompts, place: Place) -> Tensor:
    """[b p], True at the tokens of this place."""
    return place.where(prompts) if isinstance(place, Elsewhere) else prompts.where(place)


@dataclass(frozen=True, eq=False)
class Kept:
    """What a circuit keeps, as matrices.

    Attributes:
        name: how tables call it.
        masks: by place (None: everywhere), which edges are kept there, [reader writer]. What is
            kept at several places that one token is of counts several times.
        neurons: which neurons of each layer are kept, [layer d_mlp]; None: MLPs as a whole.
    """

    name: str
    graph: Graph
    masks: Mapping[Place, Bools]
    neurons: Bools | None = None
    _signs: dict[bool, Signs] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, circuit: Circuit, name: str = "circuit", *, d_mlp: int = 0) -> Kept:
        """What this circuit keeps. `d_mlp` is needed for a circuit of neurons."""
        neurons = None
        if circuit.neurons is not None:
            neurons = np.zeros((circuit.graph.n_layers, d_mlp), dtype=bool)
            for part in circuit.neurons:
                neurons[part.layer, part.neuron] = True
        masks: dict[Place, Bools] = dict(circuit.graph.masks(circuit.edges).items())
        return cls(name, circuit.graph, masks, neurons)

    @classmethod
    def only(cls, graph: Graph, mask: Bools, name: str = "circuit") -> Kept:
        """The edges of this mask [reader writer], everywhere."""
        return cls(name, graph, {None: mask & graph.exists})

    def __str__(self) -> str:
        return self.name

    @cached_property
    def anywhere(self) -> Bools:
        """The edges that are kept at any position, [reader writer]."""
        anywhere: Bools = np.logical_or.reduce(list(self.masks.values()))
        return anywhere

    def signs(self, *, copies: bool) -> Signs:
        """What is known of its changes (see `circuits.sweep.circuit_signs.signs`)."""
        if copies not in self._signs:
            self._signs[copies] = signs(self, copies=copies)
        return self._signs[copies]

    @cached_property
    def checksum(self) -> str:
        """Of all that is kept."""
        digest = hashlib.sha256(self.name.encode())
        for at, mask in sorted(self.masks.items(), key=lambda pair: str(pair[0])):
            digest.update(str(at).encode() + np.packbits(mask).tobytes())
        if self.neurons is not None:
            digest.update(np.packbits(self.neurons).tobytes())
        return digest.hexdigest()


CircuitCell = tuple[Kept, ...]  # one circuit alone; () is the whole model


@dataclass(frozen=True, eq=False)
class CircuitSweep:
    """Many circuits alone on the same prompts: what is each prompt's metric?

    A reader of the circuit reads x(reference) + the sum, over its kept edges, of what their writers
    write now minus what they write in the reference; its norm is computed anew. Everything else is
    as in the reference. So no edges give the reference's logits, and all of them the model's own.

    Attributes:
        prompts: their `tokens` are what the circuits see.
        metric: what is measured.
        cells: the circuits, each in a tuple by itself; () is the whole model.
        source: where the reference's values come from: the corrupted twins (``resample``), zero,
            means. The embedding, of tokens and positions, is one writer among the others. Biases
            that belong to no writer stay.
        clean: tokens of the run that a metric such as ``kl`` compares with; the prompts' own if
            None.

    Raises:
        CircuitsError: when shapes disagree, or padding does not stand on the right.
    """

    prompts: Prompts
    metric: Metric
    cells: tuple[CircuitCell, ...]
    source: Source
    clean: Tensor | None = field(default=None)

    def __post_init__(self) -> None:
        require_fitting(self.prompts, self.metric, self.source, self.clean)
        for cell in self.cells:
            for kept in cell:
                for place in kept.masks:
                    tokens_at(self.prompts, place)  # says which roles there are

    @property
    def manner(self) -> dict[str, str]:
        """What else a run of it is known by."""
        sums = "".join(kept.checksum for cell in self.cells for kept in cell)
        return {"circuits alone": hashlib.sha256(sums.encode()).hexdigest()}


@dataclass(frozen=True, eq=False)
class CircuitRoutes:
    """How circuits go through the model: each through the whole of it."""

    sweep: CircuitSweep

    @cached_property
    def followed(self) -> Tensor:
        """[b p], True at the tokens whose changes the metric may depend on.

        Nothing is read after the last token that the metric reads, and where the reference is a run
        of the model, nothing changes before the first token in which it differs.
        """
        sweep, prompts = self.sweep, self.sweep.prompts
        reads = sweep.metric.positions(prompts)
        followed = prompts.mask & (reads.flip(1).cumsum(1).flip(1) > 0)
        if sweep.source.rule.copies:
            other = sweep.source.tokens[:, : prompts.tokens.shape[1]]
            followed &= ((prompts.tokens != other) & prompts.mask).cumsum(1) > 0
        return followed | reads
