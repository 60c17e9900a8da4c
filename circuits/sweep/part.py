"""Some of the prompts of a sweep: their unedited runs, and what the metric reads there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.components import Component
from circuits.sweep.cells import scale_held
from circuits.sweep.edits import needed_sites, stream_site
from circuits.sweep.reading import norm_scale
from circuits.sweep.values import Runs, pair_of_runs, run_sites

if TYPE_CHECKING:
    from circuits.sweep.execute import Executor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Part(ABC):
    """Some of the prompts, ready for cells to be run on them.

    Shapes: b prompts, p positions, s cells that run, n positions that the metric reads, t tokens
    that it reads there, d = d_model, v = d_vocab.

    Attributes:
        base: sites of the unedited run.
        source: what is written instead.
        reads: where the metric reads [b p].
        tokens: which tokens it reads there [n t]; None for all.
        base_logits: what it reads in the unedited run, [n v] or [n t].
    """

    def __init__(self, executor: Executor, rows: slice) -> None:
        sweep = executor.sweep
        self.model, self.routes, self.rows = executor.model, executor.routes, rows
        self.metric, self.prompts = sweep.metric, sweep.prompts.part(rows)
        self.reads = self.metric.positions(self.prompts)
        self.tokens = None if self.metric.tokens is None else self.metric.tokens(self.prompts)
        mask, n_layers = self.prompts.mask, self.model.cfg.n_layers
        self.final_site, width = stream_site(n_layers, n_layers), self.prompts.tokens.shape[1]
        sites, of_source = self.base_sites(), needed_sites(self.routes.writes, n_layers)[1]
        passed: Runs = {}
        if sweep.source.rule.needs == "rows":
            other = sweep.source.tokens[rows, :width]
            self.base, passed = pair_of_runs(self.model, self.prompts, other, sites, of_source)
        else:
            self.base = run_sites(self.model, self.prompts.tokens, mask, sites)
        self.source = executor.reference.values(self.prompts, rows, passed)
        with torch.inference_mode():
            self.base_logits = self.read(self.base[self.final_site][self.reads])
            self.clean_logits = self.base_logits
            if sweep.clean is not None and "clean" in self.metric.needs:
                run = run_sites(self.model, sweep.clean[rows, :width], mask, [self.final_site])
                self.clean_logits = self.read(run[self.final_site][self.reads])

    @abstractmethod
    def base_sites(self) -> set[str]:
        """What is needed of the base run?"""

    @cached_property
    def scale(self) -> Tensor:
        """What the final norm divides by in the unedited run, where the metric reads: [n 1]."""
        return norm_scale(self.model, self.base[self.final_site][self.reads])

    @abstractmethod
    def read(self, final: Tensor, *, held: bool = False) -> Tensor:
        """The logits that the metric reads; `held` with the final norm's scale of the base run."""

    @abstractmethod
    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of the cells that run at all.

        Their places [s] among `cells` come first; last, which cells changed anything.
        """

    @abstractmethod
    def differs(self, senders: tuple[Component, ...]) -> Tensor:
        """Where do any of these write something else? [b p], True or False."""

    def arrives(self, cells: tuple[int, ...], known: Bools) -> Bools:
        """In which cells does a receiver of paths get anything new, although nobody reads it? [s]

        Such a path has no effect, which is an answer; one that carries nothing asks nothing. Cells
        that are `known` [s] to have changed something are not looked at.
        """
        found = np.zeros(len(cells), dtype=bool)
        for place, cell in enumerate(cells):
            for write in self.routes.sweep.cells[cell] if not known[place] else ():
                if write.senders:
                    where = self.prompts.where(write.target.position) & self.routes.able(
                        write, self.rows, self.prompts.mask
                    )
                    found[place] |= bool((where & self.differs(write.senders)).any())
        return found

    @abstractmethod
    def logits(
        self, cells: tuple[int, ...], places: list[int], finals: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """What the metric reads in some of these cells: [s n d] -> pairs of place and logits."""

    def held(self, cells: tuple[int, ...], place: int) -> bool:
        """Does the final norm keep its scale in the cell at this place?"""
        return scale_held(self.routes.sweep.cells[cells[place]])

    def score(self, found: Tensor) -> Floats:
        """The metric of each prompt [b]."""
        values = self.metric.score(found, self.prompts, self.clean_logits)
        scores: Floats = values.double().cpu().numpy()
        return scores
