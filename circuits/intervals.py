"""Intervals of means that suit what the numbers can be.

The mean of numbers of any size gets Student's t. That of zeros and ones gets Wilson's interval
(1927), and a mean difference between two of them on the same prompts the adjusted interval of
Bonett & Price (2012): with t, a few prompts that all agree would look certain. No interval leaves
the numbers that there are, which costs no coverage, since the truth is among them.

Shapes: [...] means, k groups of draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.errors import CircuitsError

Numbers = NDArray[np.float64]
Ends = tuple[Numbers, Numbers, Numbers]  # standard error, lower and upper end of the interval


@dataclass(frozen=True)
class Scale:
    """The numbers that a draw (a prompt, say) can be: from `low` to `high`, if `counted` integers.

    >>> RIGHT_OR_WRONG.change
    Scale(low=-1, high=1, counted=True)
    """

    low: float = -math.inf
    high: float = math.inf
    counted: bool = False

    @property
    def change(self) -> Scale:
        """The scale of the difference between two of them."""
        return Scale(self.low - self.high, self.high - self.low, self.counted)

    def require(self, values: NDArray[Any]) -> None:
        """Refuse numbers that are not of the scale's kind.

        Raises:
            CircuitsError: for fractions on a scale of integers.
        """
        if self.counted and not np.array_equal(values, np.round(values)):
            raise CircuitsError(
                f"numbers from {self.low:g} to {self.high:g} are counted here, and some given are "
                "not whole; give each draw's own, not a mean of several"
            )


REAL = Scale()
NOT_NEGATIVE = Scale(low=0)
SHARE = Scale(0, 1)
RIGHT_OR_WRONG = Scale(0, 1, counted=True)


@dataclass(frozen=True, eq=False)
class Draws:
    """The numbers that means are of: `values` [... n] on a `scale`, n of them to each mean.

    Where not draws but groups of them are independent, `groups` [n] says which group each is of.
    """

    values: NDArray[np.floating[Any]]
    scale: Scale = REAL
    groups: tuple[str, ...] | None = None

    def of_each(self) -> NDArray[np.object_]:
        """Those of each mean by itself: an array [...] of `Draws`.

        >>> [draws.values.tolist() for draws in Draws(np.array([[1, 3], [2, 4]])).of_each()]
        [[1, 3], [2, 4]]
        """
        each = np.empty(self.values.shape[:-1], dtype=object)
        for place in np.ndindex(each.shape):
            each[place] = replace(self, values=self.values[place])
        return each


def ends(
    mean: Numbers, squares: Numbers, n: int, scale: Scale = REAL, confidence: float = 0.95
) -> Ends:
    """The standard error of means [...] over n draws, and both ends of their intervals.

    `squares` [...] are the sums of squared deviations from the mean. One draw has no spread: the
    standard error is NaN, and so is an interval that needs it (of zeros and ones it does not).

    >>> mean, squares = np.array([1.0]), np.array([0.0])  # ten of ten are right
    >>> [round(float(number[0]), 3) for number in ends(mean, squares, 10, RIGHT_OR_WRONG)]
    [0.0, 0.722, 1.0]
    """
    stderr = np.sqrt(squares / (n - 1) / n) if n > 1 else np.full_like(mean, np.nan)
    if scale == RIGHT_OR_WRONG:
        center, half = _wilson(mean, n, confidence)
    elif scale.counted:
        center, half = _adjusted(mean, squares, n, scale.high, confidence)
    else:
        center, half = mean, stderr * _t(confidence, n)
    return (stderr, *within(scale, mean, center - half, center + half))


def ratio_ends(
    ratio: Numbers,
    residuals: Numbers,
    lower: float,
    n: int,
    *,
    counted: bool,
    confidence: float = 0.95,
) -> Ends:
    """The same of ratios [...] of two means over n draws, the second of which is `lower`.

    `residuals` [...] are the sums of squares of what is left of each draw, upper - ratio x lower
    (the ratio estimator; Cochran 1977, 6.4). Of `counted` draws (differences of zeros and ones) two
    more are taken to have a residual of 1 and -1, as `ends` does.
    """
    stderr = np.sqrt(residuals / (n - 1) / n) / abs(lower) if n > 1 else np.full_like(ratio, np.nan)
    half = stderr * _t(confidence, n)
    if counted:
        half = _normal(confidence) * np.sqrt(residuals + 2) / (n + 2) / abs(lower)
    return stderr, ratio - half, ratio + half


def over_groups(mean: Numbers, sums: Numbers, n: int, confidence: float = 0.95) -> Ends:
    """The same where not draws but groups of draws are independent (clusters).

    `sums` [... k] are each group's sums of deviations from the mean. The variance is the
    cluster-robust one with k / (k - 1) (Liang & Zeger 1986), and the interval Student's t with
    k - 1 degrees of freedom: for groups of one size, that of the mean of the group means.

    Raises:
        CircuitsError: for less than two groups.
    """
    k = sums.shape[-1]
    if k < 2:
        raise CircuitsError(f"{k} group of draws has no spread over groups; give at least two")
    stderr = np.sqrt(np.square(sums).sum(-1) * k / (k - 1)) / n
    half = stderr * student_t(confidence, k - 1)
    return stderr, mean - half, mean + half


def grouped(
    mean: Numbers, sums: Numbers, n: int, scale: Scale, alone: Ends, confidence: float = 0.95
) -> Ends:
    """`over_groups` on a scale. `alone` is what `ends` says of the same means.

    Groups that all agree make zeros and ones no more certain than their number does: there the
    interval is never narrower than that of single draws.
    """
    stderr, low, high = over_groups(mean, sums, n, confidence)
    if scale.counted:
        low, high = np.minimum(low, alone[1]), np.maximum(high, alone[2])
    return (stderr, *within(scale, mean, low, high))


def within(scale: Scale, mean: Numbers, low: Numbers, high: Numbers) -> tuple[Numbers, Numbers]:
    """The same ends, none beyond the numbers that there are, and the mean between them."""
    # Rounding may leave a mean a little outside.
    return (
        np.minimum(np.maximum(low, scale.low), mean),
        np.maximum(np.minimum(high, scale.high), mean),
    )


def group_sums(values: NDArray[np.floating[Any]], groups: Sequence[str]) -> Numbers:
    """Each group's sum of deviations from the mean of all: [... n] -> [... k].

    >>> group_sums(np.array([1.0, 2.0, 6.0]), ["a", "a", "b"])
    array([-3.,  3.])
    """
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    belongs = index[:, None] == np.arange(index.max() + 1)
    sums: Numbers = (values - values.mean(-1, keepdims=True)) @ belongs.astype(float)
    return sums


def _wilson(mean: Numbers, n: int, confidence: float) -> tuple[Numbers, float | Numbers]:
    """Wilson's interval of a share: its middle and half its width."""
    z2 = _normal(confidence) ** 2
    spread = np.sqrt(np.maximum(mean * (1 - mean), 0) / n + z2 / (4 * n**2))
    return (mean + z2 / (2 * n)) / (1 + z2 / n), math.sqrt(z2) / (1 + z2 / n) * spread


def _adjusted(
    mean: Numbers, squares: Numbers, n: int, step: float, confidence: float
) -> tuple[Numbers, Numbers]:
    """Middle and half the width, as if two more draws had the largest and the smallest number."""
    total = squares + n * mean**2 + 2 * step**2
    center = n * mean / (n + 2)
    return center, _normal(confidence) * np.sqrt((total / (n + 2) - center**2) / (n + 2))


def _normal(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _t(confidence: float, n: int) -> float:
    """Student's t for the mean of n draws, which one draw does not have."""
    return student_t(confidence, n - 1) if n > 1 else math.nan


@lru_cache
def student_t(confidence: float, degrees: int) -> float:
    """Within how many standard errors the mean lies, at this confidence.

    With t = sqrt(degrees) tan(angle), the density of t becomes cos(angle)^(degrees - 1), which is
    smooth and is integrated numerically, to six digits.

    >>> [round(student_t(0.95, degrees), 3) for degrees in (1, 10, 10**6)]
    [12.706, 2.228, 1.96]
    """
    widest = min(math.pi / 2, 40 / math.sqrt(degrees))
    angles = np.linspace(0, widest, 100_001)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(confidence, mass / mass[-1], angles)))
