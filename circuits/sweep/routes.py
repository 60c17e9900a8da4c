"""Where each cell of a sweep enters the model, and from which position on it differs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Ints
from circuits.sweep.cells import Cell, Sweep, Write, check_cell
from circuits.sweep.edits import (
    Point,
    Stage,
    enters_behind,
    first_changes,
    frozen_sites,
    needed_sites,
    point,
)

if TYPE_CHECKING:
    from circuits.model import HookedModel


@dataclass(frozen=True, eq=False)
class Route:
    """Where a cell enters, and from which position on in each prompt [b].

    `entry` is None, and `start` the number of positions, where nothing that is read can change.
    `writes` are those that can change anything.
    """

    entry: Point | None
    start: Ints
    writes: tuple[Write, ...]


class Routes:
    """How each cell of a sweep goes through the model."""

    def __init__(self, model: HookedModel, sweep: Sweep) -> None:
        self.sweep, self.cfg, self.n_layers = sweep, model.cfg, model.cfg.n_layers
        for cell in sweep.cells:
            check_cell(cell, model.cfg)
        self.writes = tuple(dict.fromkeys(write for cell in sweep.cells for write in cell))
        self.reads = sweep.metric.positions(sweep.prompts)  # [b p]
        columns = torch.arange(self.reads.shape[1], device=self.reads.device)
        self.last_read = (self.reads * columns).amax(1).cpu().numpy()  # [b]
        first = first_changes(sweep, self.writes)
        self._known: dict[bytes, Ints] = {}
        self._begins = first  # also where nobody reads what becomes of it
        self._first = {write: self._seen(write, first[write]) for write in self.writes}
        self.routes = [self._route(cell) for cell in sweep.cells]

    @property
    def width(self) -> int:
        """How many positions the prompts have; it also stands for never."""
        return int(self.reads.shape[1])

    def able(self, write: Write, rows: slice, mask: Tensor) -> Tensor:
        """Where the write can change anything in these prompts, by the tokens alone: [b p]."""
        columns = torch.arange(mask.shape[1], device=mask.device)
        return mask & (columns >= self._begins[write][rows, None])

    def _seen(self, write: Write, first: Tensor) -> Ints:
        """From where on the metric sees it: [b], never where it does not."""
        starts = first.cpu().numpy()
        starts = np.where(starts <= self.last_read, starts, self.width)
        if write.target.position is None or not _only_there(write, self.n_layers):
            return self._once(starts)
        at = self.sweep.prompts.where(write.target.position) & self.reads
        return self._once(np.where(at.any(1).cpu().numpy(), starts, self.width))

    def _once(self, starts: Ints) -> Ints:
        """The same numbers, in one array for all cells that have them: there may be millions."""
        return self._known.setdefault(starts.tobytes(), starts)

    def _route(self, cell: Cell) -> Route:
        able = [write for write in cell if (self._first[write] < self.width).any()]
        if not able:
            return Route(None, self._once(np.full(len(self.last_read), self.width)), ())
        layer, stage = min(point(write, self.n_layers) for write in able)
        if enters_behind(stage, self.cfg):
            entry = layer + 1, Stage.PRE
        else:
            entry = layer, Stage.PRE if stage <= Stage.PRE else Stage.MID
        start = self._once(np.minimum.reduce([self._first[write] for write in able]))
        # A receiver to which nothing new is sent reads its base input, whatever else is written.
        writes = [write for write in cell if write in able or write.senders]
        writes.sort(key=lambda write: write.target.kind != "resid_post")  # that of the layer before
        return Route(entry, start, tuple(writes))

    @cached_property
    def prefix_layers(self) -> range:
        """The layers in which sequences read keys and values of the base run."""
        late = [
            r.entry[0] for r in self.routes if r.entry and (r.start[r.start < self.width]).any()
        ]
        return range(min(late, default=self.n_layers), self.n_layers)

    def base_sites(self) -> set[str]:
        """The sites of the base run that are needed."""
        writes = [write for route in self.routes for write in route.writes]
        sites, _ = needed_sites(writes, self.cfg, self.sweep.hold)
        sites |= {sender.site for write in self.writes for sender in write.senders}
        if self.sweep.freeze:
            entries = [route.entry[0] for route in self.routes if route.entry]
            receivers = [point(write, self.n_layers)[0] for write in writes if write.senders]
            first = min([*entries, *receivers], default=self.n_layers)
            sites |= frozen_sites(range(first, self.n_layers))
        return sites | {
            f"blocks.{layer}.attn.hook_{part}" for layer in self.prefix_layers for part in "kv"
        }

    def widths(self, cell: int, first: int, last: int) -> Ints:
        """How many positions run in each of these prompts: [b]."""
        start = self.routes[cell].start[first:last]
        stop = int(self.last_read[first:last].max()) + 1
        return np.where(start < self.width, np.maximum(stop - start, 0), 0)


def _only_there(write: Write, n_layers: int) -> bool:
    """Whether only its own position sees this write: in the last layer, mostly."""
    target, (layer, stage) = write.target, point(write, n_layers)
    if layer == n_layers:
        return True
    if layer < n_layers - 1 or stage < Stage.QKV:
        return False
    if target.slot is not None:
        return target.slot in ("q", "pattern")
    return target.kind not in ("head", "attn") or not write.senders  # which read keys, too
