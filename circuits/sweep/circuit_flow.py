"""Circuits alone, on the fast engine: many of them in one pass, each reader with its own stream.

Shapes: c circuits, b prompts, p positions, n tokens that are followed, of all (b p), h some of the
heads, d = d_model, e = d_head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from circuits.arrays import Bools
from circuits.model import Places, Transformer
from circuits.model.attention import ALL
from circuits.model.block import Block
from circuits.precision import wide
from circuits.sweep.base_run import BaseRun
from circuits.sweep.circuit_runner import CircuitRunner
from circuits.sweep.circuit_signs import EVERYWHERE, READ, Signs, Standing
from circuits.sweep.circuit_streams import ReferenceRun, Streams, reference_run
from circuits.sweep.circuit_sweep import CircuitRoutes


class CircuitFlow(CircuitRunner):
    """The fast engine, for models whose blocks are made of steps.

    Streams are less what every norm of the model takes away when it centers: it is taken of the
    reference's stream and of each change, once, and not of what each reader reads. What stands in
    memory from the circuits before is not computed again.
    """

    def __init__(self, base: BaseRun, routes: CircuitRoutes) -> None:
        super().__init__(base, routes)
        self._standing: tuple[torch.Size, Standing] | None = None
        self._inputs: dict[tuple[int, int], tuple[Tensor, set[int]]] = {}  # see `_still`

    @cached_property
    def tokens(self) -> Tensor:
        """Which tokens are followed, of all (b p): where something changes that is read."""
        width = self.base.prompts.tokens.shape[1]
        return self.routes.followed[self.base.rows, :width].flatten().nonzero().flatten()

    @cached_property
    def reference(self) -> ReferenceRun:
        """What everything is in the reference, at the tokens that are followed."""
        return self._whole[0]

    @cached_property
    def _whole(self) -> tuple[ReferenceRun, ReferenceRun]:
        """The reference at the tokens that are followed, and at all."""
        b, p = self.base.prompts.tokens.shape
        whole = reference_run(self.base.model, self.base.source, (b, p))
        return (whole if len(self.tokens) == b * p else whole.at(self.tokens)), whole

    @cached_property
    def _before(self) -> Tensor:
        """[m], the tokens before those that are followed: what is read there is the reference's."""
        b, p = self.base.prompts.tokens.shape
        followed = torch.zeros(b * p, dtype=torch.bool, device=self.tokens.device)
        followed[self.tokens] = True
        later = followed.view(b, p).flip(1).cumsum(1).flip(1) > 0
        return (later.flatten() & ~followed).nonzero().flatten()

    def _still(self, layer: int, slot: int, heads: list[int], moved: list[int]) -> Tensor:
        """Queries, keys or values in the reference, [h (b p) e] of these heads.

        Of heads that have `moved`, those before the tokens that are followed, which may be seen.
        """
        model, stream, key = self.base.model, self._whole[1].pre[layer], (layer, slot)
        assert isinstance(model, Transformer)  # as `circuits.sweep.engine` has seen
        norm, attn = model.blocks[layer].ln1, model.blocks[layer].attn
        if key not in self._inputs:
            every = stream.new_zeros(model.cfg.n_heads, len(stream), attn.d_head)
            if slot and len(self._before):
                normed = norm.plain(stream[self._before]).expand(len(every), -1, -1)
                every[:, self._before] = attn.project(slot, normed)
            self._inputs[key] = every, set()
        every, known = self._inputs[key]
        lacking = [head for head in heads if head not in known and head not in moved]
        if lacking:
            normed = norm.plain(stream).expand(len(lacking), -1, -1)
            every[lacking] = attn.project(slot, normed, lacking)
            known.update(lacking)
        return every[heads]

    def run(self, streams: Streams) -> None:
        """Fill in what every writer changes, layer by layer, unless it stands there already."""
        model = self.base.model
        assert isinstance(model, Transformer)
        copies = self.routes.sweep.source.rule.copies
        known = [each.signs(copies=copies) for each in streams.kept]
        anew = self._anew(streams, known)
        reads = np.any([each.reads for each in known], axis=0)
        places = Places.causal(streams.shape[2], streams.changes.device)
        for layer, block in enumerate(model.blocks):
            writers = streams.graph.heads(layer)
            mine = range(writers.start, writers.stop + streams.graph.has_mlps)
            where = {i - writers.start: anew[i] for i in mine if i in anew}
            if layer < streams.complete:
                if where:
                    changes = self.base_changes(layer)[:, [*where]]
                    streams.write([writers.start + i for i in where], changes)
                continue
            mlp = where.pop(streams.graph.n_heads, None)
            if where:
                moves = reads[streams.graph.inputs(layer)].reshape(3, -1)
                self._heads(streams, layer, block, where, moves, places)
            if mlp is not None:
                self._mlp(streams, layer, block, mlp)

    def _anew(self, streams: Streams, known: Sequence[Signs]) -> Mapping[int, int]:
        """Which writers have to be computed, and where; what others change stands in memory."""
        if self._standing is None or self._standing[0] != streams.changes.shape:
            standing = Standing(len(streams.graph.writers), len(known))
            self._standing = streams.changes.shape, standing
        compute, clear = self._standing[1].anew(known)
        for writer in clear:
            streams.write(writer, streams.changes.new_zeros(()))
        streams.stand()
        return compute

    def _heads(
        self,
        streams: Streams,
        layer: int,
        block: Block,
        where: Mapping[int, int],
        moves: Bools,
        places: Places,
    ) -> None:
        """What these heads of the layer change, each `where` it is needed.

        `moves` [3 h] says whose query, key and value is not the reference's.
        """
        heads, inputs = [*where], list[Tensor]()
        moved = [[head for head in heads if of_slot[head]] for of_slot in moves]
        for slot, new in enumerate(self._moved(streams, layer, block, moved)):
            still = self._still(layer, slot, heads, moved[slot])
            every = still.unsqueeze(1).repeat(1, len(streams.kept), 1, 1)
            if moved[slot]:
                which = torch.tensor([heads.index(head) for head in moved[slot]])
                streams.put(every, which.to(new.device), new)
            inputs.append(streams.by_prompt(every.flatten(1, 2)))
        q, k, v = inputs
        z = streams.by_token(block.attn.mix(q, k, v, places)) - self.reference.z[layer][:, heads]
        way_out = block.ln1.center(block.attn.W_O).to(z.dtype)
        first = streams.graph.heads(layer).start
        for needed in (READ, EVERYWHERE):
            some = [i for i, head in enumerate(heads) if where[head] == needed]
            if not some:
                continue
            at = self.at if needed == READ else None
            part = z[:, :, some] if at is None else z[:, at][:, :, some]
            out = way_out[[heads[i] for i in some]]
            change = einsum(part, out, "c n h e, h e d -> c n h d")
            streams.write([first + heads[i] for i in some], change, at)

    def _moved(
        self, streams: Streams, layer: int, block: Block, moved: list[list[int]]
    ) -> list[Tensor]:
        """The queries, keys and values, each [h (c n) e], of heads that read kept edges.

        `moved` are those heads, by slot. A norm's scale is taken of what it is multiplied to, which
        has fewer numbers than the stream: x w / s W = x (w W) / s.
        """
        norm, attn, graph, stream = block.ln1, block.attn, streams.graph, self.reference.pre[layer]
        first, n = graph.inputs(layer).start, streams.shape[0] * len(stream)
        readers = [first + i * graph.n_heads + head for i in range(3) for head in moved[i]]
        if not readers:
            return [stream.new_empty(0, n, attn.d_head)] * 3
        center = norm.center(stream).to(stream.dtype)
        read = streams.read(readers, center, reuse=True).flatten(0, 1).transpose(0, 1)
        length = torch.linalg.vector_norm(read, dim=-1, keepdim=True, dtype=wide(center).dtype)
        scale = (length.square() / read.shape[-1] + norm.eps).sqrt()  # [r (c n) 1]
        projected, begin = [], 0
        for slot, heads in enumerate(moved):
            mine = slice(begin, begin + len(heads))
            begin += len(heads)
            which = ALL if len(heads) == graph.n_heads else heads
            weight = (attn.W_Q, attn.W_K, attn.W_V)[slot][which] * norm.w[:, None]
            of_bias = attn.project(slot, norm.b.expand(len(heads), 1, -1), which)
            by_weight = torch.bmm(read[mine], weight) / scale[mine]
            projected.append(by_weight.to(stream.dtype) + of_bias)
        return projected

    def _mlp(self, streams: Streams, layer: int, block: Block, where: int) -> None:
        """What the MLP of this layer changes, `where` it is needed."""
        writer, reader = streams.graph.heads(layer).stop, streams.graph.inputs(layer).stop
        at = self.at if where == READ else None
        read = block.ln2.plain(streams.read([reader], self.reference.mid[layer], at)[:, :, 0])
        if all(kept.neurons is None for kept in streams.kept):
            written = self.reference.mlp[layer]
            change = block.mlp.plain(read) - (written if at is None else written[at])
        else:
            tokens = self.tokens if at is None else self.tokens[at]
            change = self.neurons_alone(streams, layer, block.mlp.neurons(read), tokens)
        streams.write(writer, self.centered(change), at)

    def centered(self, change: Tensor) -> Tensor:
        """Less what every norm takes away of it."""
        return self.base.model.blocks[0].ln1.center(change).to(change.dtype)
