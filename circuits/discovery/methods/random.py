"""No method at all: what others are compared with."""

from __future__ import annotations

import numpy as np

from circuits.discovery.edge_estimates import both_runs, source_sites
from circuits.discovery.search import Scored, Search, at_once, discovery, merged
from circuits.sweep.values import Reference


@discovery(note="by chance, the null")
def random(search: Search) -> Scored:
    """By chance: the scores are random numbers, the null that a method has to beat."""
    draws = np.random.default_rng(search.seed).standard_normal(len(search.parts))
    so_far = None
    for prompts in search.blocks:
        sweep = search.ask(prompts)
        reference = Reference(
            search.model, sweep.source, source_sites(search.model, sweep, search.scored)
        )
        labels = prompts.labels(search.how.label)
        step = at_once(search, prompts.tokens.shape[1])
        for first in range(0, len(prompts), step):
            rows = slice(first, min(first + step, len(prompts)))
            runs = both_runs(search.model, sweep, rows, reference)
            edges = runs.base + draws[:, None]
            values = np.concatenate([runs.base[None], runs.other[None], edges])
            so_far = merged(search, so_far, values, None if labels is None else labels[rows])
    assert so_far is not None
    return Scored(so_far)
