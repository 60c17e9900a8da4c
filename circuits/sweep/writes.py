"""Sequences in groups, and what is written into them.

Shapes: n sequences of a group, w positions of each, b prompts, p positions, h head, d = d_model,
e = d_head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Bools, Ints
from circuits.sweep.edits import Edit, Point

Index = Tensor | slice  # which sequences of a group
Writers = tuple[Edit, Bools]  # an edit, and which cells have it


@dataclass(frozen=True, eq=False)
class Group:
    """Sequences that start at the same position: their cells and prompts [n], their positions [w].

    `cells` are indices into the flow's cells. `columns` are positions of the prompts.
    """

    start: int
    cells: Ints
    prompts: Tensor
    columns: Tensor

    @property
    def n_rows(self) -> int:
        """How many rows of the tall matrix it has."""
        return len(self.cells) * len(self.columns)

    def take(self, base: Tensor) -> Tensor:
        """The base run's values for these sequences: [b p ...] -> [n w ...]."""
        return base[self.prompts[:, None], self.columns]

    def members(self, which: Ints) -> Group:
        """Only these of its sequences."""
        index = torch.as_tensor(which, device=self.prompts.device)
        return replace(self, cells=self.cells[which], prompts=self.prompts[index])


class Writes:
    """What all cells write, by the point of the pass.

    `edits` has each cell's edits; `real` [b p] says which tokens are no padding. `changed` [cells]
    becomes True where a written value differs from the one it replaced.
    """

    def __init__(self, edits: Sequence[Sequence[Edit]], real: Tensor) -> None:
        self.real, self._at = real, _by_point(edits)
        self.changed = np.zeros(len(edits), dtype=bool)

    def __contains__(self, at: Point) -> bool:
        return at in self._at

    def by_unit(self, at: Point) -> dict[int, list[Writers]]:
        """The edits of each head or neuron."""
        by_unit: dict[int, list[Writers]] = {}
        for edit, has in zip(*self._at.get(at, ((), ())), strict=True):
            if edit.unit is not None:
                by_unit.setdefault(edit.unit, []).append((edit, has))
        return by_unit

    def write(
        self,
        group: Group,
        values: Tensor,
        at: Point,
        unit: int | None = None,
        make: Callable[[Tensor, Index], Tensor] = lambda given, index: given,
    ) -> None:
        """Write what the cells of this group say into `values`, in place.

        `values` is [n w d]; at QKV [n w 3 h e] and at Z [n w h e], without h for one `unit` only;
        of a neuron [n w 1]. `make` says what to write, from what an edit gives for which sequences.
        """
        if at not in self._at:
            return
        edits, every_has = self._at[at]
        here = every_has[:, group.cells]
        for i in np.flatnonzero(here.any(1)):
            edit, which = edits[i], np.flatnonzero(here[i])
            if unit is not None and edit.unit != unit:
                continue
            every = len(which) == len(group.cells)
            index = slice(None) if every else torch.as_tensor(which, device=values.device)
            prompts = group.prompts[index]
            target = values if edit.slot is None else values[:, :, edit.slot]
            target = target if edit.unit is None or unit is not None else target[:, :, edit.unit]
            old = target[index]
            new = make(edit.at(prompts, group.columns), index)
            new = old + new if edit.adds else new
            if edit.where is not None:
                there = group.columns == edit.where[prompts][:, None]  # [n w]
                new = torch.where(there[..., None], new, old)
            differs = (new != old).any(-1) & self.real[prompts][:, group.columns]
            self.changed[group.cells[which[differs.any(1).cpu().numpy()]]] = True
            target[index] = new


def picked(group: Group, edits: Iterable[Writers]) -> Ints:
    """The sequences of the group that have one of these edits."""
    has = [cells for _, cells in edits]
    return np.flatnonzero(np.any(has, axis=0)[group.cells]) if has else np.zeros(0, np.int64)


def added(total: Tensor | None, n: int, which: Ints, change: Tensor) -> Tensor:
    """The total [n ...] of all sequences, with the change of some of them."""
    if total is None:
        total = change.new_zeros(n, *change.shape[1:])
    return total.index_add_(0, torch.as_tensor(which, device=change.device), change)


def _by_point(edits: Sequence[Sequence[Edit]]) -> dict[Point, tuple[list[Edit], Bools]]:
    """The edits at each point, and which cells have each of them: [edits cells].

    Where a cell writes twice at the same place, the second write comes second.
    """
    by_point: dict[Point, dict[tuple[int, Edit], Bools]] = {}
    for cell, cell_edits in enumerate(edits):
        earlier: list[tuple[Point, int | None, int | None]] = []
        for edit in cell_edits:
            place = (edit.point, edit.unit, edit.slot)
            has = by_point.setdefault(edit.point, {})
            key = (earlier.count(place), edit)
            has.setdefault(key, np.zeros(len(edits), dtype=bool))[cell] = True
            earlier.append(place)
    ordered = {point: sorted(has, key=lambda key: key[0]) for point, has in by_point.items()}
    return {
        point: ([edit for _, edit in keys], np.stack([by_point[point][key] for key in keys]))
        for point, keys in ordered.items()
    }
