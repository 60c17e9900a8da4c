"""Circuits alone, on the fast engine: many of them in one pass, each reader with its own stream.

Shapes: c circuits, b prompts, p positions, n tokens (b p), h some of the heads, d = d_model,
e = d_head.
"""

from __future__ import annotations

import torch
from einops import einsum
from torch import Tensor

from circuits.model import Places, Transformer
from circuits.model.attention import ALL
from circuits.model.block import Block
from circuits.precision import wide
from circuits.sweep.circuit_runner import CircuitRunner
from circuits.sweep.circuit_streams import ReferenceRun, Streams


class CircuitFlow(CircuitRunner):
    """The fast engine, for models whose blocks are made of steps.

    Streams are less what every norm of the model takes away when it centers: it is taken of the
    reference's stream and of each change, once, and not of what each reader reads.
    """

    def run(self, streams: Streams, reference: ReferenceRun) -> None:
        """Fill in what every writer changes, layer by layer."""
        model = self.base.model
        assert isinstance(model, Transformer)  # as `circuits.sweep.engine` has seen
        places = Places.causal(streams.shape[2], streams.changes.device)
        for layer, block in enumerate(model.blocks):
            if layer < streams.complete:
                heads = streams.graph.heads(layer)
                writers = slice(heads.start, heads.stop + streams.graph.has_mlps)
                streams.write(writers, self.base_changes(layer))
                continue
            self._heads(streams, reference, layer, block, places)
            if not model.cfg.attn_only:
                self._mlp(streams, reference, layer, block)

    def _heads(
        self,
        streams: Streams,
        reference: ReferenceRun,
        layer: int,
        block: Block,
        places: Places,
    ) -> None:
        """What the heads of this layer change, of those that can and that are read."""
        graph, writers = streams.graph, streams.graph.heads(layer)
        active = [divmod(i, graph.n_heads) for i in streams.active(graph.inputs(layer))]
        moving = {head for _, head in active} if self.is_a_run else set(range(graph.n_heads))
        heads = [head for head in sorted(moving) if streams.is_read(writers.start + head)]
        if not heads:
            return
        moved = [[head for slot, head in active if slot == i and head in heads] for i in range(3)]
        stream = reference.pre[layer]
        some = self._moved(streams, layer, block, stream, moved)
        inputs: list[Tensor] = []
        for slot, projected in enumerate(some):
            new = projected
            if len(moved[slot]) < len(heads):  # the others read the reference's stream
                still = [head for head in heads if head not in moved[slot]]
                normed = block.ln1.plain(stream).expand(len(still), -1, -1)
                new = stream.new_empty(len(heads), projected.shape[1], projected.shape[2])
                new[[heads.index(head) for head in moved[slot]]] = projected
                kept = block.attn.project(slot, normed, still).repeat(1, streams.shape[0], 1)
                new[[heads.index(head) for head in still]] = kept
            inputs.append(streams.by_prompt(new))
        q, k, v = inputs
        z = streams.by_token(block.attn.mix(q, k, v, places)) - reference.z[layer][:, heads]
        way_out = block.ln1.center(block.attn.W_O).to(z.dtype)[heads]
        change = einsum(z, way_out, "c n h e, h e d -> c n h d")
        streams.write([writers.start + head for head in heads], change)

    def _moved(
        self, streams: Streams, layer: int, block: Block, stream: Tensor, moved: list[list[int]]
    ) -> list[Tensor]:
        """The queries, keys and values, each [h (c n) e], of heads that read kept edges.

        `moved` are those heads, by slot. A norm's scale is taken of what it is multiplied to, which
        has fewer numbers than the stream: x w / s W = x (w W) / s.
        """
        norm, attn, graph = block.ln1, block.attn, streams.graph
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

    def _mlp(self, streams: Streams, reference: ReferenceRun, layer: int, block: Block) -> None:
        """What the MLP of this layer changes."""
        writer, reader = streams.graph.heads(layer).stop, streams.graph.inputs(layer).stop
        moves = streams.active(slice(reader, reader + 1)) or not self.is_a_run
        if not (moves and streams.is_read(writer)):
            return
        read = block.ln2.plain(streams.read([reader], reference.mid[layer])[:, :, 0])
        if all(kept.neurons is None for kept in streams.kept):
            streams.write(writer, self.centered(block.mlp.plain(read) - reference.mlp[layer]))
        else:
            post = block.mlp.neurons(read)
            streams.write(writer, self.centered(self.neurons_alone(streams, layer, post)))

    def centered(self, change: Tensor) -> Tensor:
        """Less what every norm takes away of it."""
        return self.base.model.blocks[0].ln1.center(change).to(change.dtype)
