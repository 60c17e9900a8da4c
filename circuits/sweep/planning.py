"""The least work that answers a sweep: which cells run together, on which prompts, in which order.

A cell enters at the point of its earliest write and runs from the first position that changes to
the last one that is read. Cells are packed into tasks by their point of entry, so that what runs
together needs the same layers; a task's rows are bounded by what is fastest and by the memory that
may be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuits.arrays import Ints
from circuits.memory import tensor_bytes, within
from circuits.sweep.cells import Sweep, Write
from circuits.sweep.circuit_planning import plan_circuits
from circuits.sweep.circuit_sweep import CircuitSweep
from circuits.sweep.edits import SLOTS, Stage, needed_sites, point
from circuits.sweep.engine import runner_of
from circuits.sweep.pilot import row_bytes
from circuits.sweep.plans import Allowance, Plan, Task, answer_bytes, default_memory, rows_at_once
from circuits.sweep.routes import Routes

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.model import HookedModel


def plan(
    model: HookedModel, sweep: Sweep | CircuitSweep, *, memory: int | str | None = None
) -> Plan:
    """What is the least work for this sweep, and what will it cost?

    `memory` bounds the tensors that are alive at the same time besides the weights: bytes, or a
    text such as "4G". What a row takes is measured by running a block.

    >>> import circuits
    >>> from circuits.components import all_heads
    >>> from circuits.metrics import get_metric
    >>> from circuits.prompts import make
    >>> from circuits.sweep import Source, cell
    >>> model = circuits.load("sort-abc")
    >>> prompts = make("sorting", model, 4)
    >>> cells = tuple(cell(head) for head in all_heads(model.cfg))
    >>> source = Source("mean", prompts.tokens, prompts.mask)
    >>> made = plan(model, Sweep(prompts, get_metric("logit_diff"), cells, source))
    >>> made.n_cells, made.forwards, made.work < made.forwards
    (9, 36, True)

    Raises:
        CircuitsError: for parts that do not exist, and a budget too small for a single sequence.
    """
    if isinstance(sweep, CircuitSweep):
        return plan_circuits(model, sweep, memory)
    routes = Routes(model, sweep)
    cost = _Cost(model, routes)
    with within(model, memory):
        per_row = row_bytes(model, routes.width)
    limits = _Limits.of(model, cost, per_row, memory)
    tasks: list[Task] = []
    order = sorted(range(len(sweep.cells)), key=lambda i: routes.routes[i].entry or (-1, Stage.PRE))
    for first in range(0, len(sweep.prompts), limits.prompts):
        last = min(first + limits.prompts, len(sweep.prompts))
        tasks += _pack(routes, cost, limits, order, first, last)
    rows = sum(task.work for task in tasks) + cost.base_rows
    largest = max((_task_bytes(task, routes, cost, per_row) for task in tasks), default=0.0)
    return Plan(
        routes,
        tuple(tasks),
        forwards=len(sweep.cells) * len(sweep.prompts),
        work=rows / cost.forward_rows,
        rows=rows,
        bytes=int(limits.prompts * cost.prompt_bytes + max(largest, limits.base_bytes)),
        allowance=Allowance.of(limits.budget, cost.token_bytes + per_row),
    )


class _Cost:
    """What cells and prompts cost, in rows through one block and in bytes."""

    def __init__(self, model: HookedModel, routes: Routes) -> None:
        cfg, metric = model.cfg, routes.sweep.metric
        self.routes, self.n_layers, self.width = routes, cfg.n_layers, routes.width
        self.n_prompts = len(routes.sweep.prompts)
        self.passes_whole = runner_of(model).passes_whole
        self.anew = routes.sweep.hold == "heads"  # MLPs between sender and receiver
        size = model.W_E.element_size()
        inner = cfg.n_heads * cfg.d_head
        self.key_bytes = 2 * 2 * inner * size  # keys and values, and their copy with the prefix
        block = 4 * cfg.d_model * inner + 2 * cfg.d_model * cfg.d_mlp
        self.after_mid = 2 * cfg.d_model * cfg.d_mlp / block
        self.only_keys = 3 * cfg.d_model * inner / block
        self.reads = int(routes.reads.sum(1).max())
        tokens = None if metric.tokens is None else metric.tokens(routes.sweep.prompts)
        vocabulary = cfg.d_vocab if tokens is None else tokens.shape[1]
        if metric.readout is not None:
            vocabulary = len(model.require_readout(metric.readout).labels)
        self.per_read = cfg.d_model * vocabulary / block
        self.forward_rows = self.width * (self.n_layers + cfg.d_model * cfg.d_vocab / block)
        compares = routes.sweep.clean is not None and "clean" in metric.needs
        runs = 1 + (routes.sweep.source.rule.needs != "nothing") + compares
        self.base_rows = float(runs * self.n_prompts * self.width * self.n_layers)
        # Logits, their log-probabilities and the clean run's.
        logits = 3 * self.reads * (vocabulary + cfg.d_model) * max(size, 4)
        base, source = routes.base_sites(), needed_sites(routes.writes, cfg)[1]
        # Queries, keys and values of a layer are parts of one tensor.
        sites, qkv = base | source, ("_q", "_k", "_v")
        shared = {site.rpartition("hook_")[0] for site in sites if site.endswith(qkv)}
        others = sum(_numbers(site, cfg, self.width) for site in sites if not site.endswith(qkv))
        floats = (others + 3 * len(shared) * inner) * self.width * size
        floats *= 2 if routes.sweep.source.rule.row_by_row else 1
        self.prompt_bytes = floats + logits
        # What is made for a cell alone, at every position; and what is on the way to a receiver.
        self.made_bytes = {
            write: self.width * size * (cfg.d_model if write.target.head is None else cfg.d_head)
            for write in routes.writes
            if write.senders or write.target.slot in SLOTS
        }
        if any(write.senders for write in routes.writes):
            self.prompt_bytes += 6 * cfg.d_model * self.width * size
        # Of a set that is read: all sites, and of each what is real, in float32 at least.
        width = routes.sweep.source.tokens.shape[1]
        numbers = [_numbers(site, cfg, width) for site in source]
        self.token_bytes = (sum(numbers) + 3 * max(numbers, default=0)) * max(size, 4)
        # Held patterns are taken out of the base run's for each row.
        self.pattern_bytes = cfg.n_heads * self.width * size if routes.sweep.freeze else 0

    def cell_work(self, cell: int, widths: Ints) -> float:
        """Rows through one block that this cell needs; the last block runs at the reads only."""
        entry = self.routes.routes[cell].entry
        if entry is None:
            return 0.0
        if self.passes_whole:
            receivers = sum(bool(write.senders) for write in self.routes.routes[cell].writes)
            passes = 1.0 + receivers * (2 if self.anew else 1)
            return len(widths) * self.width * self.n_layers * passes
        layer, stage = entry
        rows, read_rows = int(widths.sum()), int((widths > 0).sum()) * self.reads
        blocks = self.n_layers - 1 - layer
        between = 0.0
        if self.anew:
            between = self._between(self.routes.routes[cell].writes, rows, read_rows)
        if blocks < 0 or (blocks == 0 and stage is Stage.MID):
            return between + read_rows * (self.per_read + (self.after_mid if blocks == 0 else 0))
        skipped = (1 - self.after_mid) if stage is Stage.MID else 0
        whole_rows = rows * (blocks - skipped + self.only_keys)
        return between + whole_rows + read_rows * (1 + self.per_read)

    def _between(self, writes: Iterable[Write], rows: int, read_rows: int) -> float:
        """Rows through one block that the MLPs between senders and receivers are worth."""
        mlps = 0
        for write in writes:
            first = min((sender.layer or 0 for sender in write.senders), default=self.n_layers)
            n = max(0, point(write, self.n_layers)[0] - first)
            mlps += n * (read_rows if write.target.kind == "logits" else rows)
        return mlps * self.after_mid

    def cell_bytes(self, cell: int, widths: Ints, per_row: float) -> float:
        """Bytes of this cell's sequences while they run."""
        start = self.routes.routes[cell].start
        prefixed = int((widths > 0).sum()) if (start[start < self.width] > 0).any() else 0
        rows = widths.sum() * (per_row + self.pattern_bytes)
        made = sum(self.made_bytes.get(write, 0) for write in self.routes.routes[cell].writes)
        return float(rows + prefixed * self.width * self.key_bytes + len(widths) * made)


