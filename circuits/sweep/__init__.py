"""Sweeps: many interventions on the same prompts, without computing anything twice.

A `Sweep` says what is written where (its cells) and what is measured; `plan` finds the least work
for it, and `run` does it. Everything equals one plain forward pass for each cell. A `CircuitSweep`
asks what circuits do alone; it is planned and run in the same way.
"""

from circuits.interventions import Source
from circuits.memory import parse_bytes
from circuits.sweep.cells import Cell, Hold, Sweep, Write, cell, check_cell, name
from circuits.sweep.circuit_sweep import CircuitSweep, Elsewhere, Kept
from circuits.sweep.execute import Executor, Scores, TaskScores, logits, run
from circuits.sweep.planning import plan
from circuits.sweep.plans import Plan, Task, estimate

__all__ = [
    "Cell",
    "CircuitSweep",
    "Elsewhere",
    "Executor",
    "Hold",
    "Kept",
    "Plan",
    "Scores",
    "Source",
    "Sweep",
    "Task",
    "TaskScores",
    "Write",
    "cell",
    "check_cell",
    "estimate",
    "logits",
    "name",
    "parse_bytes",
    "plan",
    "run",
]
