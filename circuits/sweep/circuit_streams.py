"""What the readers of circuits read: the reference's streams, and what kept edges change in them.

Shapes: c circuits, r readers, w writers, n tokens (all positions of all prompts, row by row), h
head, d = d_model, e = d_head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
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
    """

    model: HookedModel
    embed: Tensor
    z: Sequence[Tensor]
    mlp: Sequence[Tensor]

    def at(self, tokens: Tensor) -> ReferenceRun:
        """The same of these tokens [m] alone."""
        z, mlp = ([value[tokens] for value in values] for values in (self.z, self.mlp))
        return ReferenceRun(self.model, self.embed[tokens], z, mlp)

    @cached_property
    def _streams(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """What the heads of each layer read, what its MLP reads, and the final stream."""
        cfg, stream = self.model.cfg, self.embed
        pre, mid = [], []
        for layer, block in enumerate(self.model.blocks):
            pre.append(stream)
            z, way_out = self.z[layer].flatten(1), block.attn.W_O.flatten(0, 1)
            attn_out = self.model.backend.linear(z, way_out, block.attn.b_O)
            mid.append(stream if cfg.parallel else stream + attn_out)
            stream = stream + attn_out
            if not cfg.attn_only:
                stream = stream + self.mlp[layer]
        return pre, mid, stream

    @property
    def pre(self) -> Sequence[Tensor]:
        """Of each layer [n d], the stream that its heads read."""
        return self._streams[0]

    @property
    def mid(self) -> Sequence[Tensor]:
        """Of each layer [n d], the stream that its MLP reads."""
        return self._streams[1]

    @property
    def final(self) -> Tensor:
        """[n d], the stream that the final norm reads."""
        return self._streams[2]


def reference_run(
    model: HookedModel, values: Mapping[str, Tensor], shape: tuple[int, int]
) -> ReferenceRun:
    """The reference, from what its writers write: `values` at their sites.

    Each value broadcasts to [b p ...], which `shape` is.
    """

    def tokens(site: str) -> Tensor:
        value = values[site]
        return value.expand(*shape, *value.shape[2:]).flatten(0, 1)

    layers = range(model.cfg.n_layers)
    embed = _total([tokens(site) for site in entries(model)])
    z = [tokens(f"blocks.{layer}.attn.hook_z") for layer in layers]
    mlp = [tokens(f"blocks.{layer}.hook_mlp_out") for layer in layers if not model.cfg.attn_only]
    return ReferenceRun(model, embed, z, mlp)


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


class Room:
    """Memory that is written over: asking for new memory costs as much as what is computed."""

    def __init__(self) -> None:
        self._numbers: Tensor | None = None

    def __call__(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of this shape, of the kind of `like`; what it held before is lost."""
        size = math.prod(shape)
        if self._numbers is None or self._numbers.numel() < size:
            self._numbers = None  # before there is more
            self._numbers = like.new_empty(size)
        return self._numbers[:size].view(shape)


class Streams:
    """What writers write now minus what they write in the reference, in each circuit.

    Attributes:
        shape: how many circuits, prompts and positions.
        tokens: [n], which tokens are followed, of all (b p).
        changes: [c n w d], filled while a pass goes up through the layers. The first row of the
            writers is no writer: it is the reference's own stream, which every reader reads, so
            that one product makes a stream. By token, what is mixed lies together in memory.
        complete: in how many of the first layers all circuits do what the model does.
    """

    def __init__(
        self,
        graph: Graph,
        kept: Sequence[Kept],
        prompts: Prompts,
        like: Tensor,
        tokens: Tensor,
        rooms: tuple[Room, Room],
    ) -> None:
        self.graph, self.kept, self.tokens = graph, kept, tokens
        self.shape = len(kept), len(prompts.mask), prompts.mask.shape[1]
        n, n_rows = len(tokens), 1 + len(graph.writers)
        room, self._room = rooms
        self.changes = room((len(kept), n, n_rows, like.shape[-1]), like)
        self._written: set[int] = set()  # who else changes nothing
        self.complete = min(map(complete_layers, kept))
        self._everywhere = self._stacked(None, like)
        self._everywhere[:, :, 0] = 1
        positions = {at for each in kept for at in each.masks} - {None}
        self._at = [
            (tokens_at(prompts, at).flatten()[tokens], self._stacked(at, like))
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

    def stand(self) -> None:
        """Take what stands in memory for what was written."""
        self._written = {*range(len(self.graph.writers))}

    def write(
        self, writers: int | list[int] | slice, changes: Tensor, at: Tensor | None = None
    ) -> None:
        """Note what these writers change, [c n d] or [c n w d].

        With `at` [m], at these tokens alone; nothing is to be read elsewhere.
        """
        if isinstance(writers, slice):
            writers = list(range(writers.start, writers.stop))
        self._written.update([writers] if isinstance(writers, int) else writers)
        rows: int | slice | list[int]
        if isinstance(writers, int):
            rows = writers + 1
        elif writers[-1] - writers[0] == len(writers) - 1:  # in a row: a slice is faster
            rows = slice(writers[0] + 1, writers[-1] + 2)
        else:
            rows = [writer + 1 for writer in writers]
        if at is None:
            self.changes[:, :, rows] = changes
            return
        self.changes[:, :, rows] = 0
        for i, row in enumerate([writers] if isinstance(writers, int) else writers):
            self.changes[:, at, row + 1] = changes if changes.ndim == 3 else changes[:, :, i]

    def read(
        self,
        readers: Sequence[int],
        stream: Tensor,
        at: Tensor | None = None,
        *,
        reuse: bool = False,
    ) -> Tensor:
        """What these readers read instead of the reference's `stream` [n d]: [c n r d].

        The readers have the same writers before them. With `at` [m], at these tokens alone. With
        `reuse`, in memory that the next such call writes over: new memory costs as much as the
        product.
        """
        n_rows = 1 + int(self.graph.n_before[readers[0]])
        which = torch.as_tensor(readers, device=stream.device)
        masks = self._everywhere[:, which, :n_rows]
        for writer in sorted({*range(n_rows - 1)} - self._written):
            self.write(writer, self.changes.new_zeros(()))
        self.changes[:, :, 0] = stream
        changes = self.changes[:, :, :n_rows]
        if at is not None:
            changes = changes[:, at]
        n = changes.shape[1]
        shape = len(self.kept), n, len(readers), stream.shape[-1]
        streams = (self._room if reuse else Room())(shape, stream)
        for out, mask, change in zip(streams, masks, changes, strict=True):
            if _few(mask, n):
                _add_up(out, mask, change)
            else:
                torch.bmm(mask.expand(n, -1, -1), change, out=out)
        for where, role_masks in self._at:
            here = (where if at is None else where[at]).nonzero().flatten()
            some = role_masks[:, which, :n_rows]
            streams[:, here] += einsum(some, changes[:, here], "c r w, c n w d -> c n r d")
        return streams

    def put(self, every: Tensor, heads: Tensor, new: Tensor) -> None:
        """Write what is new of some of the heads, [h (c n) e], into that of all tokens.

        `every` is [h c (b p) e], of all heads.
        """
        circuits = torch.arange(every.shape[1], device=every.device)
        rows = (heads[:, None] * every.shape[1] + circuits)[..., None] * every.shape[2]
        rows = (rows + self.tokens).flatten()
        every.view(-1, every.shape[-1]).index_copy_(0, rows, new.reshape(-1, new.shape[-1]))

    def by_prompt(self, x: Tensor) -> Tensor:
        """Heads' queries, keys or values as attention takes them: [h (c n) e] to [(c b) p h e]."""
        return rearrange(x, "h (cb p) e -> cb p h e", p=self.shape[2])

    def by_token(self, z: Tensor) -> Tensor:
        """What heads mixed, [(c b) p h e], at the tokens that are followed: [c n h e]."""
        return rearrange(z, "(c b) p h e -> c (b p) h e", c=self.shape[0])[:, self.tokens]


def _few(mask: Tensor, n: int) -> bool:
    """Whether it takes less time to add what is kept, [r w], than a product with all of it.

    A product passes over what all writers write, which takes as long as adding each of them once,
    and again for every 30 readers; a call takes as long as adding 40 tokens: measured.
    """
    if mask.is_cuda:
        return False
    n_readers, n_writers = mask.shape
    return float(mask.sum()) * (n + 40) < n_writers * (1 + n_readers / 30) * n


def _add_up(out: Tensor, mask: Tensor, changes: Tensor) -> None:
    """Each reader's sum of what it keeps: mask [r w], changes [n w d] -> out [n r d]."""
    for reader, kept in enumerate(mask.bool().tolist()):
        first, *others = (writer for writer, is_kept in enumerate(kept) if is_kept)
        total = out[:, reader]
        if not others:
            total.copy_(changes[:, first])
            continue
        torch.add(changes[:, first], changes[:, others[0]], out=total)
        for writer in others[1:]:
            total += changes[:, writer]


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
