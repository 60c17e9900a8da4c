"""Attention within a sweep: what heads mix together whose inputs, patterns or output are written.

What stands before a sequence's start is the base run's. Shapes: n sequences of a group, w positions
of each, k keys, b prompts, p positions, h head, d = d_model, e = d_head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange
from torch import Tensor

from circuits.model import Places
from circuits.sweep.cells import Freeze
from circuits.sweep.edits import CHANGES, Stage
from circuits.sweep.values import Runs
from circuits.sweep.writes import Group, Index, Writes, added, picked

if TYPE_CHECKING:
    from circuits.model import Transformer


class Heads:
    """The heads of all layers. With `freeze` they attend as in the base run."""

    def __init__(
        self, model: Transformer, base: Runs, writes: Writes, freeze: Freeze | None
    ) -> None:
        self.model, self.base, self.writes, self.freeze = model, base, writes, freeze

    def change(self, group: Group, narrow: Group, layer: int) -> Tensor | None:
        """What edited heads add to the stream: only their own part of attention is computed.

        `narrow` is the group at the positions that are needed afterwards.
        """
        total = None
        asking, mixing, mixed = (
            self.writes.by_unit((layer, stage)) for stage in (Stage.QKV, Stage.PATTERN, Stage.Z)
        )
        site = CHANGES[Stage.Z].format(layer=layer)
        for head in sorted({*asking, *mixing, *mixed}):
            asks, mixes = asking.get(head, ()), mixing.get(head, ())
            which = picked(group, [*asks, *mixes, *mixed.get(head, ())])
            if not len(which):
                continue
            part, at = group.members(which), narrow.members(which)
            old = at.take(self.base[site][:, :, head])
            new = old.clone()
            self._shift_pattern(at, new, layer, head)
            asked = picked(part, asks)
            if len(asked):
                index = torch.as_tensor(asked, device=new.device)
                members = part.members(asked), at.members(asked)
                new[index] = self._one_head(*members, layer, head)
            self.writes.write(at, new, (layer, Stage.Z), head)
            W_O = self.model.blocks[layer].attn.W_O[head]
            change = einsum(new - old, W_O, "n w e, e d -> n w d")
            total = added(total, len(narrow.cells), which, change)
        return total

    def _one_head(self, group: Group, narrow: Group, layer: int, head: int) -> Tensor:
        """One head's z [n w e] at the narrow group's positions, with its inputs edited."""
        sites = (self.base[f"blocks.{layer}.attn.hook_{part}"][:, :, head] for part in "qkv")
        qkv = torch.stack([group.take(site) for site in sites], 2)  # [n w 3 e]
        self.writes.write(group, qkv, (layer, Stage.QKV), head)
        q, k, v = rearrange(qkv, "n w three e -> three n w 1 e")
        q = q[:, narrow.columns - group.start]
        only = slice(head, head + 1)
        z = self.attend(narrow, q, k, v, layer, only)
        self.write_patterns(narrow, z, v, layer, only)
        return z.squeeze(2)

    def attend(
        self,
        group: Group,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: int,
        heads: slice = slice(None),
    ) -> Tensor:
        """What the heads mix together at the group's positions, [n w h e].

        Keys and values [n . h e] begin at the group's start; before stand the base run's.
        """
        if self.freeze:
            return self._attend_as_before(group, v, layer, heads)
        k = self._from_start(group, k, "k", layer, heads)
        v = self._from_start(group, v, "v", layer, heads)
        keys = torch.arange(k.shape[1], device=k.device)
        mask = None
        if q.shape[1] != k.shape[1]:
            mask = keys <= group.columns[:, None]
        return self.model.blocks[layer].attn.mix(q, k, v, Places(group.columns, keys, mask))

    def _from_start(self, group: Group, new: Tensor, part: str, layer: int, heads: slice) -> Tensor:
        """Keys or values of all positions, [n . h e]: before the group's start the base run's."""
        if not group.start:
            return new
        old = self.base[f"blocks.{layer}.attn.hook_{part}"][:, : group.start, heads]
        return torch.cat([old[group.prompts], new], 1)

    def _attend_as_before(self, group: Group, v: Tensor, layer: int, heads: slice) -> Tensor:
        """The same by the base run's patterns: only what values have changed by is mixed anew."""
        stop = group.start + v.shape[1]
        old = self.base[f"blocks.{layer}.attn.hook_v"][group.prompts, group.start : stop, heads]
        pattern = self._patterns(group, layer, heads)[..., group.start : stop]
        z = group.take(self.base[CHANGES[Stage.Z].format(layer=layer)][:, :, heads])
        return z + einsum(pattern, v - old, "n h w k, n k h e -> n w h e")

    def _patterns(self, group: Group, layer: int, heads: slice) -> Tensor:
        """How the heads attend in the base run at the group's positions: [n h w k]."""
        pattern = self.base[CHANGES[Stage.PATTERN].format(layer=layer)][:, heads]
        return pattern[group.prompts][:, :, group.columns]

    def _shift_pattern(self, group: Group, z: Tensor, layer: int, head: int) -> None:
        """Into the base run's z [n w e] of a head, what other patterns make of the same values."""
        if head not in self.writes.by_unit((layer, Stage.PATTERN)):
            return
        before, only = z.clone(), slice(head, head + 1)
        v = self.base[f"blocks.{layer}.attn.hook_v"][:, :, head][group.prompts]  # [n k e]
        held = self._patterns(group, layer, only).squeeze(1)  # [n w k]

        def make(pattern: Tensor, index: Index) -> Tensor:
            # As a difference, so that the same pattern makes the same z to the last bit.
            change = einsum(pattern - held[index], v[index], "n w k, n k e -> n w e")
            return before[index] + change

        self.writes.write(group, z, (layer, Stage.PATTERN), head, make)

    def write_patterns(
        self, group: Group, z: Tensor, v: Tensor, layer: int, heads: slice = slice(None)
    ) -> None:
        """Into z [n w h e], what the patterns that are written make of the group's own values."""
        every_v = self._from_start(group, v, "v", layer, heads)
        for head in self.writes.by_unit((layer, Stage.PATTERN)):
            place = head - (heads.start or 0)
            if not 0 <= place < z.shape[2]:
                continue

            def make(pattern: Tensor, index: Index, place: int = place) -> Tensor:
                values = every_v[index][:, :, place]
                return einsum(pattern[..., : values.shape[1]], values, "n w k, n k e -> n w e")

            self.writes.write(group, z[:, :, place], (layer, Stage.PATTERN), head, make)
