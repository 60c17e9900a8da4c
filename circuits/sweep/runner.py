"""What a way of running cells has to offer. There are two: `flow_runner` and `hooked`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Bools
from circuits.components import Component
from circuits.model import Visit
from circuits.sweep.base_run import BaseRun
from circuits.sweep.cells import scale_held
from circuits.sweep.edits import needed_sites

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts
    from circuits.sweep.routes import Routes


class Pilot(Protocol):
    """A small piece of the same work, to measure what a row costs."""

    rows: int
    blocks: int

    def run(self) -> None:
        """Send `rows` rows through `blocks` blocks."""


class TaskRunner(ABC):
    """Runs what is asked in a task on some of the prompts of a sweep: cells, or circuits alone.

    Attributes:
        base: the prompts' unedited run.
    """

    base: BaseRun

    @abstractmethod
    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of the cells that run at all.

        Their places [s] among `cells` come first; last, which cells changed anything.
        """

    @abstractmethod
    def logits(
        self, cells: tuple[int, ...], places: list[int], finals: Tensor
    ) -> Iterator[tuple[list[int], Tensor]]:
        """What the metric reads in some of these cells: [s n d] -> pairs of places and logits.

        The logits [(s n) v] of several places are one after the other.
        """


class CellRunner(TaskRunner):
    """Runs cells on some of the prompts of a sweep.

    Attributes:
        base: the prompts' unedited run.
        routes: how each cell goes through the model.
        passes_whole: whether every cell is a whole pass of the model.
    """

    passes_whole: ClassVar[bool]

    def __init__(self, base: BaseRun, routes: Routes) -> None:
        self.base, self.routes = base, routes

    @classmethod
    @abstractmethod
    def base_sites(cls, model: HookedModel, routes: Routes) -> set[str]:
        """What it needs of the unedited run."""

    @classmethod
    def source_sites(cls, model: HookedModel, routes: Routes) -> set[str]:
        """What it needs of the source's run."""
        return needed_sites(routes.writes, model.cfg)[1]

    @classmethod
    @abstractmethod
    def pilot(cls, model: HookedModel, width: int, rows: int) -> Pilot:
        """Sequences of `width` positions, about `rows` positions in all."""

    @classmethod
    @abstractmethod
    def read_stream(
        cls,
        model: HookedModel,
        prompts: Prompts,
        tokens: Tensor,
        sites: Collection[str],
        visit: Visit,
        reads: Tensor,
    ) -> Tensor:
        """The final stream [n d] where `reads` [b p] says, for gradients.

        `tokens` [b p] stand in the prompts' places. What passes the sites goes through `visit`; the
        sites that come after the last attention may have the positions that are read alone, [n d].
        """

    @abstractmethod
    def differs(self, senders: tuple[Component, ...]) -> Tensor:
        """Where any of these write something else: [b p], True or False."""

    def logits(
        self, cells: tuple[int, ...], places: list[int], finals: Tensor
    ) -> Iterator[tuple[list[int], Tensor]]:
        """What the metric reads in some of these cells: [s n d] -> pairs of places and logits."""
        asked = self.routes.sweep.cells
        is_held = np.array([scale_held(asked[cells[i]]) for i in places], dtype=bool)
        for held in (False, True):
            which = np.flatnonzero(is_held == held)
            for some, logits in self.base.read_cells(finals[torch.as_tensor(which)], held=held):
                yield [places[i] for i in which[some]], logits

    def arrives(self, cells: tuple[int, ...], known: Bools) -> Bools:
        """In which cells a receiver of paths gets anything new, although nobody reads it: [s].

        Such a path has no effect, which is an answer; one that carries nothing asks nothing. Cells
        that are `known` [s] to have changed something are not looked at.
        """
        base, arrived = self.base, np.zeros(len(cells), dtype=bool)
        for place, cell in enumerate(cells):
            for write in self.routes.sweep.cells[cell] if not known[place] else ():
                if write.senders:
                    where = base.prompts.where(write.target.position) & self.routes.able(
                        write, base.rows, base.prompts.mask
                    )
                    arrived[place] |= bool((where & self.differs(write.senders)).any())
        return arrived
