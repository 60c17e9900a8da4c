"""The pass itself: many edited runs at once, each computed only where it differs from the base.

A *sequence* is one prompt in one cell, from the first position that the cell changes. Sequences
that start at the same position form a group, and all groups go through each linear map as one tall
matrix. A sequence joins at the point of its first edit; what stands before its start, and below its
point of entry, is the base run's. The last block runs only where the metric reads.

Shapes: n sequences of a group, w positions of each, b prompts, p positions, h head, d = d_model,
e = d_head, N rows (all positions of all sequences).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum, rearrange
from numpy.typing import NDArray
from torch import Tensor

from circuits.attention import mix
from circuits.sweep.edits import CHANGES, Edit, Point, Runs, Stage, stream_site

if TYPE_CHECKING:
    from circuits.model import HookedGPT2

Int = NDArray[np.int64]
Bools = NDArray[np.bool_]
Writers = tuple[Edit, Bools]  # an edit, and which cells have it
Entries = Mapping[Point, Sequence["Group"]]  # who joins where: Stage.PRE or Stage.MID of a layer


@dataclass(frozen=True, eq=False)
class Group:
    """Sequences that start at the same position: their cells and prompts [n], their positions [w].

    `cells` are indices into the flow's cells. `columns` are positions of the prompts.
    """

    start: int
    cells: Int
    prompts: Tensor
    columns: Tensor

    @property
    def n_rows(self) -> int:
        """How many rows of the tall matrix are its own?"""
        return len(self.cells) * len(self.columns)

    def take(self, base: Tensor) -> Tensor:
        """The base run's values for these sequences: [b p ...] -> [n w ...]."""
        return base[rearrange(self.prompts, "n -> n 1"), rearrange(self.columns, "w -> 1 w")]


