"""The probability of the right tokens less that of the wrong ones (Hanna et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import SHARE
from circuits.metrics.base import metric
from circuits.metrics.reading import end, set_probs, sets

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="probability", higher_is_better=True, needs=("sets",), positions=end, scale=SHARE.change
)
def prob_diff(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """How much more probable are the right tokens than the wrong ones?

    Where there are several of either, their probabilities are summed: any of them counts.
    """
    probs = logits.softmax(-1)
    right, wrong = (set_probs(probs, tokens) for tokens in sets(prompts))
    return right - wrong
