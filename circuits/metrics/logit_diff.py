"""The difference of two logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.metrics.base import metric
from circuits.metrics.reading import end, pair, sides

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(unit="logits", higher_is_better=True, needs=("distractors",), positions=end, tokens=pair)
def logit_diff(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """By how much does the answer's logit exceed the distractor's?

    Where there are several of either, any of them counts: log(sum of exp(logit)) of the right
    tokens less that of the wrong ones, which is log(P(any right) / P(any wrong)), the log odds. Of
    single tokens that is the difference of the two logits.
    """
    right, wrong = sides(logits, prompts)
    return right.logsumexp(1) - wrong.logsumexp(1)
