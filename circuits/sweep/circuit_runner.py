"""Circuits as cells of a sweep: each runs alone, on the prompts' own tokens.

Shapes: s cells, c circuits, b prompts, p positions, n tokens that are followed, of all (b p),
d = d_model, m = d_mlp.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from circuits.arrays import Bools
from circuits.circuit import graph
from circuits.errors import CircuitsError
from circuits.sweep.base_run import BaseRun, final_site
from circuits.sweep.circuit_streams import (
    ReferenceRun,
    Room,
    Streams,
    complete_layers,
    entries,
    reference_run,
    written_sites,
)
from circuits.sweep.circuit_sweep import CircuitRoutes, Kept
from circuits.sweep.runner import TaskRunner

if TYPE_CHECKING:
    from circuits.model import HookedModel


class CircuitRunner(TaskRunner):
    """Runs circuits alone on some of the prompts of a sweep.

    Attributes:
        base: the prompts' run in the whole model.
        routes: what is asked.
    """

    def __init__(self, base: BaseRun, routes: CircuitRoutes) -> None:
        self.base, self.routes = base, routes
        self.graph = graph(base.model.cfg)
        self._base_changes: dict[int, Tensor] = {}
        self.rooms = Room(), Room()

    @classmethod
    def base_sites(cls, model: HookedModel, routes: CircuitRoutes) -> set[str]:
        """What enters the stream, and what whole layers of circuits write.

        The final stream, too, where the whole model is asked for.
        """
        cells = routes.sweep.cells
        complete = max((complete_layers(kept) for cell in cells for kept in cell), default=0)
        sites = {*entries(model), *written_sites(model, range(complete))}
        return sites if all(cells) else {*sites, final_site(model)}

    @classmethod
    def source_sites(cls, model: HookedModel, routes: CircuitRoutes) -> set[str]:
        """What every writer writes."""
        cfg = model.cfg
        if cfg.post_norms:
            raise CircuitsError(
                f"{cfg.model_name} normalizes what a layer writes before it is added, so heads "
                "alone write nothing that adds up, and its circuits cannot be run alone"
            )
        layers = range(cfg.n_layers)
        sites = {*entries(model), *written_sites(model, layers)}
        if any(kept.neurons is not None for cell in routes.sweep.cells for kept in cell):
            sites |= {f"blocks.{layer}.mlp.hook_post" for layer in layers}
        return sites

    @abstractmethod
    def run(self, streams: Streams) -> None:
        """Fill in what every writer changes, layer by layer."""

    @cached_property
    def tokens(self) -> Tensor:
        """Which tokens are followed, of all (b p): here all of them."""
        return torch.arange(self.base.prompts.tokens.numel(), device=self.base.prompts.mask.device)

    @cached_property
    def at(self) -> Tensor:
        """Which of the followed tokens the metric reads."""
        return self.base.reads.flatten()[self.tokens].nonzero().flatten()

    @cached_property
    def reference(self) -> ReferenceRun:
        """What everything is in the reference, at the tokens that are followed."""
        b, p = self.base.prompts.tokens.shape
        return reference_run(self.base.model, self.base.source, (b, p)).at(self.tokens)

    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of all cells but the whole model.

        Their places [s] among `cells` come first; last, which cells differ from the whole model.
        """
        base, sweep = self.base, self.routes.sweep
        places = [place for place, cell in enumerate(cells) if sweep.cells[cell]]
        changed = np.array([bool(sweep.cells[cell]) for cell in cells])
        if not places:
            return places, base.final[None][:0], changed
        return places, self.alone([sweep.cells[cells[place]][0] for place in places]), changed

    def alone(self, kept: Sequence[Kept]) -> Tensor:
        """The final stream of these circuits where the metric reads, [c n d]."""
        reference, prompts = self.reference, self.base.prompts
        streams = Streams(self.graph, kept, prompts, reference.embed, self.tokens, self.rooms)
        embed = torch.stack([self.base.values[site] for site in entries(self.base.model)]).sum(0)
        embed = embed.flatten(0, 1)[self.tokens]
        streams.write(0, self.centered(embed - reference.embed))
        self.run(streams)
        last = len(self.graph.readers) - 1
        return streams.read([last], reference.final, self.at)[:, :, 0]

    def centered(self, change: Tensor) -> Tensor:
        """What a writer changes, as streams hold it: here as it is."""
        return change

    def base_changes(self, layer: int) -> Tensor:
        """What this layer's heads and MLP change in the whole model: [n w d]."""
        if layer not in self._base_changes:
            at, values = f"blocks.{layer}.", self.base.values
            z = values[at + "attn.hook_z"].flatten(0, 1)[self.tokens] - self.reference.z[layer]
            way_out = self.base.model.blocks[layer].attn.W_O
            parts = [einsum(z, way_out, "n h e, h e d -> n h d")]
            if self.graph.has_mlps:
                mlp = values[at + "hook_mlp_out"].flatten(0, 1)[self.tokens]
                mlp = mlp - self.reference.mlp[layer]
                parts.append(mlp[:, None])
            self._base_changes[layer] = self.centered(torch.cat(parts, 1))
        return self._base_changes[layer]

    def logits(
        self, cells: tuple[int, ...], places: list[int], finals: Tensor
    ) -> Iterator[tuple[list[int], Tensor]]:
        """What the metric reads in some of these cells: [s n d] -> pairs of places and logits."""
        for some, logits in self.base.read_cells(finals):
            yield places[some.start : some.stop], logits

    def neurons_alone(self, streams: Streams, layer: int, post: Tensor, tokens: Tensor) -> Tensor:
        """What kept neurons change of what their MLP writes: activations [c n m] -> [c n d].

        The activations are those of `tokens` [n], of all (b p).
        """
        site, (_, b, p) = f"blocks.{layer}.mlp.hook_post", streams.shape
        value = self.base.source[site]
        change = post - value.expand(b, p, -1).flatten(0, 1)[tokens]
        masks = [each.neurons for each in streams.kept]
        every = np.ones(post.shape[-1], dtype=bool)
        kept = np.stack([every if mask is None else mask[layer] for mask in masks])
        change = change * torch.from_numpy(kept).to(change)[:, None]
        return torch.matmul(change, self.base.model.blocks[layer].mlp.W_out)
