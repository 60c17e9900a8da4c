"""How well two lists of numbers about the same things agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation; NaN where a side does not vary, as for less than two numbers.

    >>> round(pearson([1.0, 2.0, 9.0], [1.0, 3.0, 4.0]), 3)
    0.826
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's: the correlation of the ranks, which are the means of ties.

    >>> spearman([1.0, 2.0, 9.0], [1.0, 3.0, 4.0])
    1.0
    """
    return pearson(*(pd.Series(np.asarray(side)).rank() for side in (x, y)))
