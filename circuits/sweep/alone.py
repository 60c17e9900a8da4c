"""Circuits alone on the same prompts, one question after another: what is asked depends on answers.

Shapes: c circuits, b prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuits.arrays import Floats
from circuits.circuit import Graph, graph
from circuits.memory import PIECES, left
from circuits.sweep.circuit_planning import run_bytes
from circuits.sweep.circuit_runner import CircuitRunner
from circuits.sweep.circuit_sweep import CircuitRoutes, CircuitSweep, Kept
from circuits.sweep.engine import source_sites, task_runner
from circuits.sweep.planning import plan
from circuits.sweep.values import Reference

if TYPE_CHECKING:
    from circuits.model import HookedModel


class Alone:
    """The prompts of a sweep in both runs, kept for as long as circuits are asked about.

    `memory` bounds what a question takes, and the two runs.

    >>> import circuits
    >>> from circuits.metrics import get_metric
    >>> from circuits.prompts import make
    >>> from circuits.sweep import Source
    >>> model = circuits.load("compiled")
    >>> prompts = make("compiled-ioi", model, 2)
    >>> source = Source("resample", prompts.corrupted, prompts.mask)
    >>> ask = Alone(model, CircuitSweep(prompts, get_metric("logit_diff"), ((),), source))
    >>> ask([Kept.only(ask.graph, ask.graph.exists)]).round(2).tolist()
    [[10.0, 10.0]]
    """

    def __init__(
        self, model: HookedModel, sweep: CircuitSweep, *, memory: int | str | None = None
    ) -> None:
        self.graph: Graph = graph(model.cfg)
        everything = Kept.only(self.graph, self.graph.exists, "everything")
        asked = CircuitSweep(
            sweep.prompts, sweep.metric, ((everything,),) * 64, sweep.source, sweep.clean
        )
        both = int(PIECES * len(sweep.prompts) * run_bytes(model, sweep.prompts.tokens.shape[1]))
        planned = plan(model, asked, memory=left(memory, both, "both runs of every prompt"))
        self._at_once = max(len(task.cells) for task in planned.tasks)
        routes = CircuitRoutes(asked)
        reference = Reference(
            model, asked.source, source_sites(model, routes), planned.allowance.tokens
        )
        rows = dict.fromkeys((task.first, task.last) for task in planned.tasks)
        self._runners: list[CircuitRunner] = []
        for first, last in rows:
            runner = task_runner(
                model, routes, slice(first, last), reference, planned.allowance.logits
            )
            assert isinstance(runner, CircuitRunner)
            if self._runners:
                runner.rooms = self._runners[0].rooms  # nobody reads what others have left there
            self._runners.append(runner)

    def __call__(self, kept: Sequence[Kept]) -> Floats:
        """The metric of every prompt in each of these circuits, [c b]."""
        values = [
            np.concatenate(
                [
                    self._values(runner, kept[first : first + self._at_once])
                    for runner in self._runners
                ],
                axis=1,
            )
            for first in range(0, len(kept), self._at_once)
        ]
        return np.concatenate(values)

    @property
    def base(self) -> Floats:
        """The metric of every prompt in the whole model, [b]."""
        return np.concatenate(
            [runner.base.score(runner.base.logits)[0] for runner in self._runners]
        )

    def _values(self, runner: CircuitRunner, kept: Sequence[Kept]) -> Floats:
        with torch.inference_mode():
            finals = runner.alone(kept)
            read = runner.base.read_cells(finals)
            return np.concatenate([runner.base.score(each, len(some)) for some, each in read])
