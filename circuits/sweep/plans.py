"""What will be done, in which pieces, and what it will cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuits.memory import PASSES, PIECES, lets_onednn
from circuits.sweep.pilot import row_seconds

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.model import HookedModel
    from circuits.sweep.cells import Sweep
    from circuits.sweep.circuit_sweep import CircuitRoutes, CircuitSweep
    from circuits.sweep.routes import Routes

DEFAULT_MEMORY = 2**30  # bytes, on a CPU: more is not faster
# Numbers in the widest matrix. On a CPU larger ones take more memory and no less time by the row,
# and half of them are taken where a loop over cells would not take as much.
_FASTEST = {"cpu": 2**21, "cuda": 2**28}
_ENOUGH = {"cpu": 2**20, "cuda": 2**28}


@dataclass(frozen=True)
class Task:
    """One piece of work: these cells, on the prompts from `first` to before `last`.

    `work` is its cost in rows through one block.
    """

    first: int
    last: int
    cells: tuple[int, ...]
    work: float

    @property
    def prompts(self) -> slice:
        """Which prompts they are."""
        return slice(self.first, self.last)


@dataclass(frozen=True)
class Allowance:
    """How many `tokens` of a reference set, and how many numbers of `logits`, are there at once.

    `onednn` is whether it may multiply.
    """

    tokens: int = 2**11
    logits: int = 2**23
    onednn: bool = True

    @classmethod
    def of(cls, budget: int, token_bytes: float) -> Allowance:
        """As many as these bytes of tensors let, where a token of the set takes `token_bytes`."""
        tokens, logits = int(PASSES * budget / token_bytes), budget // 32
        return cls(min(cls.tokens, tokens), min(cls.logits, logits), lets_onednn(budget))


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be done, and what it will cost.

    Attributes:
        routes: how each cell goes through the model, and in `sweep` what was asked.
        tasks: in the order in which they are done.
        forwards: what a loop would need: one forward pass for each cell and prompt.
        work: what is needed after all savings, in the same unit.
        rows: the same, counted in rows (a position of a sequence) through one block.
        bytes: of tensors alive at the same time besides the weights, from a measured pilot.
        allowance: how much is read at once.
    """

    routes: Routes | CircuitRoutes
    tasks: tuple[Task, ...]
    forwards: int
    work: float
    rows: float
    bytes: int
    allowance: Allowance = Allowance()

    @property
    def sweep(self) -> Sweep | CircuitSweep:
        """What was asked."""
        return self.routes.sweep

    @property
    def n_cells(self) -> int:
        """How many cells there are."""
        return len(self.sweep.cells)

    @property
    def n_prompts(self) -> int:
        """How many prompts there are."""
        return len(self.sweep.prompts)


def estimate(model: HookedModel, plan: Plan) -> float:
    """How many seconds will it take? From the time that a block takes now."""
    return row_seconds(model, plan.sweep.prompts.tokens.shape[1]) * plan.rows


def default_memory(model: HookedModel) -> int:
    """How many bytes a sweep may use if it is not told."""
    if not model.W_E.is_cuda:
        return DEFAULT_MEMORY
    free, _ = torch.cuda.mem_get_info(model.W_E.device)
    return int(free // 2)


def answer_bytes(n_cells: int, n_prompts: int) -> int:
    """What takes part in averages over prompts: three numbers of each cell in each of them.

    Such arrays are large or do not count; they leave nothing in pieces.
    """
    return int(3 * 8 * n_cells * n_prompts / PIECES)


def fastest_rows(model: HookedModel) -> int:
    """How many rows at once take the least time by the row."""
    return _rows(model, _FASTEST)


def rows_at_once(model: HookedModel, n_rows: int, row_bytes: float) -> int:
    """How many rows at once are fast, and take no more memory than a loop over cells would.

    Such a loop sends the `n_rows` of all prompts through the whole model, and has their logits and
    what is computed from them. More rows than are enough for speed are taken up to that only.
    """
    cfg, size = model.cfg, model.W_E.element_size()
    alone = n_rows * 2 * (cfg.d_vocab + cfg.d_mlp) * size
    return min(max(_rows(model, _ENOUGH), int(alone / row_bytes)), fastest_rows(model))


def _rows(model: HookedModel, numbers: dict[str, int]) -> int:
    cfg: ModelConfig = model.cfg
    kind = "cuda" if model.W_E.is_cuda else "cpu"
    return max(1, numbers[kind] // max(cfg.d_mlp, 3 * cfg.n_heads * cfg.d_head))
