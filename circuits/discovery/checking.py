"""How well estimates agree with exact patching: of the largest parts, and of some at random.

Shapes: s parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from circuits.agreement import pearson, spearman
from circuits.arrays import Floats
from circuits.discovery.patching import sweep_over
from circuits.discovery.search import Search
from circuits.sweep.survey import How, survey

MATTERS = 0.05  # of the whole effect: what a part that is missed does at least


@dataclass(frozen=True)
class Checked:
    """What exact patching says of some parts.

    Attributes:
        index: which parts, by their places in the search.
        exact: their effects; `low` and `high` are the ends of the 95 % intervals.
        pearson: correlation of estimates and exact effects; `spearman`, of their ranks.
        same_sign: share of those whose exact effect is not zero that have the sign of it.
        missed: which of them do much (`MATTERS`) and have an estimate of less than a tenth of that.
    """

    index: list[int]
    exact: Floats
    low: Floats
    high: Floats
    pearson: float
    spearman: float
    same_sign: float
    missed: list[int]


def checked(search: Search, estimates: Floats, n: int | Literal["all"]) -> Checked:
    """Patch the `n` largest parts and as many others at random, or all, and compare.

    `estimates` [s] are in the order of ``search.parts``. The largest alone would tell how wrong
    they are, but not whether a small one hides an effect.
    """
    order = np.argsort(-np.abs(estimates), kind="stable")
    index = order.tolist()
    if n != "all":
        rest = np.random.default_rng(search.seed).permutation(order[n:])[:n]
        index = [*order[:n].tolist(), *sorted(rest.tolist())]
    ask = sweep_over(search, [search.parts[i] for i in index])
    how = How(memory=search.how.memory, progress=search.how.progress)
    moments = survey(search.model, search.blocks, ask, how, full=1)
    columns = moments.interval()
    exact, whole = moments.effect[2:], abs(float(moments.effect[1]))
    known = estimates[index]
    moving = exact != 0
    missed = (np.abs(exact) >= MATTERS * whole) & (np.abs(known) < np.abs(exact) / 10)
    return Checked(
        index,
        exact,
        columns["ci_low"][2:],
        columns["ci_high"][2:],
        pearson(known, exact),
        spearman(known, exact),
        float(np.mean(np.sign(known[moving]) == np.sign(exact[moving])))
        if moving.any()
        else np.nan,
        [i for i, is_missed in zip(index, missed, strict=True) if is_missed],
    )
