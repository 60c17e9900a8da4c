"""The plan of circuits that run alone: how many go through the model together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.circuit import graph
from circuits.errors import CircuitsError
from circuits.sweep.circuit_sweep import CircuitRoutes, CircuitSweep
from circuits.sweep.memory import parse_bytes
from circuits.sweep.plans import Plan, Task, default_memory, fastest_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from circuits.config import ModelConfig
    from circuits.model import HookedModel

# What it costs to write, normalize and read a number of a stream, in multiplications: measured.
PASSES = 300


def plan_circuits(model: HookedModel, sweep: CircuitSweep, memory: int | str | None = None) -> Plan:
    """Circuits of similar size together, as many as are fastest and as memory lets.

    Raises:
        CircuitsError: for a budget too small for one prompt in one circuit.
    """
    cfg, (n, width) = model.cfg, sweep.prompts.tokens.shape
    size = model.W_E.element_size()
    base_bytes, circuit_bytes = (width * numbers * size for numbers in _numbers(cfg))
    budget = default_memory(model) if memory is None else parse_bytes(memory)
    least = base_bytes + circuit_bytes
    if memory is not None and budget < least:
        raise CircuitsError(
            f"memory={memory} is too little: one prompt of {width} tokens in one circuit takes "
            f"{least} bytes besides the weights; give at least that"
        )
    budget = max(budget, least)
    rows = max(width, fastest_rows(model))
    prompts = max(1, min(budget // (2 * least), rows // width, n))
    left = budget - prompts * base_bytes
    fitting = min(left // (prompts * circuit_bytes), rows // (prompts * width))
    at_once = max(1, min(fitting, len(sweep.cells)))
    order = sorted(range(len(sweep.cells)), key=lambda cell: _n_edges(sweep, cell))
    per_circuit = _relative(cfg) * width * cfg.n_layers  # whose readers all read something new
    tasks = []
    for first in range(0, n, prompts):
        last = min(first + prompts, n)
        for start in range(0, len(order), at_once):
            cells = tuple(order[start : start + at_once])
            alone = (last - first) * _readers(sweep, cells) * per_circuit
            tasks.append(Task(first, last, cells, alone))
    runs = 1 + (sweep.source.rule.needs != "nothing")
    work = sum(task.work for task in tasks) + runs * n * width * cfg.n_layers
    return Plan(
        CircuitRoutes(sweep),
        tuple(tasks),
        forwards=len(sweep.cells) * n,
        work=work / (width * cfg.n_layers),
        rows=work,
        bytes=prompts * (base_bytes + at_once * circuit_bytes),
    )


def _n_edges(sweep: CircuitSweep, cell: int) -> int:
    return sum(int(kept.anywhere.sum()) for kept in sweep.cells[cell])


def _readers(sweep: CircuitSweep, cells: Sequence[int]) -> float:
    """In how many of these cells does a reader read, on average? Those that run together all do."""
    masks = [kept.anywhere.any(1) for cell in cells for kept in sweep.cells[cell]]
    return len(masks) * float(np.mean(np.logical_or.reduce(masks))) if masks else 0.0


def _numbers(cfg: ModelConfig) -> tuple[int, int]:
    """Numbers alive for each token: of the two runs, and of each circuit."""
    inner, n_inputs = cfg.n_heads * cfg.d_head, 3 * cfg.n_heads
    runs = cfg.n_layers * (4 * inner + 5 * cfg.d_model) + 4 * cfg.d_model
    # Streams and what their norm writes; or that, some of it in another order, and projections.
    mixed = max(2 * n_inputs, n_inputs + cfg.n_heads) * cfg.d_model + 4 * inner
    circuit = len(graph(cfg).writers) * cfg.d_model + max(mixed, 2 * cfg.d_mlp + 4 * cfg.d_model)
    return runs, circuit


def _relative(cfg: ModelConfig) -> float:
    """What a circuit costs, relative to a plain pass through the blocks."""
    block = 4 * cfg.d_model * cfg.n_heads * cfg.d_head + 2 * cfg.d_model * cfg.d_mlp
    streams = 3 * cfg.n_heads * cfg.d_model
    mixing = (float(np.mean(graph(cfg).n_before)) + PASSES) * streams
    return 1.0 + mixing / block
