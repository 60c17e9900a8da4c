"""What a way of running cells has to offer. There are two: `flow_runner` and `hooked`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from circuits.arrays import Bools
from circuits.components import Component
from circuits.model import Visit
from circuits.sweep.base_run import BaseRun
from circuits.sweep.cells import scale_held

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts
    from circuits.sweep.routes import Routes

_LOGITS_AT_ONCE = 2**23  # numbers


class Pilot(Protocol):
    """A small piece of the same work, to measure what a row costs."""

    rows: int
    blocks: int

    def run(self) -> None:
        """Send `rows` rows through `blocks` blocks."""


class CellRunner(ABC):
    """Runs cells on some of the prompts of a sweep.

    Attributes:
        base: the prompts' unedited run.
        passes_whole: whether every cell is a whole pass of the model.
    """

    passes_whole: ClassVar[bool]

    def __init__(self, base: BaseRun) -> None:
        self.base = base

    @classmethod
    @abstractmethod
    def base_sites(cls, model: HookedModel, routes: Routes) -> set[str]:
        """What it needs of the unedited run."""

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
    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of the cells that run at all.

        Their places [s] among `cells` come first; last, which cells changed anything.
        """

    @abstractmethod
    def differs(self, senders: tuple[Component, ...]) -> Tensor:
        """Where any of these write something else: [b p], True or False."""

    def logits(
        self, cells: tuple[int, ...], places: list[int], finals: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """What the metric reads in some of these cells: [s n d] -> pairs of place and logits."""
        base, cfg = self.base, self.base.model.cfg
        width = cfg.d_vocab if base.tokens is None else base.tokens.shape[1] * cfg.d_model
        at_once = max(1, _LOGITS_AT_ONCE // (finals.shape[1] * width))
        is_held = np.array([scale_held(base.sweep.cells[cells[i]]) for i in places], dtype=bool)
        for held in (False, True):
            which = np.flatnonzero(is_held == held)
            for first in range(0, len(which), at_once):
                some = which[first : first + at_once]
                rows = rearrange(finals[torch.as_tensor(some)], "s n d -> (s n) d")
                logits = base.read(rows, held=held).chunk(len(some))
                yield from zip([places[i] for i in some], logits, strict=True)

    def arrives(self, cells: tuple[int, ...], known: Bools) -> Bools:
        """In which cells a receiver of paths gets anything new, although nobody reads it: [s].

        Such a path has no effect, which is an answer; one that carries nothing asks nothing. Cells
        that are `known` [s] to have changed something are not looked at.
        """
        base, arrived = self.base, np.zeros(len(cells), dtype=bool)
        for place, cell in enumerate(cells):
            for write in base.sweep.cells[cell] if not known[place] else ():
                if write.senders:
                    where = base.prompts.where(write.target.position) & base.routes.able(
                        write, base.rows, base.prompts.mask
                    )
                    arrived[place] |= bool((where & self.differs(write.senders)).any())
        return arrived
