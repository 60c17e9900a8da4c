"""Every edge's score at once: what its sender would change, along the gradient at its receiver.

Shapes: b prompts, p positions, r readers, w writers, d = d_model; e edges (at each position that is
asked about).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum, rearrange
from torch import Tensor

from circuits.arrays import Floats
from circuits.discovery.reader_gradients import Reading, Start
from circuits.precision import wide
from circuits.sweep.circuit_runner import CircuitRunner
from circuits.sweep.circuit_streams import ReferenceRun, entries, reference_run
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
    """

    reading: Reading
    clean: ReferenceRun
    reference: ReferenceRun
    changes: Tensor
    base: Floats
    other: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts and positions."""
        b, p = self.reading.reads.shape
        return b, p

    def start(self, stream: Tensor, layer: int = 0, *, mid: bool = False) -> Start:
        """A pass that begins with this stream, [(b p) d]."""
        return Start(stream.unflatten(0, self.shape), layer, mid)


class Products:
    """Sums of changes along gradients, for every edge and prompt: [positions b r w]."""

    def __init__(self, runs: Runs, positions: Sequence[Position]) -> None:
        self.runs, self.positions = runs, positions
        b, graph = runs.shape[0], runs.reading.graph
        self.total = runs.changes.new_zeros(
            len(positions), b, len(graph.readers), len(graph.writers), dtype=torch.float64
        )

    def add(self, start: Start, share: float = 1.0, writers: slice | None = None) -> None:
        """Add the products with the gradients of the pass that begins here, times `share`.

        With `writers`, only theirs.
        """
        graph, prompts = self.runs.reading.graph, self.runs.reading.prompts
        for readers, gradient in self.runs.reading.gradients(start):
            n_before = int(graph.n_before[readers.start])
            some = slice(0, n_before) if writers is None else writers
            if some.stop > n_before:
                continue
            changes = self.runs.changes[:, some]
            for i, position in enumerate(self.positions):
                if position is None:
                    product = torch.bmm(
                        changes.flatten(2), gradient.transpose(0, 1).flatten(2).mT
                    ).mT
                else:
                    where = prompts.where(position).to(gradient)
                    here = gradient * where[..., None]
                    product = einsum(changes, here, "b w p d, r b p d -> b r w")
                self.total[i, :, readers, some] += product.double() * share

    def by_edge(self) -> Floats:
        """Each edge's sum in each prompt, [(positions e) b]: the graph's edges at each position."""
        exists = torch.from_numpy(self.runs.reading.graph.exists).to(self.total.device)
        values: Floats = self.total[:, :, exists].transpose(1, 2).flatten(0, 1).cpu().numpy()
        return values


Estimate = Callable[[Runs, Products], None]  # adds what a method adds up


def estimated(
    model: HookedModel,
    sweep: CircuitSweep,
    rows: slice,
    reference: Reference,
    estimate: Estimate,
    positions: Sequence[Position],
) -> Floats:
    """The metric of these prompts, of the reference, and of each edge's estimate, [(2 + e) b]."""
    runs = both_runs(model, sweep, rows, reference)
    products = Products(runs, positions)
    estimate(runs, products)
    return np.concatenate([runs.base[None], runs.other[None], runs.base + products.by_edge()])


@torch.no_grad()
def both_runs(model: HookedModel, sweep: CircuitSweep, rows: slice, reference: Reference) -> Runs:
    """These prompts of a sweep in both runs."""
    prompts = sweep.prompts.subset(rows)
    width, sites = prompts.tokens.shape[1], set(reference.sites)
    passed = {}
    if sweep.source.rule.needs == "rows":
        passed = dict(run_sites(model, sweep.source.tokens[rows, :width], prompts.mask, sites))
    shape = (len(prompts), width)
    other = reference_run(model, reference.values(prompts, rows, passed), shape)
    clean = reference_run(model, run_sites(model, prompts.tokens, prompts.mask, sites), shape)
    compared = None
    reads = sweep.metric.positions(prompts).flatten()
    plain = Reading(model, prompts, sweep.metric)
    if "clean" in sweep.metric.needs:
        compared = plain.logits(clean.final[reads])
        if sweep.clean is not None:
            tokens = sweep.clean[rows, :width]
            written = run_sites(model, tokens, prompts.mask, sites)
            compared = plain.logits(reference_run(model, written, shape).final[reads])
    reading = Reading(model, prompts, sweep.metric, compared)
    scores = [reading.score(reading.logits(run.final[reads])) for run in (clean, other)]
    base, whole = (score.double().cpu().numpy() for score in scores)
    return Runs(reading, clean, other, _changes(model, clean, other, shape), base, whole)


def source_sites(model: HookedModel, sweep: CircuitSweep) -> set[str]:
    """What is needed of both runs: what every writer writes."""
    return CircuitRunner.source_sites(model, CircuitRoutes(sweep))


def _changes(
    model: HookedModel, clean: ReferenceRun, other: ReferenceRun, shape: tuple[int, int]
) -> Tensor:
    """What each writer writes in the other run minus what it writes in this, [b w p d]."""
    parts = [(other.embed - clean.embed)[:, None]]
    for layer, block in enumerate(model.blocks):
        change = other.z[layer] - clean.z[layer]
        parts.append(einsum(change, block.attn.W_O, "n h e, h e d -> n h d"))
        if not model.cfg.attn_only:
            parts.append((other.mlp[layer] - clean.mlp[layer])[:, None])
    by_token = wide(torch.cat(parts, 1))
    return rearrange(by_token, "(b p) w d -> b w p d", p=shape[1]).contiguous()


__all__ = ["Estimate", "Position", "Products", "Runs", "both_runs", "entries", "estimated"]
