"""How much would two circuits of these sizes share, were they drawn at random?"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Chance:
    """What two random circuits share.

    Attributes:
        n_both: how many parts, on average.
        jaccard: their Jaccard index, on average; NaN if both are empty.
        p_value: how likely they share at least as many as were seen.
    """

    n_both: float
    jaccard: float
    p_value: float


def chance(n_parts: int, n_a: int, n_b: int, n_both: int) -> Chance:
    """What would two random circuits of `n_a` and `n_b` of these parts share?

    The number x of shared parts is hypergeometric, P(x) = C(n_a, x) C(n_parts - n_a, n_b - x) /
    C(n_parts, n_b). It is counted in whole numbers, and so exact; `n_both` is what was seen.

    >>> at_random = chance(4, 2, 2, 2)  # of six pairs one is the same, four share a part, one none
    >>> at_random.n_both, round(at_random.jaccard, 4), round(at_random.p_value, 4)
    (1.0, 0.3889, 0.1667)
    """
    total = math.comb(n_parts, n_b)
    first, last = max(0, n_a + n_b - n_parts), min(n_a, n_b)
    ways, as_many, jaccards = math.comb(n_a, first) * math.comb(n_parts - n_a, n_b - first), 0, []
    for x in range(first, last + 1):
        if x >= n_both:
            as_many += ways
        if n_a + n_b:
            jaccards.append(ways / total * (x / (n_a + n_b - x)))
        # From C(n_a, x) C(n_parts - n_a, n_b - x) to the same of x + 1; it leaves no remainder.
        left = (x + 1) * (n_parts - n_a - n_b + x + 1)
        ways = ways * (n_a - x) * (n_b - x) // left
    jaccard = math.fsum(jaccards) if jaccards else math.nan
    return Chance(n_a * n_b / n_parts, jaccard, as_many / total)
