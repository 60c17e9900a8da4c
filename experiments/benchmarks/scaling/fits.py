"""With which power of the size does a cost grow, and how sure is that?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENDLESS = 1e15  # what reaches a bound only beyond this size is flat


@dataclass(frozen=True)
class Fit:
    """The line cost = factor · size^exponent.

    Attributes:
        exponent: the slope of the line through the logarithms, by least squares.
        stderr: its standard error from what the points are off the line; None for two points.
        off: by what factor the point that is farthest from the line is above or below it.
        last: the slope between the two largest sizes, where constants matter least.
        factor: the cost at size 1, if the line reached so far.
    """

    exponent: float
    stderr: float | None
    off: float
    last: float
    factor: float

    def at(self, size: float) -> float:
        """What the line says of this size."""
        return float(self.factor * size**self.exponent)


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Fit | None:
    """The line through these points; None for fewer than two sizes, or costs that are not above 0.

    >>> line = fit([1, 10, 100], [3, 300, 30000])
    >>> round(line.exponent, 3), round(line.factor, 3), round(line.off, 3)
    (2.0, 3.0, 1.0)
    """
    if len(set(sizes)) < 2 or min(costs) <= 0 or min(sizes) <= 0:
        return None
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    spread = np.square(x - x.mean()).sum()
    exponent = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    left = y - y.mean() - exponent * (x - x.mean())
    free = len(x) - 2
    order = np.argsort(x)[-2:]
    return Fit(
        exponent=exponent,
        stderr=float(np.sqrt(np.square(left).sum() / free / spread)) if free else None,
        off=float(np.exp(np.abs(left).max())),
        last=float(np.diff(y[order])[0] / np.diff(x[order])[0]),
        factor=float(np.exp(y.mean() - exponent * x.mean())),
    )


def reaches(sizes: Sequence[float], costs: Sequence[float], most: float) -> float | None:
    """At which size does the cost reach `most`, if it goes on as between the two largest sizes?

    What is there already is told from the points themselves. None where it does not, or only beyond
    the size `ENDLESS`.

    >>> round(reaches([1, 2, 4], [10, 20, 40], 100))
    10
    """
    line = fit(sizes, costs)
    if line is None:
        return None
    order = np.argsort(sizes)
    size, cost = sizes[order[-1]], costs[order[-1]]
    if cost >= most:
        over = [s for s, c in zip(sizes, costs, strict=True) if c >= most]
        return float(min(over))
    if line.last <= 0:
        return None
    steps = np.log(most / cost) / line.last
    return float(size * np.exp(steps)) if steps < np.log(ENDLESS / size) else None
