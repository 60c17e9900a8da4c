"""The pass itself: many edited runs at once, each computed only where it differs from the base.

A *sequence* is one prompt in one cell, from the first position that the cell changes. Sequences
that start at the same position form a group, and all groups go through each linear map as one tall
matrix. A sequence joins at the point of its first edit; what stands before its start, and below its
point of entry, is the base run's. The last block runs only where the metric reads.

Shapes: n sequences of a group, w positions of each, b prompts, p positions, h head, d = d_model,
e = d_head, N rows (all positions of all sequences).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from circuits.sweep.cells import Freeze
from circuits.sweep.edits import CHANGES, Edit, Point, Stage, stream_site
from circuits.sweep.heads import Heads
from circuits.sweep.values import Runs
from circuits.sweep.writes import Group, Writes, added, picked

if TYPE_CHECKING:
    from circuits.model import Transformer

Entries = Mapping[Point, Sequence[Group]]  # who joins where: Stage.PRE or Stage.MID of a layer


class Flow:
    """Sequences on their way through the layers.

    `edits` has each cell's edits; `reads` [b p] is where the metric reads, `real` [b p] which
    tokens are no padding. With `freeze` all heads attend as in the base run.
    """

    def __init__(
        self,
        model: Transformer,
        base: Runs,
        edits: Sequence[Sequence[Edit]],
        reads: Tensor,
        real: Tensor,
        freeze: Freeze | None = None,
    ) -> None:
        self.model, self.base, self.reads = model, base, reads
        self.cfg, self.n_layers = model.cfg, model.cfg.n_layers
        self.writes = Writes(edits, real)
        self.heads = Heads(model, base, self.writes, freeze)
        self.groups: list[Group] = []
        self.x = base[stream_site(self.n_layers, self.n_layers)].new_empty(0, model.cfg.d_model)

    def run(self, entries: Entries) -> Iterator[tuple[Group, Tensor]]:
        """The final stream of every group, [n w d], at the positions that are read."""
        for layer in range(min(layer for layer, _ in entries), self.n_layers):
            if self.groups:
                self._edit(self.x, (layer, Stage.PRE))
            self._join_stream(layer, entries)
            entered = self._attention(layer) if self.groups else self.x
            self._join_mid(layer, entries)
            if not self.cfg.parallel:
                entered = self.x  # and what entered is kept no longer
            if self.groups and not self.cfg.attn_only:
                self.x += self._mlp(layer, entered)
            del entered
        if self.groups:
            self._edit(self.x, (self.n_layers, Stage.PRE))
        self._join_stream(self.n_layers, entries)
        yield from zip(self.groups, self._views(self.x), strict=True)

    def _views(self, rows: Tensor) -> list[Tensor]:
        """Each group's part of a tall matrix: [N ...] -> [n w ...]."""
        return self._parts(self.groups, rows)

    @staticmethod
    def _parts(groups: Sequence[Group], rows: Tensor) -> list[Tensor]:
        """Each of these groups' part of a tall matrix: [N ...] -> [n w ...]."""
        parts = rows.split([group.n_rows for group in groups])
        return [
            part.view(len(group.cells), len(group.columns), *part.shape[1:])
            for part, group in zip(parts, groups, strict=True)
        ]

    def _edit(self, rows: Tensor, at: Point) -> None:
        """Write into what all sequences have computed here, in place."""
        if at in self.writes:
            for group, view in zip(self.groups, self._views(rows), strict=True):
                self.writes.write(group, view, at)

    def _join(self, newcomers: Sequence[Group], streams: Sequence[Tensor]) -> None:
        """Add sequences to the groups that start where they start."""
        by_start: dict[int, list[tuple[Group, Tensor]]] = {}
        for pair in zip(self.groups, self._views(self.x), strict=True):
            by_start[pair[0].start] = [pair]
        for pair in zip(newcomers, streams, strict=True):
            by_start.setdefault(pair[0].start, []).append(pair)
        self.groups = [
            replace(
                members[0][0],
                cells=np.concatenate([group.cells for group, _ in members]),
                prompts=torch.cat([group.prompts for group, _ in members]),
            )
            for members in by_start.values()
        ]
        every = [stream.flatten(0, 1) for members in by_start.values() for _, stream in members]
        self.x = every[0] if len(every) == 1 else torch.cat(every)

    def _join_stream(self, layer: int, entries: Entries) -> None:
        """Let sequences in that begin with another stream into this layer."""
        newcomers, streams = [], []
        for whole in entries.get((layer, Stage.PRE), ()):
            group = self._cut(whole) if layer == self.n_layers else whole
            x = group.take(self.base[stream_site(layer, self.n_layers)])
            if not self.cfg.has_middle:
                heads = self.heads.change(whole, group, layer - 1)
                x = self._with_change(group, x, (layer - 1, Stage.ATTN), heads)
            neurons = self._neurons_change(group, layer - 1)
            x = self._with_change(group, x, (layer - 1, Stage.MLP), neurons)
            for stage in (Stage.EMBED, Stage.POS):
                x = self._with_change(group, x, (layer, stage))
            self.writes.write(group, x, (layer, Stage.PRE))
            newcomers.append(group)
            streams.append(x)
        if newcomers:
            self._join(newcomers, streams)

    def _join_mid(self, layer: int, entries: Entries) -> None:
        """Let sequences in that begin with another attention in this layer."""
        newcomers, streams = [], []
        for group in entries.get((layer, Stage.MID), ()):
            narrow = self._cut(group) if layer == self.n_layers - 1 else group
            x = narrow.take(self.base[f"blocks.{layer}.hook_resid_mid"])
            heads = self.heads.change(group, narrow, layer)
            x = self._with_change(narrow, x, (layer, Stage.ATTN), heads)
            self.writes.write(narrow, x, (layer, Stage.MID))
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
        if point not in self.writes:
            return x if earlier is None else x + earlier
        layer, stage = point
        old = group.take(self.base[CHANGES[stage].format(layer=layer)])
        new = old.clone() if earlier is None else old + earlier
        self.writes.write(group, new, point)
        return x + (new - old)

    def _neurons_change(
        self, group: Group, layer: int, reads: Tensor | None = None
    ) -> Tensor | None:
        """What edited neurons add to what their MLP writes.

        `reads` [n w d] is what the MLP reads; without it, neurons do what they do in the base run.
        """
        total = None
        for neuron, edits in sorted(self.writes.by_unit((layer, Stage.NEURON)).items()):
            which = picked(group, edits)
            if not len(which):
                continue
            at, mlp = group.members(which), self.model.blocks[layer].mlp
            unit = slice(neuron, neuron + 1)
            if reads is None:
                old = at.take(self.base[CHANGES[Stage.NEURON].format(layer=layer)][..., unit])
            else:
                read = reads[torch.as_tensor(which, device=reads.device)]
                old = mlp.neurons(read, unit)
            new = old.clone()
            self.writes.write(at, new, (layer, Stage.NEURON), neuron)
            change = einsum(new - old, mlp.W_out[unit], "n w unit, unit d -> n w d")
            total = added(total, len(group.cells), which, change)
        return total

    def _mlp(self, layer: int, stream: Tensor) -> Tensor:
        """What the MLP writes in all sequences, [N d], given the stream that it reads."""
        block = self.model.blocks[layer]
        if (layer, Stage.NEURON) not in self.writes:
            written = block.mlp.plain(block.ln2.plain(stream))
        else:
            read = block.ln2.plain(stream)
            written = block.mlp.plain(read)
            parts = zip(self.groups, self._views(read), self._views(written), strict=True)
            for group, group_read, view in parts:
                change = self._neurons_change(group, layer, group_read)
                if change is not None:
                    view += change
        self._edit(written, (layer, Stage.MLP))
        return written

    def _cut(self, group: Group) -> Group:
        """The same sequences, at the positions that the metric reads."""
        read = self.reads.any(0).nonzero().flatten()
        return replace(group, columns=read[read >= group.start])

    def _attention(self, layer: int) -> Tensor:
        """The attention of all: x + z W_O + b_O, in the last block only where the metric reads.

        Returns x, [N d].
        """
        block, whole, entered = self.model.blocks[layer], self.groups, self.x
        if layer == self.n_layers - 1:
            self.groups = [self._cut(group) for group in whole]
            views = zip(self.groups, self._parts(whole, self.x), strict=True)
            at_reads = [x[:, group.columns - group.start].flatten(0, 1) for group, x in views]
            entered = at_reads[0] if len(at_reads) == 1 else torch.cat(at_reads)
        z = self._mixed(layer, whole)
        self._edit(z, (layer, Stage.Z))
        written = block.attn.out(z)
        self._edit(written, (layer, Stage.ATTN))
        written += entered
        self.x = written
        self._edit(self.x, (layer, Stage.MID))
        return entered

    def _mixed(self, layer: int, whole: Sequence[Group]) -> Tensor:
        """What the heads mix together at the groups' positions: [N h e].

        `whole` are the groups with all of their positions, whose keys and values are read.
        """
        attn, ln1 = self.model.blocks[layer].attn, self.model.blocks[layer].ln1
        qkv = attn.qkv(ln1.plain(self.x))  # [n_rows 3 h e]
        parts = self._parts(whole, qkv)
        if (layer, Stage.QKV) in self.writes:
            for group, part in zip(whole, parts, strict=True):
                self.writes.write(group, part, (layer, Stage.QKV))
        n_rows = sum(group.n_rows for group in self.groups)
        # Of several groups, what each mixes is freed before the next one's is made.
        z = qkv.new_empty(n_rows, *qkv.shape[2:]) if len(whole) > 1 else None
        views = [None] if z is None else self._views(z)
        for group, part, view in zip(self.groups, parts, views, strict=True):
            q, k, v = part.unbind(2)
            if q.shape[1] > len(group.columns):
                q = q[:, group.columns - group.start]
            mixed = self.heads.attend(group, q, k, v, layer)
            if (layer, Stage.PATTERN) in self.writes:
                self.heads.write_patterns(group, mixed, v, layer)
            if view is None:
                return mixed.flatten(0, 1)
            view.copy_(mixed)
        assert z is not None
        return z
