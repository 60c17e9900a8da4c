"""No method at all: what others are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.discovery.edge_estimates import both_runs
from circuits.discovery.search import Scored, Search, discovery, in_batches

if TYPE_CHECKING:
    from circuits.arrays import Floats
    from circuits.sweep import CircuitSweep
    from circuits.sweep.values import Reference


@discovery(note="by chance, the null")
def random(search: Search) -> Scored:
    """By chance: the scores are random numbers, the null that a method has to beat."""
    draws = np.random.default_rng(search.seed).standard_normal(len(search.parts))

    def values(sweep: CircuitSweep, rows: slice, reference: Reference) -> Floats:
        runs = both_runs(search.model, sweep, rows, reference)
        return np.concatenate([runs.base[None], runs.other[None], runs.base + draws[:, None]])

    return Scored(in_batches(search, values))
