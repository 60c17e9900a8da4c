"""The plan of circuits that run alone: how many go through the model together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.arrays import Bools
from circuits.circuit import graph
from circuits.memory import tensor_bytes
from circuits.sweep.circuit_signs import Standing
from circuits.sweep.circuit_sweep import CircuitRoutes, CircuitSweep
from circuits.sweep.plans import Allowance, Plan, Task, answer_bytes, default_memory, fastest_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from circuits.config import ModelConfig
    from circuits.model import HookedModel
    from circuits.sweep.circuit_sweep import CircuitCell

# What it costs to write, normalize and read a number of a stream, in multiplications: measured.
PASSES = 300
# What a layer's calls cost, however little they compute, in multiplications: measured.
CALLS = 2**25


def plan_circuits(model: HookedModel, sweep: CircuitSweep, memory: int | str | None = None) -> Plan:
    """Circuits of similar size together, as many as are fastest and as memory lets.

    Raises:
        CircuitsError: for a budget too small for one prompt in one circuit.
    """
    cfg, (n, width) = model.cfg, sweep.prompts.tokens.shape
    size = model.W_E.element_size()
    base_bytes, circuit_bytes = (width * numbers * size for numbers in _numbers(cfg))
    least = base_bytes + circuit_bytes
    what = f"one prompt of {width} tokens in one circuit takes"
    answers = answer_bytes(len(sweep.cells), n)
    budget = tensor_bytes(memory, default_memory(model), least + answers, what) - answers
    routes = CircuitRoutes(sweep)
    followed = routes.followed.sum(1)
    longest = max(1, int(followed.max()))
    rows = max(longest, fastest_rows(model))
    prompts = max(1, min(budget // (2 * least), rows // longest, n))
    left = budget - prompts * base_bytes
    fitting = min(left // (prompts * circuit_bytes), rows // (prompts * longest))
    at_once = max(1, min(fitting, len(sweep.cells)))
    per_token = _relative(cfg) * cfg.n_layers  # in a circuit whose readers all read something new
    tasks = []
    for first in range(0, n, prompts):
        last = min(first + prompts, n)
        n_tokens = max(1, int(followed[first:last].sum()))
        calls = cfg.n_layers * CALLS / (n_tokens * per_token * _block(cfg))
        for cells, circuits in _groups(routes, at_once, calls):
            tasks.append(Task(first, last, cells, n_tokens * circuits * per_token))
    runs = 1 + (sweep.source.rule.needs != "nothing")
    work = sum(task.work for task in tasks) + runs * n * width * cfg.n_layers
    return Plan(
        routes,
        tuple(tasks),
        forwards=len(sweep.cells) * n,
        work=work / (width * cfg.n_layers),
        rows=work,
        bytes=prompts * (base_bytes + at_once * circuit_bytes),
        allowance=Allowance.of(budget, 2 * base_bytes / width),
    )


def _groups(
    routes: CircuitRoutes, at_once: int, calls: float
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Cells that go together, and the circuits that this costs, whose readers all read something.

    What reads something new in one of them is computed in all. So circuits of similar size go
    together, unless that costs more than `calls`, the circuits that a pass of their own costs. One
    by one they go in the order of their edges, so that each has much in common with the one before.
    """
    cells, copies = routes.sweep.cells, routes.sweep.source.rule.copies
    if at_once == 1:
        yield from _one_by_one(cells, copies)
        return
    order = sorted(range(len(cells)), key=lambda cell: _n_edges(cells[cell]))
    group: list[int] = []
    union, cost = np.zeros(1, dtype=bool), 0.0
    for cell in order:
        moving = _moving(cells[cell], copies)
        wider = union | moving
        n_circuits = sum(bool(cells[each]) for each in (*group, cell))
        together = n_circuits * float(wider.mean())
        alone = float(moving.mean())
        if group and (len(group) == at_once or together > cost + alone + calls):
            yield tuple(group), cost
            group, wider, together = [], moving, alone
        group.append(cell)
        union, cost = wider, together
    if group:
        yield tuple(group), cost


def _one_by_one(
    cells: Sequence[CircuitCell], copies: bool
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Each cell by itself, and how much of a circuit is computed anew for it."""
    standing: Standing | None = None
    for cell in sorted(range(len(cells)), key=lambda cell: _edges(cells[cell])):
        moving = _moving(cells[cell], copies)
        for kept in cells[cell]:
            known = kept.signs(copies=copies)
            standing = standing or Standing(len(known.writes), 1)
            anew, _ = standing.anew([known])
            moving = moving & [owner is None or owner in anew for owner in kept.graph.writer_of]
        yield (cell,), float(moving.mean())


def _n_edges(cell: CircuitCell) -> int:
    return sum(int(kept.anywhere.sum()) for kept in cell)


def _edges(cell: CircuitCell) -> bytes:
    """Its edges in the order in which they are computed."""
    return b"".join(np.packbits(kept.anywhere).tobytes() for kept in cell)


def _moving(cell: CircuitCell, copies: bool) -> Bools:
    """Which readers read something new in this cell; none in the whole model."""
    reads = [kept.signs(copies=copies).reads for kept in cell]
    return np.logical_or.reduce(reads) if reads else np.zeros(1, dtype=bool)


def run_bytes(model: HookedModel, width: int) -> int:
    """What both runs of a prompt of this width keep."""
    return width * _numbers(model.cfg)[0] * model.W_E.element_size()


def _numbers(cfg: ModelConfig) -> tuple[int, int]:
    """Numbers alive for each token: of the two runs and what is kept of them; of each circuit."""
    inner, n_inputs = cfg.n_heads * cfg.d_head, 3 * cfg.n_heads
    runs = cfg.n_layers * (6 * inner + 6 * cfg.d_model) + 4 * cfg.d_model
    # Streams and what their norm writes; or that, some of it in another order, and projections.
    mixed = max(2 * n_inputs, n_inputs + cfg.n_heads) * cfg.d_model + 4 * inner
    circuit = len(graph(cfg).writers) * cfg.d_model + max(mixed, 2 * cfg.d_mlp + 4 * cfg.d_model)
    return runs, circuit


def _relative(cfg: ModelConfig) -> float:
    """What a circuit costs, relative to a plain pass through the blocks."""
    streams = 3 * cfg.n_heads * cfg.d_model
    mixing = (float(np.mean(graph(cfg).n_before)) + PASSES) * streams
    return 1.0 + mixing / _block(cfg)


def _block(cfg: ModelConfig) -> int:
    """The multiplications of a token in a block."""
    return 4 * cfg.d_model * cfg.n_heads * cfg.d_head + 2 * cfg.d_model * cfg.d_mlp
