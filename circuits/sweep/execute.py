"""Do what was planned: each task's cells in one pass, and the metric of every prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from circuits.adapter import AdaptedModel
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.progress import Progress
from circuits.sweep.cells import Sweep
from circuits.sweep.edits import (
    Editor,
    Point,
    needed_sites,
)
from circuits.sweep.flow import Flow
from circuits.sweep.hooked import HookedPart
from circuits.sweep.part import Bools, Floats, Part
from circuits.sweep.planning import Plan, Routes, Task, plan
from circuits.sweep.reading import read_logits
from circuits.sweep.values import Reference
from circuits.sweep.writes import Group

if TYPE_CHECKING:
    from circuits.model import HookedModel

_LOGITS_AT_ONCE = 2**23  # numbers


@dataclass(frozen=True, eq=False)
class TaskScores:
    """What came of a task? `values` [cells, prompts] of the task, `changed` [cells].

    `changed` is whether any written value differs from the one it replaced, or anything arrives at
    the receiver of a path, whether or not that is read by anybody.
    """

    values: Floats
    changed: Bools


@dataclass(frozen=True, eq=False)
class Scores:
    """What came of a sweep? `values` [cells, prompts] in the metric's unit, `changed` [cells]."""

    values: Floats
    changed: Bools


def run(model: HookedModel, plan: Plan, *, progress: Progress | None = None) -> Scores:
    """What is the metric of every prompt in every cell?

    `progress` is called with the work done and the work in all.

    >>> import circuits
    >>> from circuits.metrics import get_metric
    >>> from circuits.prompts import make
    >>> from circuits.sweep import Source, cell
    >>> model = circuits.load("sort-abc")
    >>> prompts = make("sorting", model, 4)
    >>> source = Source("zero", prompts.tokens, prompts.mask)
    >>> sweep = Sweep(prompts, get_metric("accuracy"), (cell(), cell("a2")), source)
    >>> from circuits.sweep import plan as make_plan
    >>> run(model, make_plan(model, sweep)).values[0].tolist()
    [1.0, 1.0, 1.0, 1.0]

    Raises:
        CircuitsError: when somebody else's hooks are on the model.
    """
    executor = Executor(model, plan.sweep)
    return collect(plan, ((task, executor(task)) for task in plan.tasks), progress)


def collect(
    plan: Plan, results: Iterable[tuple[Task, TaskScores]], progress: Progress | None
) -> Scores:
    """What do all tasks say together? They may come in any order."""
    values = np.full((plan.n_cells, plan.n_prompts), np.nan)
    changed = np.zeros(plan.n_cells, dtype=bool)
    total, done = sum(task.work for task in plan.tasks), 0.0
    for task, scores in results:
        cells = list(task.cells)
        values[cells, task.prompts] = scores.values
        changed[cells] |= scores.changed
        done += task.work
        if progress is not None:
            progress(round(done), round(total))
    return Scores(values, changed)


def logits(model: HookedModel, sweep: Sweep) -> Iterator[tuple[int, slice, Tensor]]:
    """What does the metric read in each cell? The cell's index, which prompts, and their logits.

    Logits are [n v], or [n t] for a metric that names its tokens, in float32 at least: n positions
    of those prompts, row by row.
    """
    planned = plan(model, sweep)
    executor = Executor(model, sweep)
    for task in planned.tasks:
        for place, found in executor.logits(task):
            yield task.cells[place], task.prompts, found


class Executor:
    """Runs the tasks of one sweep. The base run of the last task's prompts is kept."""

    def __init__(self, model: HookedModel, sweep: Sweep) -> None:
        watched = [name for name, hook in model.hook_dict.items() if hook.watched]
        if watched:
            raise CircuitsError(
                f"there are hooks on {', '.join(watched[:3])}; a sweep runs the model as it is: "
                "call it outside of model.hooks"
            )
        self.model, self.sweep = model, sweep
        self.routes = Routes(model, sweep)
        self._kept: Part | None = None

    def __call__(self, task: Task) -> TaskScores:
        """The metric of the task's prompts in the task's cells."""
        part = self._part(task)
        with torch.inference_mode():
            places, finals, changed = part.finals(task.cells)
            values = np.tile(part.score(part.base_logits), (len(task.cells), 1))
            for place, found in part.logits(task.cells, places, finals):
                values[place] = part.score(found)
        return TaskScores(values, changed)

    def logits(self, task: Task) -> Iterator[tuple[int, Tensor]]:
        """What the metric reads: pairs of the cell's place in the task, and its logits."""
        part = self._part(task)
        with torch.inference_mode():
            places, finals, _ = part.finals(task.cells)
            found = dict(part.logits(task.cells, places, finals))
        for place in range(len(task.cells)):
            yield place, found.get(place, part.base_logits)

    def _part(self, task: Task) -> Part:
        if self._kept is None or self._kept.rows != task.prompts:
            self._kept = None  # before the next one is made
            kind = HookedPart if isinstance(self.model, AdaptedModel) else _Part
            self._kept = kind(self, task.prompts)
        return self._kept

    @cached_property
    def reference(self) -> Reference:
        """What the method writes."""
        _, sites = needed_sites(self.routes.writes, self.model.cfg.n_layers)
        return Reference(self.model, self.sweep.source, sites)


