"""What arrives at a receiver of paths: what its senders change, directly or by way of MLPs.

Shapes: b prompts, p positions, n rows (tokens that something has reached), d = d_model, e = d_head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from einops import einsum
from torch import Tensor

from circuits.components import Component
from circuits.sweep.cells import Hold
from circuits.sweep.values import Runs

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.model import HookedModel, Transformer
    from circuits.prompts import Prompts

Sending = dict[Component, Tensor]  # who sends, and where [b p]


def into_mlp(layer: int, cfg: ModelConfig) -> str:
    """The site of the stream that the MLP of this layer reads."""
    return f"blocks.{layer}.hook_resid_{'pre' if cfg.parallel else 'mid'}"


def sites_between(senders: Iterable[Component], layer: int, cfg: ModelConfig) -> set[str]:
    """The sites of the base run that are needed where MLPs compute anew, for a receiver here."""
    first = min((sender.layer or 0 for sender in senders), default=layer + 1)
    layers = [] if cfg.attn_only else range(first, layer)
    return {site for i in layers for site in (into_mlp(i, cfg), f"blocks.{i}.hook_mlp_out")}


class Sent:
    """What the stream gains when senders write the source's values.

    Attributes:
        hold: what stands as in the base run between sender and receiver, see `Sweep.hold`.
    """

    def __init__(
        self, model: Transformer, prompts: Prompts, base: Runs, source: Runs, hold: Hold
    ) -> None:
        self.model, self.prompts, self.base, self.source = model, prompts, base, source
        self.hold = hold
        self._last: tuple[tuple[Component, ...], dict[tuple[int, bool], Tensor]] = ((), {})

    def before(
        self, senders: tuple[Component, ...], layer: int, *, mid: bool, where: Tensor | None
    ) -> Tensor:
        """In the stream that enters this layer, or with `mid` its MLP: [b p d], or [1 p d].

        Only what stands at `where` [b p] is needed; None means everywhere.
        """
        if self.hold == "all":
            return self._total(senders)
        if where is not None:
            return self._by_way_of_mlps(senders, layer, mid, where)
        if self._last[0] != senders:  # receivers of the same senders follow each other
            self._last = senders, {}
        known = self._last[1]
        if (layer, mid) not in known:
            known[layer, mid] = self._by_way_of_mlps(senders, layer, mid, self.prompts.mask)
        return known[layer, mid]

    def differs(self, senders: Iterable[Component]) -> Tensor:
        """Where any of these write something else: [b p], True or False."""
        differs = self.prompts.mask & False
        for sender in senders:
            changes = (self._change(sender) != 0).any(-1)
            differs = differs | changes & self.prompts.where(sender.position)
        return differs

    def _total(self, senders: Iterable[Component]) -> Tensor:
        """All at once, whatever stands between."""
        total = None
        for sender in senders:
            change = self._change(sender)
            if sender.position is not None:
                change = change * self.prompts.where(sender.position)[..., None]
            total = change if total is None else total + change
        assert total is not None
        return total

    def _change(self, sender: Component) -> Tensor:
        """What this sender's value differs by, at all positions, as it is written to the stream."""
        change = self.source[sender.site][sender.within] - self.base[sender.site][sender.within]
        if sender.layer is None or not sender.within:
            return change
        return einsum(change, way_out(self.model, sender), "b p e, e d -> b p d")

    def _by_way_of_mlps(
        self, senders: tuple[Component, ...], layer: int, mid: bool, where: Tensor
    ) -> Tensor:
        """What has changed here when heads write what they did, and MLPs compute anew: [b p d].

        A layer, an MLP or a stream that sends writes its own value, whatever has reached it.
        """
        by, cfg = self._grouped(senders), self.model.cfg
        total = torch.zeros_like(self.base[f"blocks.{cfg.n_layers - 1}.hook_resid_post"])
        total = self._with(self._with(total, by.get(("embed", 0))), by.get(("pos", 0)))
        for i in range(layer + 1):
            total = self._instead(total, by.get(("resid_pre", i)))
            if i == layer and (cfg.parallel or not mid):
                break
            entered = total
            heads = self._with(torch.zeros_like(total), by.get(("head", i)))
            total = total + self._instead(heads, by.get(("attn", i)))
            total = self._instead(total, by.get(("resid_mid", i)))
            if i == layer:
                break
            if not cfg.attn_only:
                read = entered if cfg.parallel else total
                written = self._mlp(read, i, where, by.get(("neuron", i)))
                total = total + self._instead(written, by.get(("mlp", i)))
            total = self._instead(total, by.get(("resid_post", i)))
        return total

    def _grouped(self, senders: Iterable[Component]) -> dict[tuple[str, int], Sending]:
        """The senders at each place, each once, and at which positions: [b p]."""
        by: dict[tuple[str, int], Sending] = {}
        for sender in senders:
            sending = by.setdefault((sender.kind, sender.layer or 0), {})
            where, everywhere = self.prompts.where(sender.position), sender.at(None)
            sending[everywhere] = sending[everywhere] | where if everywhere in sending else where
        return by

    def _with(self, total: Tensor, sending: Sending | None) -> Tensor:
        """The same, and what these add."""
        for sender, where in (sending or {}).items():
            total = total + self._change(sender) * where[..., None]
        return total

    def _instead(self, total: Tensor, sending: Sending | None) -> Tensor:
        """The same, but where one of these writes its own value."""
        for sender, where in (sending or {}).items():
            total = torch.where(where[..., None], self._change(sender), total)
        return total

    def _mlp(self, total: Tensor, layer: int, where: Tensor, neurons: Sending | None) -> Tensor:
        """What this MLP writes besides, given what has reached it, and its neurons that send."""
        block, site = self.model.blocks[layer], f"blocks.{layer}."
        written = torch.zeros_like(total)
        # Where nothing has arrived, rounding on another way shall change nothing.
        reached = where & (total != 0).any(-1)
        if not bool(reached.any()):
            return self._with(written, neurons)
        stream = self.base[into_mlp(layer, self.model.cfg)]
        read = block.ln2.plain((stream + total)[reached])
        written[reached] = block.mlp.plain(read) - self.base[site + "hook_mlp_out"][reached]
        for neuron, at in (neurons or {}).items():
            unit = slice(neuron.neuron, (neuron.neuron or 0) + 1)
            now = self.base[neuron.site][neuron.within].clone()
            now[reached] = block.mlp.neurons(read, unit)
            change = (self.source[neuron.site][neuron.within] - now) * at[..., None]
            written = written + einsum(
                change, way_out(self.model, neuron), "b p unit, unit d -> b p d"
            )
        return written


def way_out(model: HookedModel, sender: Component) -> Tensor:
    """A head's or neuron's way into the stream, [e d] or [1 d]."""
    block = model.blocks[sender.layer or 0]
    if sender.head is not None:
        return block.attn.W_O[sender.head]
    return block.mlp.W_out[slice(sender.neuron, (sender.neuron or 0) + 1)]
