"""Do what was planned: each task's cells in one pass, and the metric of every prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Bools, Floats
from circuits.errors import CircuitsError
from circuits.progress import Progress
from circuits.sweep.cells import Sweep
from circuits.sweep.engine import source_sites, task_runner
from circuits.sweep.planning import plan
from circuits.sweep.plans import Plan, Task
from circuits.sweep.runner import TaskRunner
from circuits.sweep.values import Reference

if TYPE_CHECKING:
    from circuits.model import HookedModel


@dataclass(frozen=True, eq=False)
class TaskScores:
    """What came of a task: `values` [cells, prompts] of the task, `changed` [cells].

    `changed` is whether any written value differs from the one it replaced, or anything arrives at
    the receiver of a path, whether or not that is read by anybody.
    """

    values: Floats
    changed: Bools


@dataclass(frozen=True, eq=False)
class Scores:
    """What came of a sweep: `values` [cells, prompts] in the metric's unit, `changed` [cells]."""

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
    executor = Executor(model, plan)
    return collect(plan, ((task, executor(task)) for task in plan.tasks), progress)


def collect(
    plan: Plan, results: Iterable[tuple[Task, TaskScores]], progress: Progress | None
) -> Scores:
    """What all tasks say together. They may come in any order."""
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
    executor = Executor(model, planned)
    for task in planned.tasks:
        for place, read in executor.logits(task):
            yield task.cells[place], task.prompts, read


class Executor:
    """Runs the tasks of one plan. The base run of the last task's prompts is kept."""

    def __init__(self, model: HookedModel, plan: Plan) -> None:
        watched = [name for name, hook in model.hook_dict.items() if hook.watched]
        if watched:
            raise CircuitsError(
                f"there are hooks on {', '.join(watched[:3])}; a sweep runs the model as it is: "
                "call it outside of model.hooks"
            )
        self.model, self.routes, self.allowance = model, plan.routes, plan.allowance
        self._last: TaskRunner | None = None

    def __call__(self, task: Task) -> TaskScores:
        """The metric of the task's prompts in the task's cells."""
        with torch.inference_mode(), self._backend():
            runner = self._runner(task)
            places, finals, changed = runner.finals(task.cells)
            values = np.empty((len(task.cells), len(runner.base.prompts)))
            if len(places) < len(task.cells):
                values[:] = runner.base.score(runner.base.logits)
            for some, read in runner.logits(task.cells, places, finals):
                values[some] = runner.base.score(read, len(some))
        return TaskScores(values, changed)

    def logits(self, task: Task) -> Iterator[tuple[int, Tensor]]:
        """What the metric reads: pairs of the cell's place in the task, and its logits."""
        with torch.inference_mode(), self._backend():
            runner = self._runner(task)
            places, finals, _ = runner.finals(task.cells)
            moved = {
                place: part
                for some, read in runner.logits(task.cells, places, finals)
                for place, part in zip(some, read.chunk(len(some)), strict=True)
            }
        for place in range(len(task.cells)):
            yield place, moved.get(place, runner.base.logits)

    def _backend(self) -> AbstractContextManager[None]:
        backend = self.model.backend
        return nullcontext() if self.allowance.onednn else backend.using(onednn=False)

    def _runner(self, task: Task) -> TaskRunner:
        if self._last is None or self._last.base.rows != task.prompts:
            self._last = None  # before the next one is made
            self._last = task_runner(
                self.model, self.routes, task.prompts, self.reference, self.allowance.logits
            )
        return self._last

    @cached_property
    def reference(self) -> Reference:
        """What the method writes."""
        sites = source_sites(self.model, self.routes)
        return Reference(self.model, self.routes.sweep.source, sites, self.allowance.tokens)
