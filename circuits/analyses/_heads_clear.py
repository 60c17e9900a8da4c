"""When is a head clearly of a kind? Scores with their intervals, controls and chances.

Shapes: l layer, h head, n draws.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from circuits.analyses._heads_attention import Scores
from circuits.analyses._heads_kinds import Kind
from circuits.analyses._weights import ROUNDING
from circuits.result import mean_interval

Columns: TypeAlias = dict[str, NDArray[np.float64]]


def judged(kind: Kind, scores: Scores, *, draws: bool = False) -> Columns:
    """What there is to say of every head, [l h] each, and by how much it exceeds what it must.

    ``excess`` is the lower end of the score's interval minus the control or the kind's floor,
    whichever is higher; for a score that is not an average over draws, the score itself minus
    these. It is NaN, so that nothing is clear, where a single draw has no interval, where a score
    is not above what heads reach by chance, and where what else must be above 0 is not, with its
    whole interval. For `draws` see `mean_interval`.
    """
    columns = mean_interval(scores.value, scale=kind.scale, draws=draws)
    columns["control"] = scores.control.mean(-1)
    low = columns["value"] if scores.null is not None else columns["ci_low"]
    excess = low - columns["control"].clip(min=kind.floor)
    if scores.null is not None:
        columns["chance"] = scores.null
        above = columns["value"] > scores.null + ROUNDING  # 1 is often the highest there is
        excess = np.where(above, excess, np.nan)
    if scores.also is not None:
        also = mean_interval(scores.also)
        columns |= {"also": also["value"], "also_low": also["ci_low"], "also_high": also["ci_high"]}
        excess = np.where(also["ci_low"] > 0, excess, np.nan)
    return columns | {"excess": excess}


def are_clear(kind: Kind, scores: Scores) -> NDArray[np.bool_]:
    """Which heads are clearly of this kind? [l h]"""
    clear: NDArray[np.bool_] = judged(kind, scores)["excess"] > kind.margin
    return clear
