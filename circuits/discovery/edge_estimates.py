"""Every edge's score at once: what its sender would change, along the gradient at its receiver.

Shapes: b prompts, p positions, r readers, w writers, d = d_model; e edges (at each position that is
asked about).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum, rearrange
from torch import Tensor

from circuits.arrays import Floats
from circuits.circuit import Level, graph
from circuits.discovery.reader_gradients import Pass, Reading, Start, begun
from circuits.model import Transformer
from circuits.precision import wide
from circuits.sweep.base_run import final_site
from circuits.sweep.circuit_runner import CircuitRunner
from circuits.sweep.circuit_streams import ReferenceRun, reference_run
from circuits.sweep.circuit_sweep import CircuitRoutes, CircuitSweep
from circuits.sweep.values import Reference, run_sites

if TYPE_CHECKING:
    from circuits.model import HookedModel

Position = str | int | None


@dataclass(frozen=True, eq=False)
class Runs:
    """Some of the prompts in both runs, and what every writer changes from one to the other.

    Attributes:
        reading: what is measured of the prompts' own run.
        clean: the streams of the prompts' own run; `reference` those of the other.
        changes: [b w p d], what each writer writes in the reference minus what it writes here.
        base: [b], the metric of the prompts' own run; `other` of the reference's.
        neurons: of each layer [b p m], the change of its neurons, where they are scored.
        own: the pass of the prompts' own run, if it was taken on steps.
    """

    reading: Reading
    clean: ReferenceRun
    reference: ReferenceRun
    changes: Tensor
    base: Floats
    other: Floats
    neurons: Sequence[Tensor] = ()
    own: Pass | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts and positions."""
        b, p = self.reading.reads.shape
        return b, p

    def start(self, stream: Tensor, layer: int = 0, *, mid: bool = False) -> Start:
        """A pass that begins with this stream, [(b p) d]."""
        return Start(stream.unflatten(0, self.shape), layer, mid)

    @property
    def here(self) -> Start | Pass:
        """The prompts' own run, through which gradients can go back; to be taken once."""
        return self.start(self.clean.embed) if self.own is None else self.own


@dataclass(frozen=True)
class Scope:
    """What is summed up: at which positions (None: all at once), for edges or for nodes."""

    positions: tuple[Position, ...] = (None,)
    level: Level = "edges"


class Products:
    """Sums of changes along gradients, for every prompt.

    Of an edge, the gradient is at what its receiver reads; of a node, that is summed over all who
    read it; of neurons, it is what their MLP's readers pass back to them.
    """

    def __init__(self, runs: Runs, scope: Scope) -> None:
        self.runs, self.scope = runs, scope
        self.graph = runs.reading.graph
        b, n_positions = runs.shape[0], len(scope.positions)
        shape = n_positions, b, len(self.graph.readers), len(self.graph.writers)
        self._products = runs.changes.new_zeros(shape, dtype=torch.float64)
        self._at_mlps: dict[int, Tensor] = {}  # gradients at what MLPs write, [b p d]

    def add(self, start: Start | Pass, share: float = 1.0, writers: slice | None = None) -> None:
        """Add the products with the gradients of the pass that begins here, times `share`.

        With `writers`, only theirs.
        """
        for readers, narrow in self.runs.reading.gradients(start):
            gradient = wide(narrow)
            n_before = int(self.graph.n_before[readers.start])
            some = slice(0, n_before) if writers is None else writers
            if some.stop > n_before:
                continue
            if self.scope.level == "neurons":
                self._pass_back(gradient.sum(0) * share, some)
                continue
            changes = self.runs.changes[:, some]
            for i, position in enumerate(self.scope.positions):
                self._products[i, :, readers, some] += share * self._at(position, changes, gradient)

    def _at(self, position: Position, changes: Tensor, gradient: Tensor) -> Tensor:
        """Products of changes [b w p d] and gradients [r b p d] at this position: [b r w]."""
        if position is None:
            backend = self.runs.reading.model.backend
            pairs = zip(gradient.unbind(1), changes, strict=True)
            return torch.stack(
                [backend.overlaps(g.flatten(1), change.flatten(1)) for g, change in pairs]
            ).double()
        where = self.runs.reading.prompts.where(position).to(gradient)
        return einsum(gradient * where[..., None], changes, "r b p d, b w p d -> b r w").double()

    def _pass_back(self, gradient: Tensor, writers: slice) -> None:
        """Add the gradient of somebody who reads these writers to those of the MLPs among them."""
        for layer in range(self.graph.n_layers):
            if writers.start <= self.graph.heads(layer).stop < writers.stop:
                known = self._at_mlps.get(layer)
                self._at_mlps[layer] = gradient if known is None else known + gradient

    def values(self) -> Floats:
        """The sum of each part in each prompt, [(positions parts) b], in the order of a search."""
        if self.scope.level == "neurons":
            return self._by_neuron()
        if self.scope.level == "edges":
            exists = torch.from_numpy(self.graph.exists).to(self._products.device)
            by_part = self._products[:, :, exists]
        else:
            kinds = ("head",) if self.scope.level == "heads" else ("head", "mlp")
            nodes = [i for i, node in enumerate(self.graph.writers) if node.kind in kinds]
            by_part = self._products.sum(2)[:, :, nodes]
        values: Floats = by_part.transpose(1, 2).flatten(0, 1).cpu().numpy()
        return values

    def _by_neuron(self) -> Floats:
        by_position = []
        for position in self.scope.positions:
            where = self.runs.reading.prompts.where(position)
            for layer, block in enumerate(self.runs.reading.model.blocks):
                change = self.runs.neurons[layer] * where[..., None]  # [b p m]
                back = self._at_mlps[layer] @ wide(block.mlp.W_out).mT
                by_position.append((change * back).sum(1).double().T)
        values: Floats = torch.cat(by_position).cpu().numpy()
        return values


