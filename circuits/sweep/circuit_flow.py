"""Circuits alone, on the fast engine: many of them in one pass, each reader with its own stream.

Shapes: c circuits, b prompts, p positions, n tokens (b p), h some of the heads, d = d_model,
e = d_head.
"""

from __future__ import annotations

from einops import einsum
from torch import Tensor

from circuits.model import Places, Transformer
from circuits.model.block import Block
from circuits.sweep.circuit_runner import CircuitRunner
from circuits.sweep.circuit_streams import ReferenceRun, Streams


class CircuitFlow(CircuitRunner):
    """The fast engine, for models whose blocks are made of steps."""

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
        first, n_heads = graph.inputs(layer).start, graph.n_heads
        active = [divmod(i, n_heads) for i in streams.active(graph.inputs(layer))]
        moving = {head for _, head in active} if self.is_a_run else set(range(n_heads))
        heads = [head for head in sorted(moving) if streams.is_read(writers.start + head)]
        if not heads:
            return
        pre, attn = reference.pre[layer], block.attn
        some = [pair for pair in active if pair[1] in heads]
        read = [first + slot * n_heads + head for slot, head in some]
        streams_read = block.ln1.plain(streams.read(read, pre)).flatten(0, 1) if some else pre
        qkv = None
        if len(some) < 3 * len(heads):  # the others read the reference's stream
            qkv = attn.qkv(block.ln1.plain(pre))[:, :, heads].repeat(streams.shape[0], 1, 1, 1)
        inputs: list[Tensor] = []
        for slot in range(3):
            which = [i for i, (each, _) in enumerate(some) if each == slot]
            moved = [some[i][1] for i in which]
            new = pre.new_empty(0) if qkv is None else qkv[:, slot].transpose(0, 1)  # [h (c n) e]
            if which:
                projected = attn.project(slot, streams_read[:, which].transpose(0, 1), moved)
                if len(moved) == len(heads):
                    new = projected
                else:
                    new[[heads.index(head) for head in moved]] = projected
            inputs.append(streams.by_prompt(new))
        q, k, v = inputs
        z = streams.by_token(attn.mix(q, k, v, places)) - reference.z[layer][:, heads]
        change = einsum(z, attn.W_O[heads], "c n h e, h e d -> c n h d")
        streams.write([writers.start + head for head in heads], change)

    def _mlp(self, streams: Streams, reference: ReferenceRun, layer: int, block: Block) -> None:
        """What the MLP of this layer changes."""
        writer, reader = streams.graph.heads(layer).stop, streams.graph.inputs(layer).stop
        moves = streams.active(slice(reader, reader + 1)) or not self.is_a_run
        if not (moves and streams.is_read(writer)):
            return
        read = block.ln2.plain(streams.read([reader], reference.mid[layer])[:, :, 0])
        if all(kept.neurons is None for kept in streams.kept):
            streams.write(writer, block.mlp.plain(read) - reference.mlp[layer])
        else:
            post = block.mlp.neurons(read)
            streams.write(writer, self.neurons_alone(streams, layer, post))