def _numbers(site: str, cfg: ModelConfig, width: int) -> int:
    """How many numbers pass a site at each position, queries, keys or values alone."""
    if site.endswith("hook_pattern"):
        return cfg.n_heads * width
    return cfg.d_mlp if site.endswith("hook_post") else cfg.d_model


def _task_bytes(task: Task, routes: Routes, cost: _Cost, per_row: float) -> float:
    widths = ((cell, routes.widths(cell, task.first, task.last)) for cell in task.cells)
    return sum(cost.cell_bytes(cell, width, per_row) for cell, width in widths)


@dataclass(frozen=True)
class _Limits:
    """How much may run at once: prompts, rows in one matrix, bytes of sequences.

    `row_bytes` is what a row takes, `base_bytes` what the base run takes while it runs, `budget`
    what all may take.
    """

    prompts: int
    rows: int
    bytes: float
    row_bytes: float
    base_bytes: float
    budget: int

    @classmethod
    def of(
        cls, model: HookedModel, cost: _Cost, per_row: float, memory: int | str | None
    ) -> _Limits:
        """The limits that a budget sets, or without one what is fastest.

        Raises:
            CircuitsError: for a budget too small for one prompt in one cell.
        """
        rows = rows_at_once(model, cost.n_prompts * cost.width, per_row)
        per_sequence = cost.width * (per_row + cost.pattern_bytes + cost.key_bytes)
        per_sequence += max(cost.made_bytes.values(), default=0)
        least = int(cost.prompt_bytes + per_sequence) + 1
        what = f"one prompt of {cost.width} tokens in one cell takes"
        answers = answer_bytes(len(cost.routes.sweep.cells), cost.n_prompts)
        budget = tensor_bytes(memory, default_memory(model), least + answers, what) - answers
        per_prompt = max(cost.prompt_bytes, cost.width * per_row)
        prompts = max(1, min(int(budget / 2 / per_prompt), rows // cost.width, cost.n_prompts))
        left = max(per_sequence, budget - prompts * cost.prompt_bytes)
        return cls(prompts, rows, left, per_row, prompts * cost.width * per_row, budget)


def _pack(
    routes: Routes, cost: _Cost, limits: _Limits, order: Sequence[int], first: int, last: int
) -> list[Task]:
    """Cells in the order of their entries, as many in a task as the limits let."""
    tasks: list[Task] = []
    cells: list[int] = []
    work, rows, used = 0.0, 0, 0.0
    for cell in order:
        widths = routes.widths(cell, first, last)
        size = cost.cell_bytes(cell, widths, limits.row_bytes)
        if cells and (rows + widths.sum() > limits.rows or used + size > limits.bytes):
            tasks.append(Task(first, last, tuple(cells), work))
            cells, work, rows, used = [], 0.0, 0, 0.0
        cells.append(cell)
        work += cost.cell_work(cell, widths)
        rows += int(widths.sum())
        used += size
    if cells:
        tasks.append(Task(first, last, tuple(cells), work))
    return tasks
