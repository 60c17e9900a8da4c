"""Does what the circuit leaves out still know what the model does? Independence.

If the circuit is all that matters, the metric of the model without it depends no more on the metric
of the whole model, prompt by prompt. Source: Shi et al. 2024 (2410.13032, section 3.2), by HSIC
(Gretton et al. 2007).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from circuits.evaluation.evidence import Evidence, Row, verdict
from circuits.evaluation.hypothesis_tests import ALPHA, PERMUTATIONS, dependence

LEAST = 0.01  # of the whole effect: what varies less over prompts tells nothing apart
MOST_PROMPTS = 300  # the test compares each prompt with each other


def independent_rows(evidence: Evidence, complement: int, seed: int) -> Iterator[Row]:
    """HSIC between the model and the model without the circuit, whose place is `complement`.

    It passes if chance has as much in more than one of twenty orders: then nothing speaks against
    independence, which is less than proof of it.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(evidence.n)[:MOST_PROMPTS])
    whole = evidence.whole[some]
    rest = whole + evidence.effects[complement, some]
    test, what = "independence", "HSIC of the model and the model without it"
    least = LEAST * abs(float(evidence.full.mean()))
    if float(np.ptp(rest)) < least:
        says = f"without it, the metric varies by less than {LEAST:.0%} of the effect"
        yield Row(test, what, 0.0, n=len(some), p_value=1.0, verdict="yes", against=says)
        return
    if float(np.ptp(whole)) < least:
        says = "the metric of the whole model is the same on all prompts, so nothing can be told"
        yield Row(test, what, math.nan, n=len(some), against=says)
        return
    hsic, p_value = dependence(whole, rest, rng)
    yield Row(
        test,
        what,
        hsic,
        n=len(some),
        p_value=p_value,
        verdict=verdict(p_value > ALPHA),
        against=f"{PERMUTATIONS:,} random orders of the prompts; passes if p is above {ALPHA:g}",
    )
