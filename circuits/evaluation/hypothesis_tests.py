"""Tests of hypotheses: how likely is what was seen, if chance alone were at work?

Shapes: n draws, k hypotheses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from circuits.arrays import Floats

ALPHA = 0.05
QUANTILE = 0.9  # of random circuits or edges that have to be beaten (Shi et al. 2024)
PERMUTATIONS = 2000


def at_least(k: int, n: int, chance: float) -> float:
    """How likely k or more of n draws succeed, where each does with this chance.

    >>> round(at_least(9, 10, 0.5), 4)
    0.0107
    """
    return min(1.0, math.fsum(_binomial(i, n, chance) for i in range(k, n + 1)))


def at_most(k: int, n: int, chance: float) -> float:
    """How likely k or fewer of n draws succeed, where each does with this chance.

    >>> round(at_most(1, 10, 0.5), 4)
    0.0107
    """
    return min(1.0, math.fsum(_binomial(i, n, chance) for i in range(k + 1)))


def _binomial(k: int, n: int, chance: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(chance) + (n - k) * math.log1p(-chance))


def holm(p_values: Floats) -> Floats:
    """The p-values [k] corrected for there being k of them (Holm 1979).

    Whoever rejects those below alpha errs in any of them with a chance of alpha at most, however
    they depend on each other. NaN, where nothing was tested, stays and does not count.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    times = len(order) - np.arange(len(order))
    corrected: Floats = np.full(len(p_values), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * times))
    return corrected


class Dependence(NamedTuple):
    """How much two numbers depend on each other: HSIC, and how often chance has as much."""

    hsic: float
    p_value: float


def dependence(
    x: Floats, y: Floats, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> Dependence:
    """Do two numbers [n] of the same draws depend on each other, in whatever way?

    The Hilbert-Schmidt independence criterion (Gretton et al. 2007), tr(K H L H) / (n - 1)^2 with
    Gaussian kernels, each as wide as the median distance of its numbers, and the share of random
    orders of y with at least as much, itself counted.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=60)
    >>> dependence(x, x**2, rng).p_value < 0.01 < dependence(x, rng.normal(size=60), rng).p_value
    True
    """
    n = len(x)
    first, second = (_centered(_kernel(values)) for values in (x, y))
    seen = float((first * second).sum())
    as_much = 0
    for _ in range(permutations):
        order = rng.permutation(n)
        as_much += float((first * second[np.ix_(order, order)]).sum()) >= seen - 1e-12 * abs(seen)
    return Dependence(seen / (n - 1) ** 2, (as_much + 1) / (permutations + 1))


def _kernel(values: Floats) -> Floats:
    distances = np.abs(values[:, None] - values)
    apart = distances[np.triu_indices(len(values), 1)]
    width = float(np.median(apart)) or float(apart.max()) or 1.0
    kernel: Floats = np.exp(-np.square(distances / width) / 2)
    return kernel


def _centered(kernel: Floats) -> Floats:
    rows = kernel.mean(0)
    centered: Floats = kernel - rows - rows[:, None] + rows.mean()
    return centered


def beyond(value: float, others: Floats) -> float:
    """How likely another draw is as large as `value`, given these draws [n] of a normal one.

    Student's t of a prediction: (value - mean) / (deviation * sqrt(1 + 1/n)), with n - 1 degrees.

    >>> round(beyond(2.0, np.array([-1.0, 0.0, 1.0])), 3)
    0.113
    """
    n, deviation = len(others), float(np.std(others, ddof=1))
    if not deviation:
        return 0.0 if value > others.mean() else 1.0
    return _t_tail((value - float(others.mean())) / (deviation * math.sqrt(1 + 1 / n)), n - 1)


def _t_tail(t: float, degrees: int) -> float:
    """The chance that Student's t is at least this large.

    With t = sqrt(degrees) tan(angle), its density is cos(angle)^(degrees - 1).
    """
    angles = np.linspace(math.atan(t / math.sqrt(degrees)), math.pi / 2, 20_001)
    whole = np.linspace(-math.pi / 2, math.pi / 2, 20_001)
    above, all_ = (
        trapezoid(at, np.clip(np.cos(at), 0, None) ** (degrees - 1)) for at in (angles, whole)
    )
    return above / all_


def trapezoid(x: Floats, y: Floats) -> float:
    """The area below the straight lines between these points [k].

    >>> trapezoid(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 1.0]))
    2.5
    """
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)
