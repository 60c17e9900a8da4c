"""From writes to edits: which tensor replaces what, from the base run and the source's values.

Shapes: b prompts, p positions, d = d_model, e = d_head.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor

from circuits.components import Component
from circuits.model import Places, Transformer
from circuits.sweep.base_run import BaseRun
from circuits.sweep.cells import Sweep, Write
from circuits.sweep.edits import CHANGES, SLOTS, Edit, Stage, point, stream_site, value_site
from circuits.sweep.sent import Sent, into_mlp


class Editor:
    """Makes edits of writes, from the base run and the source's values."""

    def __init__(self, model: Transformer, base: BaseRun, sweep: Sweep) -> None:
        self.model, self.prompts = model, base.prompts
        self.base, self.source = base.values, base.source
        self.n_layers, self.freeze = model.cfg.n_layers, sweep.freeze
        self.sent = Sent(model, base.prompts, base.values, base.source, sweep.hold)
        self._reads = base.reads
        width, device = base.prompts.tokens.shape[1], base.prompts.tokens.device
        self._places = Places.causal(width, device)

    def edit(self, write: Write) -> Edit:
        """What this write replaces, and by what."""
        at, target = point(write, self.n_layers), write.target
        where = None if target.position is None else self.prompts.index(target.position)
        slot = SLOTS.get(target.slot or "")
        if not write.senders:
            value = self._source_value(target)
            if slot is not None:
                value = self._project(target, slot, value)
            unit = target.neuron if target.head is None else target.head
            return Edit(at, value, unit, slot, where)
        change = self._arriving(write)
        if target.kind == "logits":  # what is written to the last stream is read as it is
            return Edit(at, change, where=where, adds=True)
        block = self.model.blocks[at[0]]
        if target.kind == "mlp":
            stream = self.base[into_mlp(at[0], self.model.cfg)] + change
            return Edit(at, block.mlp.plain(block.ln2.plain(stream)), where=where)
        stream = self.base[stream_site(at[0], self.n_layers)]
        if slot is not None:
            value = self._project(target, slot, stream + change)
            return Edit(at, value, target.head, slot, where)
        # Keys and values that change at one position are read at later ones.
        stream = stream + (change if where is None else change * self._only(where))
        if target.head is not None:
            q, k, v = (self._project(target, i, stream).unsqueeze(2) for i in range(3))
            z = self._mix(q, k, v, at[0], slice(target.head, target.head + 1))
            return Edit(at, z.squeeze(2), target.head)
        q, k, v = block.attn.qkv(block.ln1.plain(stream)).unbind(2)
        return Edit(at, block.attn.out(self._mix(q, k, v, at[0])))

    def _arriving(self, write: Write) -> Tensor:
        """What the stream that this target reads gains: [b p d], or [1 p d]."""
        target, (layer, _) = write.target, point(write, self.n_layers)
        where = None if target.position is None else self.prompts.where(target.position)
        if target.kind == "logits":
            where = self._reads if where is None else where & self._reads
        return self.sent.before(write.senders, layer, mid=target.kind == "mlp", where=where)

    def _mix(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, heads: slice = slice(None)
    ) -> Tensor:
        """What these heads mix together: [b p h e]."""
        if self.freeze is None:
            return self.model.blocks[layer].attn.mix(q, k, v, self._places)
        pattern = self.base[CHANGES[Stage.PATTERN].format(layer=layer)][:, heads]
        return einsum(pattern, v, "b h q k, b k h e -> b q h e")

    def _source_value(self, part: Component) -> Tensor:
        value = self.source[value_site(part)]
        return value if part.slot in SLOTS else value[part.within]

    def _project(self, part: Component, slot: int, stream: Tensor) -> Tensor:
        """A head's query, key or value, given the stream it reads: [.. d] -> [.. e]."""
        assert part.layer is not None
        assert part.head is not None
        block = self.model.blocks[part.layer]
        attn = block.attn
        weight = (attn.W_Q, attn.W_K, attn.W_V)[slot][part.head]
        bias = (attn.b_Q, attn.b_K, attn.b_V)[slot][part.head]
        product: Tensor = einsum(block.ln1.plain(stream), weight, "b p d, d e -> b p e") + bias
        return product

    def _only(self, where: Tensor) -> Tensor:
        """[b p 1], True at one position of each prompt."""
        columns = torch.arange(self.prompts.tokens.shape[1], device=where.device)
        return rearrange(columns == rearrange(where, "b -> b 1"), "b p -> b p 1")