Estimate = Callable[[Runs, Products], None]  # adds what a method adds up


def estimated(
    model: HookedModel,
    sweep: CircuitSweep,
    rows: slice,
    reference: Reference,
    estimate: Estimate,
    scope: Scope,
) -> Floats:
    """The metric of these prompts, of the reference, and with each part's estimate: [c b]."""
    runs = both_runs(model, sweep, rows, reference, back=scope.level != "neurons")
    products = Products(runs, scope)
    with torch.no_grad():
        estimate(runs, products)
        values = products.values()
    return np.concatenate([runs.base[None], runs.other[None], runs.base + values])


@torch.no_grad()
def both_runs(
    model: HookedModel,
    sweep: CircuitSweep,
    rows: slice,
    reference: Reference,
    *,
    back: bool = False,
) -> Runs:
    """These prompts of a sweep in both runs; with `back`, gradients can go back through the own."""
    prompts = sweep.prompts.subset(rows)
    width, sites = prompts.tokens.shape[1], set(reference.sites)
    end, passed = final_site(model), dict[str, Tensor]()
    if sweep.source.rule.needs == "rows":
        other_tokens = sweep.source.tokens[rows, :width]
        passed = dict(run_sites(model, other_tokens, prompts.mask, {*sites, end}))
    shape = (len(prompts), width)
    written = reference.values(prompts, rows, passed)
    plain, taken = Reading(model, prompts, sweep.metric), None
    own: Mapping[str, Tensor]
    if back and isinstance(model, Transformer) and model.steps_add_up:
        embed = model.embed(prompts.tokens, slice(width), lambda site, value: value)
        taken = begun(model, Start(embed), plain.reads)
        own = _written(taken, embed, plain.reads)
    else:
        own = run_sites(model, prompts.tokens, prompts.mask, {*sites, end})
    other, clean = reference_run(model, written, shape), reference_run(model, own, shape)
    posts = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    neurons = [wide(written[post] - own[post]) for post in posts if post in sites]
    reads = plain.reads
    ends = (
        own[end][reads] if taken is None else taken.final.detach(),
        passed[end][reads] if passed else other.final[reads.flatten()],
    )
    compared = None
    if "clean" in sweep.metric.needs:
        compared = plain.logits(ends[0])
        if sweep.clean is not None:
            tokens = sweep.clean[rows, :width]
            compared = plain.logits(run_sites(model, tokens, prompts.mask, [end])[end][reads])
    reading = Reading(model, prompts, sweep.metric, compared)
    scores = [reading.score(reading.logits(final)) for final in ends]
    base, whole = (score.double().cpu().numpy() for score in scores)
    changes = _changes(model, clean, other, shape)
    return Runs(reading, clean, other, changes, base, whole, neurons, taken)


def _written(taken: Pass, embed: Tensor, reads: Tensor) -> dict[str, Tensor]:
    """What writers wrote in a pass, by site; the last MLP's where it ran, which is where it counts.

    Positions are in `embed` already.
    """
    values = {"hook_embed": embed, "hook_pos_embed": torch.zeros_like(embed)}
    for step in taken.steps:
        assert step.z is not None  # of a pass from the beginning
        values[f"blocks.{step.layer}.attn.hook_z"] = step.z
        if step.mlp is not None:
            mlp = step.mlp
            if mlp.ndim == 2:
                mlp = torch.zeros_like(embed)
                mlp[reads] = step.mlp
            values[f"blocks.{step.layer}.hook_mlp_out"] = mlp
    return values


def source_sites(model: HookedModel, sweep: CircuitSweep, scope: Scope) -> set[str]:
    """What is needed of both runs: what every writer writes, and neurons where these are scored."""
    sites = CircuitRunner.source_sites(model, CircuitRoutes(sweep))
    if scope.level == "neurons":
        sites |= {f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)}
    return sites


def _changes(
    model: HookedModel, clean: ReferenceRun, other: ReferenceRun, shape: tuple[int, int]
) -> Tensor:
    """What each writer writes in the other run minus what it writes in this, [b w p d]."""
    whole = graph(model.cfg)
    embed: Tensor = wide(other.embed - clean.embed).unflatten(0, shape)
    changes: Tensor = embed.new_empty(shape[0], len(whole.writers), *embed.shape[1:])
    changes[:, 0] = embed
    for layer, block in enumerate(model.blocks):
        heads, way_out = whole.heads(layer), wide(block.attn.W_O)
        mixed = rearrange(wide(other.z[layer] - clean.z[layer]), "(b p) h e -> b h p e", b=shape[0])
        for written, z in zip(changes, mixed, strict=True):  # into their place, without a copy
            torch.bmm(z, way_out, out=written[heads])
        if whole.has_mlps:
            mlp = wide(other.mlp[layer] - clean.mlp[layer])
            changes[:, heads.stop] = mlp.unflatten(0, shape)
    return changes
