"""Circuits as cells of a sweep: each runs alone, on the prompts' own tokens.

Shapes: s cells, c circuits, b prompts, p positions, n tokens (b p), d = d_model, m = d_mlp.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Bools
from circuits.circuit import graph
from circuits.errors import CircuitsError
from circuits.sweep.base_run import BaseRun, final_site
from circuits.sweep.circuit_streams import ReferenceRun, Streams, entries, reference_run
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

    @classmethod
    def base_sites(cls, model: HookedModel, routes: CircuitRoutes) -> set[str]:
        """What enters the stream, and the final one."""
        return {*entries(model), final_site(model)}

    @classmethod
    def source_sites(cls, model: HookedModel, routes: CircuitRoutes) -> set[str]:
        """What every writer writes."""
        cfg = model.cfg
        if cfg.post_norms:
            raise CircuitsError(
                f"{cfg.model_name} normalizes what a layer writes before it is added, so heads "
                "alone write nothing that adds up, and its circuits cannot be run alone"
            )
        whats = ["attn.hook_z"] if cfg.attn_only else ["attn.hook_z", "hook_mlp_out"]
        if any(kept.neurons is not None for cell in routes.sweep.cells for kept in cell):
            whats.append("mlp.hook_post")
        layers = {f"blocks.{layer}.{what}" for layer in range(cfg.n_layers) for what in whats}
        return {*entries(model), *layers}

    @abstractmethod
    def run(self, streams: Streams, reference: ReferenceRun) -> None:
        """Fill in what every writer changes, layer by layer."""

    @property
    def is_a_run(self) -> bool:
        """Whether the reference is a run of the model: who reads nothing new writes nothing new.

        Of zeros or means, a head that reads the reference does not write the reference.
        """
        return self.routes.sweep.source.rule.copies

    @cached_property
    def reference(self) -> ReferenceRun:
        """What everything is in the reference."""
        b, p = self.base.prompts.tokens.shape
        return reference_run(self.base.model, self.base.source, (b, p))

    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of all cells but the whole model.

        Their places [s] among `cells` come first; last, which cells differ from the whole model.
        """
        base, sweep = self.base, self.routes.sweep
        places = [place for place, cell in enumerate(cells) if sweep.cells[cell]]
        changed = np.array([bool(sweep.cells[cell]) for cell in cells])
        if not places:
            return places, base.final[None][:0], changed
        kept: list[Kept] = [sweep.cells[cells[place]][0] for place in places]
        reference = self.reference
        streams = Streams(self.graph, kept, base.prompts, reference.embed)
        embed = torch.stack([base.values[site] for site in entries(base.model)]).sum(0)
        streams.write(0, embed.flatten(0, 1) - reference.embed)
        self.run(streams, reference)
        at = base.reads.flatten().nonzero().flatten()
        last = len(self.graph.readers) - 1
        return places, streams.read([last], reference.final, at)[:, :, 0], changed

    def logits(
        self, cells: tuple[int, ...], places: list[int], finals: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """What the metric reads in some of these cells: [s n d] -> pairs of place and logits."""
        for index, logits in self.base.read_cells(finals):
            yield places[index], logits

    def neurons_alone(self, streams: Streams, layer: int, post: Tensor) -> Tensor:
        """What kept neurons change of what their MLP writes: activations [c n m] -> [c n d]."""
        site, (_, b, p) = f"blocks.{layer}.mlp.hook_post", streams.shape
        value = self.base.source[site]
        change = post - value.expand(b, p, -1).flatten(0, 1)
        masks = [each.neurons for each in streams.kept]
        every = np.ones(post.shape[-1], dtype=bool)
        kept = np.stack([every if mask is None else mask[layer] for mask in masks])
        change = change * torch.from_numpy(kept).to(change)[:, None]
        return torch.matmul(change, self.base.model.blocks[layer].mlp.W_out)
