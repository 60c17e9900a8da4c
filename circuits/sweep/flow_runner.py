"""Cells as sequences on their way through the blocks' steps: only what changes is computed."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from circuits.arrays import Bools
from circuits.components import Component
from circuits.model import Places, Transformer, Visit
from circuits.sweep.base_run import BaseRun
from circuits.sweep.editor import Editor
from circuits.sweep.edits import Point, Stage, stream_site
from circuits.sweep.flow import Flow
from circuits.sweep.runner import CellRunner
from circuits.sweep.writes import Group

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts
    from circuits.sweep.routes import Routes


class FlowPilot:
    """Sequences of `width` positions, about `rows` in all, through the last two blocks."""

    def __init__(self, model: Transformer, width: int, rows: int = 1) -> None:
        n_layers = model.cfg.n_layers
        self.first, n = max(0, n_layers - 2), max(1, rows // width)
        self.blocks = n_layers - self.first
        device = model.W_E.device
        stream = model.W_E.new_zeros(1, width, model.cfg.d_model)
        sites = (stream_site(layer, n_layers) for layer in (self.first, n_layers))
        self.base = dict.fromkeys(sites, stream)
        here = torch.zeros(n, dtype=torch.long, device=device)
        columns = torch.arange(width, device=device)
        self.group = Group(0, np.zeros(n, dtype=np.int64), here, columns)
        self.everywhere = torch.ones(1, width, dtype=torch.bool, device=device)
        self.model, self.rows = model, self.group.n_rows

    @torch.inference_mode()
    def run(self) -> None:
        """Run it."""
        flow = Flow(self.model, self.base, [[]], self.everywhere, self.everywhere)
        for _ in flow.run({(self.first, Stage.PRE): [self.group]}):
            pass


class FlowRunner(CellRunner):
    """The fast engine, for models whose blocks are made of steps."""

    passes_whole = False

    def __init__(self, base: BaseRun, routes: Routes) -> None:
        super().__init__(base, routes)
        self.model = _stepped(base.model)
        self.editor = Editor(self.model, base, routes.sweep)

    @classmethod
    def base_sites(cls, model: HookedModel, routes: Routes) -> set[str]:
        """What the flow takes from the unedited run."""
        return routes.base_sites()

    @classmethod
    def pilot(cls, model: HookedModel, width: int, rows: int) -> FlowPilot:
        """A small flow."""
        return FlowPilot(_stepped(model), width, rows)

    @classmethod
    def read_stream(
        cls,
        model: HookedModel,
        prompts: Prompts,
        tokens: Tensor,
        sites: Collection[str],
        visit: Visit,
        reads: Tensor,
    ) -> Tensor:
        """A pass of plain steps, whose last MLP runs only where the metric reads."""
        model, last = _stepped(model), model.cfg.n_layers - 1
        places = Places.causal(tokens.shape[1], tokens.device)
        x = model.embed(tokens, slice(tokens.shape[1]), visit)
        for layer, block in enumerate(model.blocks):
            at = f"blocks.{layer}."
            x = visit(at + "hook_resid_pre", x)
            q, k, v = block.attn.qkv(block.ln1.plain(x)).unbind(2)
            z = visit(at + "attn.hook_z", block.attn.mix(q, k, v, places))
            z, entered = (z[reads], x[reads]) if layer == last else (z, x)
            x = entered + visit(at + "hook_attn_out", block.attn.out(z))
            if model.cfg.has_middle:
                x = entered = visit(at + "hook_resid_mid", x)
            if not model.cfg.attn_only:
                x = x + visit(at + "hook_mlp_out", block.mlp.plain(block.ln2.plain(entered)))
            x = visit(at + "hook_resid_post", x)
        return x

    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of the cells that run at all.

        Their places [s] among `cells` come first; last, which cells changed anything.
        """
        base = self.base
        routes = [self.routes.routes[cell] for cell in cells]
        writes = dict.fromkeys(write for route in routes for write in route.writes)
        edits = {write: self.editor.edit(write) for write in writes}
        by_cell = [[edits[write] for write in route.writes] for route in routes]
        mask, freeze = base.prompts.mask, self.routes.sweep.freeze
        flow = Flow(self.model, base.values, by_cell, base.reads, mask, freeze)
        entries = self._entries(cells)
        running = {cell for by in entries.values() for group in by for cell in group.cells.tolist()}
        places = sorted(running)
        changed = flow.writes.changed
        finals = repeat(base.final, "n d -> s n d", s=len(places)).clone()
        if not places:
            return places, finals, changed | self.arrives(cells, changed)
        number = torch.full(base.reads.shape, -1, device=finals.device)
        n_reads = len(base.final)
        number[base.reads] = torch.arange(n_reads, device=finals.device)  # of each read, [b p]
        for group, x in flow.run(entries):
            cell = torch.as_tensor(np.searchsorted(places, group.cells), device=finals.device)
            read = group.take(number)  # [n w]
            is_read = read >= 0
            cell = repeat(cell, "n -> n w", w=read.shape[1])
            finals[cell[is_read], read[is_read]] = x[is_read]
        # Where nothing was changed, rounding on another way through the model shall change nothing.
        moved = [i for i, place in enumerate(places) if changed[place]]
        if len(moved) < len(places):
            places, finals = [places[i] for i in moved], finals[moved]
        return places, finals, changed | self.arrives(cells, changed)

    def differs(self, senders: tuple[Component, ...]) -> Tensor:
        """Where any of these write something else: [b p], True or False."""
        return self.editor.sent.differs(senders)

    def _entries(self, cells: tuple[int, ...]) -> dict[Point, list[Group]]:
        """Which sequences enter where, in groups that start at the same position."""
        routes, rows = self.routes, self.base.rows
        stop = int(routes.last_read[rows].max()) + 1
        members: dict[Point, dict[int, list[tuple[int, int]]]] = {}
        for place, cell in enumerate(cells):
            route = routes.routes[cell]
            if route.entry is None:
                continue
            for prompt, start in enumerate(route.start[rows].tolist()):
                if start < min(stop, routes.width):
                    by_start = members.setdefault(route.entry, {})
                    by_start.setdefault(start, []).append((place, prompt))
        device = self.base.prompts.tokens.device
        return {
            entry: [
                Group(
                    start,
                    np.array([place for place, _ in pairs]),
                    torch.tensor([prompt for _, prompt in pairs], device=device),
                    torch.arange(start, stop, device=device),
                )
                for start, pairs in sorted(by_start.items())
            ]
            for entry, by_start in members.items()
        }


def _stepped(model: HookedModel) -> Transformer:
    assert isinstance(model, Transformer)  # as `circuits.sweep.engine.runner_of` has seen
    return model