class _Part(Part):
    """Some of the prompts on their way through the flow."""

    def __init__(self, executor: Executor, rows: slice) -> None:
        super().__init__(executor, rows)
        self.freeze = executor.sweep.freeze
        self.editor = Editor(self.model, self.prompts, self.base, self.source, executor.sweep)

    def base_sites(self) -> set[str]:
        """What the flow takes from the base run."""
        return self.routes.base_sites()

    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of the cells that run at all.

        Their places [s] among `cells` come first; last, which cells changed anything.
        """
        routes = [self.routes.routes[cell] for cell in cells]
        edits = {w: self.editor.edit(w) for w in dict.fromkeys(w for r in routes for w in r.writes)}
        own = [[edits[write] for write in route.writes] for route in routes]
        flow = Flow(self.model, self.base, own, self.reads, self.prompts.mask, self.freeze)
        entries = self._entries(cells)
        running = {cell for by in entries.values() for group in by for cell in group.cells.tolist()}
        places = sorted(running)
        changed = flow.writes.changed
        base = self.base[self.final_site][self.reads]
        finals = repeat(base, "n d -> s n d", s=len(places)).clone()
        if not places:
            return places, finals, changed | self.arrives(cells, changed)
        number = torch.full(self.reads.shape, -1, device=base.device)
        number[self.reads] = torch.arange(len(base), device=base.device)  # of each read, [b p]
        for group, x in flow.run(entries):
            cell = torch.as_tensor(np.searchsorted(places, group.cells), device=base.device)
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
        """Where do any of these write something else? [b p], True or False."""
        return self.editor.sent.differs(senders)

    def _entries(self, cells: tuple[int, ...]) -> dict[Point, list[Group]]:
        """Which sequences enter where, in groups that start at the same position?"""
        stop = int(self.routes.last_read[self.rows].max()) + 1
        members: dict[Point, dict[int, list[tuple[int, int]]]] = {}
        for place, cell in enumerate(cells):
            route = self.routes.routes[cell]
            if route.entry is None:
                continue
            for prompt, start in enumerate(route.start[self.rows].tolist()):
                if start < min(stop, self.routes.width):
                    by_start = members.setdefault(route.entry, {})
                    by_start.setdefault(start, []).append((place, prompt))
        device = self.prompts.tokens.device
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

    def logits(
        self, cells: tuple[int, ...], places: list[int], finals: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """What the metric reads in some of these cells: [s n d] -> pairs of place and logits."""
        cfg, tokens = self.model.cfg, self.tokens
        width = cfg.d_vocab if tokens is None else tokens.shape[1] * cfg.d_model
        at_once = max(1, _LOGITS_AT_ONCE // (finals.shape[1] * width))
        is_held = np.array([self.held(cells, place) for place in places], dtype=bool)
        for held in (False, True):
            which = np.flatnonzero(is_held == held)
            for first in range(0, len(which), at_once):
                some = which[first : first + at_once]
                rows = rearrange(finals[torch.as_tensor(some)], "s n d -> (s n) d")
                found = self.read(rows, held=held).chunk(len(some))
                yield from zip([places[i] for i in some], found, strict=True)

    def read(self, final: Tensor, *, held: bool = False) -> Tensor:
        """The logits that the metric reads: [(s n) d] -> [(s n) v] or [(s n) t]."""
        tokens, times = self.tokens, len(final) // max(1, int(self.reads.sum()))
        tokens = None if tokens is None else tokens.repeat(times, 1)
        return read_logits(self.model, final, tokens, self.scale.repeat(times, 1) if held else None)