class Flow:
    """Sequences on their way through the layers.

    `edits` has each cell's edits; `reads` [b p] is where the metric reads, `real` [b p] which
    tokens are no padding. `changed` [cells] becomes True where a written value differs from the one
    it replaced.
    """

    def __init__(
        self,
        model: HookedGPT2,
        base: Runs,
        edits: Sequence[Sequence[Edit]],
        reads: Tensor,
        real: Tensor,
    ) -> None:
        self.model, self.base, self.real, self.reads = model, base, real, reads
        self.n_layers = model.cfg.n_layers
        self.changed = np.zeros(len(edits), dtype=bool)
        self.groups: list[Group] = []
        self.x = base[stream_site(self.n_layers, self.n_layers)].new_empty(0, model.cfg.d_model)
        self._at = _by_point(edits)

    def run(self, entries: Entries) -> Iterator[tuple[Group, Tensor]]:
        """The final stream of every group, [n w d], at the positions that are read."""
        for layer in range(min(layer for layer, _ in entries), self.n_layers):
            if self.groups:
                self._edit(self.x, (layer, Stage.PRE))
            self._join_stream(layer, entries)
            if self.groups:
                self._attention(layer)
            self._join_mid(layer, entries)
            if self.groups:
                block = self.model.blocks[layer]
                written = block.mlp.plain(block.ln2.plain(self.x))
                self._edit(written, (layer, Stage.MLP))
                self.x = self.x + written
        if self.groups:
            self._edit(self.x, (self.n_layers, Stage.PRE))
        self._join_stream(self.n_layers, entries)
        yield from zip(self.groups, self._views(self.x), strict=True)

    def _views(self, rows: Tensor) -> list[Tensor]:
        """Each group's part of a tall matrix: [N ...] -> [n w ...]."""
        parts = rows.split([group.n_rows for group in self.groups])
        return [
            part.view(len(group.cells), len(group.columns), *part.shape[1:])
            for part, group in zip(parts, self.groups, strict=True)
        ]

    def _edit(self, rows: Tensor, at: Point) -> None:
        """Write into what everybody has computed here, in place."""
        if at in self._at:
            for group, view in zip(self.groups, self._views(rows), strict=True):
                self._write(group, view, at)

    def _write(self, group: Group, values: Tensor, at: Point, head: int | None = None) -> None:
        """Write what the cells of this group say into `values`, in place.

        `values` is [n w d]; at QKV [n w 3 h e] and at Z [n w h e], without h for one `head` only.
        """
        for edit, has in self._at.get(at, ()):
            picked = np.flatnonzero(has[group.cells])
            if not len(picked) or (head is not None and edit.head != head):
                continue
            every = len(picked) == len(group.cells)
            index = slice(None) if every else torch.as_tensor(picked, device=values.device)
            prompts = group.prompts[index]
            target = values if edit.slot is None else values[:, :, edit.slot]
            target = target if edit.head is None or head is not None else target[:, :, edit.head]
            old = target[index]
            new = edit.at(prompts, group.columns)
            new = old + new if edit.adds else new
            if edit.where is not None:
                here = group.columns == rearrange(edit.where[prompts], "n -> n 1")
                new = torch.where(rearrange(here, "n w -> n w 1"), new, old)
            differs = (new != old).any(-1) & self.real[prompts][:, group.columns]
            self.changed[group.cells[picked[differs.any(1).cpu().numpy()]]] = True
            target[index] = new

    def _join(self, newcomers: Sequence[Group], streams: Sequence[Tensor]) -> None:
        """Add sequences to the groups that start where they start."""
        found: dict[int, list[tuple[Group, Tensor]]] = {}
        for pair in zip(self.groups, self._views(self.x), strict=True):
            found[pair[0].start] = [pair]
        for pair in zip(newcomers, streams, strict=True):
            found.setdefault(pair[0].start, []).append(pair)
        self.groups = [
            replace(
                members[0][0],
                cells=np.concatenate([group.cells for group, _ in members]),
                prompts=torch.cat([group.prompts for group, _ in members]),
            )
            for members in found.values()
        ]
        every = [stream.flatten(0, 1) for members in found.values() for _, stream in members]
        self.x = every[0] if len(every) == 1 else torch.cat(every)

    def _join_stream(self, layer: int, entries: Entries) -> None:
        """Who begins with another stream into this layer?"""
        newcomers = list(entries.get((layer, Stage.PRE), ()))
        if layer == self.n_layers:
            newcomers = [self._cut(group) for group in newcomers]
        streams = []
        for group in newcomers:
            x = group.take(self.base[stream_site(layer, self.n_layers)])
            for point in ((layer - 1, Stage.MLP), (layer, Stage.EMBED), (layer, Stage.POS)):
                x = self._with_change(group, x, point)
            self._write(group, x, (layer, Stage.PRE))
            streams.append(x)
        if newcomers:
            self._join(newcomers, streams)

    def _join_mid(self, layer: int, entries: Entries) -> None:
        """Who begins with another attention in this layer?"""
        newcomers, streams = [], []
        for group in entries.get((layer, Stage.MID), ()):
            narrow = self._cut(group) if layer == self.n_layers - 1 else group
            x = narrow.take(self.base[f"blocks.{layer}.hook_resid_mid"])
            heads = self._heads_change(group, narrow, layer)
            x = self._with_change(narrow, x, (layer, Stage.ATTN), heads)
            self._write(narrow, x, (layer, Stage.MID))
            newcomers.append(narrow)
            streams.append(x)
        if newcomers:
            self._join(newcomers, streams)

    def _with_change(
        self, group: Group, x: Tensor, point: Point, earlier: Tensor | None = None
    ) -> Tensor:
        """The base stream with another summand: what is written at this point, for what was.

        `earlier` is how much that summand has changed already.
        """
        if point not in self._at:
            return x if earlier is None else x + earlier
        layer, stage = point
        old = group.take(self.base[CHANGES[stage].format(layer=layer)])
        new = old.clone() if earlier is None else old + earlier
        self._write(group, new, point)
        return x + (new - old)

    def _heads_change(self, group: Group, narrow: Group, layer: int) -> Tensor | None:
        """What edited heads add to the stream: only their own part of attention is computed.

        `narrow` is the group at the positions that are needed afterwards.
        """
        total = None
        stages = {stage: self._at.get((layer, stage), ()) for stage in (Stage.QKV, Stage.Z)}
        edited = {edit.head for edits in stages.values() for edit, _ in edits}
        for head in sorted(head for head in edited if head is not None):
            own = self._picked(group, head, stages.values())
            if not len(own):
                continue
            part, at = self._members(group, own), self._members(narrow, own)
            old = at.take(self.base[CHANGES[Stage.Z].format(layer=layer)][:, :, head])
            new = old.clone()
            asks = self._picked(part, head, [stages[Stage.QKV]])
            if len(asks):
                index = torch.as_tensor(asks, device=new.device)
                new[index] = self._one_head(
                    self._members(part, asks), self._members(at, asks), layer, head
                )
            self._write(at, new, (layer, Stage.Z), head)
            W_O = self.model.blocks[layer].attn.W_O[head]
            change = einsum(new - old, W_O, "n w e, e d -> n w d")
            if total is None:
                total = change.new_zeros(len(narrow.cells), *change.shape[1:])
            total.index_add_(0, torch.as_tensor(own, device=change.device), change)
        return total

    def _picked(self, group: Group, head: int, stages: Iterable[Sequence[Writers]]) -> Int:
        """Which sequences of the group have an edit of this head?"""
        has = [cells for edits in stages for edit, cells in edits if edit.head == head]
        return np.flatnonzero(np.any(has, axis=0)[group.cells]) if has else np.zeros(0, np.int64)

    def _members(self, group: Group, which: Int) -> Group:
        index = torch.as_tensor(which, device=group.prompts.device)
        return replace(group, cells=group.cells[which], prompts=group.prompts[index])

    def _one_head(self, group: Group, narrow: Group, layer: int, head: int) -> Tensor:
        """One head's z [n w e] at the narrow group's positions, with its inputs edited."""
        sites = (self.base[f"blocks.{layer}.attn.hook_{part}"][:, :, head] for part in "qkv")
        qkv = torch.stack([group.take(site) for site in sites], 2)  # [n w 3 e]
        self._write(group, qkv, (layer, Stage.QKV), head)
        q, k, v = rearrange(qkv, "n w three e -> three n w 1 e")
        q = q[:, narrow.columns - group.start]
        one = slice(head, head + 1)
        return self._attend(narrow, q, k, v, layer, one).squeeze(2)

    def _cut(self, group: Group) -> Group:
        """The same sequences, at the positions that the metric reads."""
        read = self.reads.any(0).nonzero().flatten()
        return replace(group, columns=read[read >= group.start])

    def _attend(
        self,
        group: Group,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: int,
        heads: slice = slice(None),
    ) -> Tensor:
        """What do the heads mix together at the group's positions? [n w h e]

        Keys and values [n . h e] begin at the group's start; before stand the base run's.
        """
        if group.start:
            earlier = (
                self.base[f"blocks.{layer}.attn.hook_{part}"][:, : group.start, heads]
                for part in "kv"
            )
            k, v = (
                torch.cat([old[group.prompts], new], 1)
                for old, new in zip(earlier, (k, v), strict=True)
            )
        if q.shape[1] == k.shape[1]:
            return mix(q, k, v)
        keys = torch.arange(k.shape[1], device=k.device)
        return mix(q, k, v, keys <= rearrange(group.columns, "w -> w 1"))

    def _attention(self, layer: int) -> None:
        """Everybody's attention: x + z W_O + b_O, in the last block only where the metric reads."""
        block = self.model.blocks[layer]
        qkv = block.attn.qkv(block.ln1.plain(self.x))  # [N 3 h e]
        self._edit(qkv, (layer, Stage.QKV))
        last = layer == self.n_layers - 1
        groups, mixed, streams = [], [], []
        views = zip(self.groups, self._views(qkv), self._views(self.x), strict=True)
        for group, part, x in views:
            q, k, v = part.unbind(2)
            if last:
                group = self._cut(group)
                kept = group.columns - group.start
                q, x = q[:, kept], x[:, kept]
            mixed.append(self._attend(group, q, k, v, layer).flatten(0, 1))
            streams.append(x.flatten(0, 1))
            groups.append(group)
        self.groups = groups
        z, self.x = (rows[0] if len(rows) == 1 else torch.cat(rows) for rows in (mixed, streams))
        self._edit(z, (layer, Stage.Z))
        written = block.attn.out(z)
        self._edit(written, (layer, Stage.ATTN))
        self.x = self.x + written
        self._edit(self.x, (layer, Stage.MID))


def _by_point(edits: Sequence[Sequence[Edit]]) -> dict[Point, list[Writers]]:
    """Which edits act at each point, and which cells have them?

    Where a cell writes twice at the same place, the second write comes second.
    """
    found: dict[Point, dict[tuple[int, Edit], Bools]] = {}
    for cell, own in enumerate(edits):
        earlier: list[tuple[Point, int | None, int | None]] = []
        for edit in own:
            place = (edit.point, edit.head, edit.slot)
            has = found.setdefault(edit.point, {})
            key = (earlier.count(place), edit)
            has.setdefault(key, np.zeros(len(edits), dtype=bool))[cell] = True
            earlier.append(place)
    return {
        point: [(edit, has[turn, edit]) for turn, edit in sorted(has, key=lambda key: key[0])]
        for point, has in found.items()
    }
