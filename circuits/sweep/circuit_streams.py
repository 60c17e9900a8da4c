"""What the readers of circuits read: the reference's streams, and what kept edges change in them.

Shapes: c circuits, r readers, w writers, n tokens (all positions of all prompts, row by row), h
head, d = d_model, e = d_head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from circuits.circuit import Graph
from circuits.sweep.circuit_sweep import Kept, Place, tokens_at

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts


@dataclass(frozen=True, eq=False)
class ReferenceRun:
    """What everything is in the reference.

    Attributes:
        embed: [n d], what enters the first block.
        z: of each layer [n h e], what its heads mix together.
        mlp: of each layer [n d], what its MLP writes.
        pre: of each layer [n d], the stream that its heads read; `mid`, that its MLP reads.
        final: [n d], the stream that the final norm reads.
    """

    embed: Tensor
    z: Sequence[Tensor]
    mlp: Sequence[Tensor]
    pre: Sequence[Tensor]
    mid: Sequence[Tensor]
    final: Tensor


def reference_run(
    model: HookedModel, values: Mapping[str, Tensor], shape: tuple[int, int]
) -> ReferenceRun:
    """The streams of the reference, from what its writers write: `values` at their sites.

    Each value broadcasts to [b p ...], which `shape` is.
    """

    def tokens(site: str) -> Tensor:
        value = values[site]
        return value.expand(*shape, *value.shape[2:]).flatten(0, 1)

    cfg = model.cfg
    stream = embed = _total([tokens(site) for site in entries(model)])
    z, mlp, pre, mid = [], [], [], []
    for layer, block in enumerate(model.blocks):
        pre.append(stream)
        z.append(tokens(f"blocks.{layer}.attn.hook_z"))
        way_out = block.attn.W_O.flatten(0, 1)
        attn_out = model.backend.linear(z[-1].flatten(1), way_out, block.attn.b_O)
        mid.append(pre[-1] if cfg.parallel else stream + attn_out)
        stream = stream + attn_out
        if not cfg.attn_only:
            mlp.append(tokens(f"blocks.{layer}.hook_mlp_out"))
            stream = stream + mlp[-1]
    return ReferenceRun(embed, z, mlp, pre, mid, stream)


def entries(model: HookedModel) -> list[str]:
    """The sites of what enters the stream first: tokens, and positions where they are added."""
    with_positions = model.cfg.positional_embedding_type == "standard"
    return ["hook_embed", "hook_pos_embed"] if with_positions else ["hook_embed"]


def written_sites(model: HookedModel, layers: Iterable[int]) -> set[str]:
    """The sites of what heads mix and MLPs write in these layers."""
    whats = ["attn.hook_z"] if model.cfg.attn_only else ["attn.hook_z", "hook_mlp_out"]
    return {f"blocks.{layer}.{what}" for layer in layers for what in whats}


def complete_layers(kept: Kept) -> int:
    """In how many of the first layers everybody keeps every edge, and does what the model does."""
    whole = kept.graph
    if kept.neurons is not None:
        return 0
    everywhere = kept.masks.get(None, np.zeros_like(whole.exists))
    lacking = np.any(whole.exists & ~everywhere, axis=1)  # [r]
    layers = range(whole.n_layers)
    ends = [whole.inputs(layer).stop + whole.has_mlps for layer in layers]
    return next((layer for layer in layers if lacking[: ends[layer]].any()), whole.n_layers)


class Streams:
    """What writers write now minus what they write in the reference, in each circuit.

    Attributes:
        shape: how many circuits, prompts and positions.
        changes: [c n w d], filled while a pass goes up through the layers. The first row of the
            writers is no writer: it is the reference's own stream, which every reader reads, so
            that one product makes a stream. By token, what is mixed lies together in memory.
        complete: in how many of the first layers all circuits do what the model does.
    """

    def __init__(self, graph: Graph, kept: Sequence[Kept], prompts: Prompts, like: Tensor) -> None:
        self.graph, self.kept = graph, kept
        self.shape = len(kept), len(prompts.mask), prompts.mask.shape[1]
        n, n_rows = prompts.mask.numel(), 1 + len(graph.writers)
        self.changes = like.new_zeros(len(kept), n, n_rows, like.shape[-1])
        self._anywhere = np.logical_or.reduce([each.anywhere for each in kept])
        self.complete = min(map(complete_layers, kept))
        self._everywhere = self._stacked(None, like)
        self._everywhere[:, :, 0] = 1
        positions = {at for each in kept for at in each.masks} - {None}
        self._at = [
            (tokens_at(prompts, at).flatten(), self._stacked(at, like))
            for at in sorted(positions, key=str)
        ]

    def _stacked(self, at: Place, like: Tensor) -> Tensor:
        """The masks of all circuits at this position, [c r w], a row for the reference first."""
        none = np.zeros_like(self.graph.exists)
        masks = np.stack([each.masks.get(at, none) for each in self.kept])
        return F.pad(torch.from_numpy(masks).to(like), (1, 0))

    def only(self, index: int) -> Streams:
        """The streams of this circuit by itself, whose changes are written through."""
        alone = copy(self)
        alone.kept, alone.shape = self.kept[index : index + 1], (1, *self.shape[1:])
        alone.changes = self.changes[index : index + 1]
        alone._everywhere = self._everywhere[index : index + 1]
        alone._at = [(where, masks[index : index + 1]) for where, masks in self._at]
        return alone

    def active(self, readers: slice) -> list[int]:
        """Which of these readers keep an edge in any of the circuits, counted from the first."""
        kept: list[int] = np.flatnonzero(self._anywhere[readers].any(1)).tolist()
        return kept

    def is_read(self, writer: int) -> bool:
        """Whether anybody in any of the circuits reads this writer."""
        return bool(self._anywhere[:, writer].any())

    def write(self, writers: int | list[int] | slice, changes: Tensor) -> None:
        """Note what these writers change, [c n d] or [c n w d]."""
        if isinstance(writers, slice):
            writers = list(range(writers.start, writers.stop))
        at = writers + 1 if isinstance(writers, int) else [writer + 1 for writer in writers]
        self.changes[:, :, at] = changes

    def read(self, readers: Sequence[int], stream: Tensor, at: Tensor | None = None) -> Tensor:
        """What these readers read instead of the reference's `stream` [n d]: [c n r d].

        The readers have the same writers before them. With `at` [m], at these tokens alone.
        """
        n_rows = 1 + int(self.graph.n_before[readers[0]])
        which = torch.as_tensor(readers, device=stream.device)
        masks = self._everywhere[:, which, :n_rows]
        self.changes[:, :, 0] = stream
        changes = self.changes[:, :, :n_rows]
        if at is not None:
            changes = changes[:, at]
        n = changes.shape[1]
        streams = stream.new_empty(len(self.kept), n, len(readers), stream.shape[-1])
        for out, mask, change in zip(streams, masks, changes, strict=True):
            torch.bmm(mask.expand(n, -1, -1), change, out=out)
        for where, role_masks in self._at:
            here = (where if at is None else where[at]).nonzero().flatten()
            some = role_masks[:, which, :n_rows]
            streams[:, here] += einsum(some, changes[:, here], "c r w, c n w d -> c n r d")
        return streams

    def by_prompt(self, x: Tensor) -> Tensor:
        """Heads' queries, keys or values as attention takes them: [h (c n) e] to [(c b) p h e]."""
        return rearrange(x, "h (cb p) e -> cb p h e", p=self.shape[2])

    def by_token(self, z: Tensor) -> Tensor:
        """What heads mixed, [(c b) p h e], by token: [c n h e]."""
        return rearrange(z, "(c b) p h e -> c (b p) h e", c=self.shape[0])


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
