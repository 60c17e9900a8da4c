"""What a search for a circuit is asked, and what its methods answer: a score for each edge.

Shapes: b prompts, c cells (the base run, the reference's run, then the edges).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch

from circuits.arrays import Bools, Floats
from circuits.catalog import DISCOVERY, Catalog
from circuits.circuit import Graph, Level, Part, graph
from circuits.components import Component, Edge
from circuits.discovery.edge_estimates import Estimate, Position, Scope, estimated, source_sites
from circuits.errors import CircuitsError
from circuits.memory import tensor_bytes
from circuits.sweep.circuit_sweep import CircuitSweep
from circuits.sweep.gradient import frozen
from circuits.sweep.moments import Moments, moments
from circuits.sweep.plans import default_memory
from circuits.sweep.survey import Blocks, How
from circuits.sweep.values import Reference

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.model import HookedModel
    from circuits.prompts import Prompts

TOKENS_AT_ONCE = 1024  # more needs more memory and is no faster


@dataclass(frozen=True, eq=False)
class Search:
    """What is searched for, in which model, on which prompts.

    Attributes:
        blocks: the prompts.
        ask: what is measured of a block, and what the reference is; its cells do not matter.
        positions: where edges are told apart; (None,): each edge is at all positions.
        steps: how many points of a path from the reference to the prompts' own run.
        level: what is scored: edges, or heads, nodes (heads and MLPs) or neurons.
        threshold: how much the metric may get worse by leaving out an edge, for ``acdc``.
        seed: what random numbers are drawn from.
        how: what a computation may take, and how a sweep runs.
    """

    model: HookedModel
    blocks: Blocks
    ask: Callable[[Prompts], CircuitSweep]
    positions: tuple[Position, ...] = (None,)
    steps: int = 5
    level: Level = "edges"
    threshold: float = 0.01
    seed: int = 0
    how: How = field(default_factory=How)

    @property
    def graph(self) -> Graph:
        """The edges that the model has."""
        return graph(self.model.cfg)

    @property
    def scored(self) -> Scope:
        """What estimates are summed over: positions, and nodes or neurons instead of edges."""
        return Scope(self.positions, self.level)

    @property
    def parts(self) -> list[Part]:
        """What is scored, in the order of the answers: all parts at each position."""
        parts: list[Part] = []
        for position in self.positions:
            if self.level == "edges":
                parts += [Edge(e.sender, e.receiver.at(position)) for e in self.graph]
            else:
                parts += [node.at(position) for node in self._nodes]
        return parts

    @property
    def _nodes(self) -> list[Component]:
        if self.level == "neurons":
            layers, neurons = range(self.graph.n_layers), range(self.model.cfg.d_mlp)
            return [Component("neuron", i, neuron=n) for i in layers for n in neurons]
        kinds = ("head",) if self.level == "heads" else ("head", "mlp")
        return [node for node in self.graph.writers if node.kind in kinds]


@dataclass(frozen=True, eq=False)
class Scored:
    """What a method says of the parts.

    Attributes:
        moments: of the base run, the reference's run, and then of every part: what leaving it out
            does to the metric, or an estimate of that.
        kept: which parts the method itself keeps; None where scores decide.
        order: in which order it decided, in words.
    """

    moments: Moments
    kept: Bools | None = None
    order: str | None = None


@dataclass(frozen=True)
class Method:
    """A way to score edges, by name."""

    name: str
    search: Callable[[Search], Scored]

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """A method goes to other processes by its name."""
        return METHODS.require, (self.name,)


METHODS: Catalog[Method] = Catalog(DISCOVERY)


def discovery(*, note: str) -> Callable[[Callable[[Search], Scored]], Method]:
    """Make this function a discovery method of its name, with dashes for underscores.

    Alone in a file of `circuits/discovery/methods/` that has its name, it is known everywhere.
    `note` explains it in help texts.
    """

    def made(search: Callable[[Search], Scored]) -> Method:
        return Method(getattr(search, "__name__", "").replace("_", "-"), search)

    return made


def by_gradient(search: Search, estimate: Estimate, *, here: bool = False) -> Scored:
    """What `estimate` adds up for every edge, over all prompts, some at a time.

    With `here`, all gradients are at the prompts' own run.

    Raises:
        CircuitsError: for a metric that has no gradient `here`, when every estimate is zero, and
            for a budget too small for one prompt.
    """

    def values(sweep: CircuitSweep, rows: slice, reference: Reference) -> Floats:
        if here and sweep.metric.against_clean:
            raise CircuitsError(
                f"{sweep.metric.name} has no gradient at the very run that it compares with; "
                "choose a method that looks elsewhere (eap-ig), exact, or another metric"
            )
        return estimated(search.model, sweep, rows, reference, estimate, search.scored)

    with frozen(search.model), torch.inference_mode(False):
        known = in_batches(search, values)
    if not known.changed[2:].any():
        raise CircuitsError(
            "the gradient of the metric is zero at every edge, so it tells nothing about them; "
            "choose the method exact"
        )
    return Scored(known)


def in_batches(
    search: Search, values: Callable[[CircuitSweep, slice, Reference], Floats]
) -> Moments:
    """What `values` [c b] say of all prompts, asked some at a time, as the memory lets.

    Raises:
        CircuitsError: when there are no prompts, and for a budget too small for one of them.
    """
    so_far: Moments | None = None
    done, progress = 0, search.how.progress
    total = sum(map(len, search.blocks)) if isinstance(search.blocks, Sequence) else 0
    for prompts in search.blocks:
        sweep = search.ask(prompts)
        sites = source_sites(search.model, sweep, search.scored)
        reference = Reference(search.model, sweep.source, sites)
        labels = prompts.labels(search.how.label)
        step = _at_once(search, prompts.tokens.shape[1])
        for first in range(0, len(prompts), step):
            rows = slice(first, min(first + step, len(prompts)))
            some = None if labels is None else labels[rows]
            so_far = merged(search, so_far, values(sweep, rows, reference), some)
            done += rows.stop - rows.start
            if progress is not None:
                progress(done, max(total, done))
    if so_far is None:
        raise CircuitsError("there are no prompts to ask; give at least one")
    return so_far


def merged(
    search: Search, so_far: Moments | None, values: Floats, labels: Sequence[str] | None
) -> Moments:
    """What was known so far, and these values [c b] of more prompts."""
    changed = np.concatenate([[False, True], (values[2:] != values[0]).any(1)])
    here = moments(values, changed, labels, full=1)
    here = here.drawn_from(values, labels) if search.how.draws else here
    return here if so_far is None else so_far.merge(here)


def _at_once(search: Search, width: int) -> int:
    """How many prompts of this width may be computed together: one at least, if nobody said.

    Raises:
        CircuitsError: for a budget that was given, and is too small for one.
    """
    how, cfg = search.how, search.model.cfg
    per_prompt = _numbers(cfg, search.graph, len(search.positions), width)
    per_prompt *= search.model.W_E.element_size()
    what = f"the gradients of one prompt of {width} tokens take"
    budget = tensor_bytes(how.memory, default_memory(search.model), per_prompt, what)
    return max(1, min(budget // per_prompt, TOKENS_AT_ONCE // width))


def _numbers(cfg: ModelConfig, whole: Graph, n_positions: int, width: int) -> int:
    """Numbers alive for one prompt: both runs, the graph of the backward pass, what is summed."""
    inner = cfg.n_heads * cfg.d_head
    layers = cfg.n_layers * (14 * cfg.d_model + 12 * inner + 4 * cfg.d_mlp)
    mixed = 3 * (3 * cfg.n_heads) * cfg.d_model + 2 * len(whole.writers) * cfg.d_model
    products = 4 * n_positions * len(whole.readers) * len(whole.writers)
    return width * (layers + mixed + 4 * cfg.d_vocab) + products
