"""The probability of the right tokens less that of the wrong ones (Hanna et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import SHARE
from circuits.metrics.base import metric
from circuits.metrics.reading import end, sets

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="probability", higher_is_better=True, needs=("sets",), positions=end, scale=SHARE.change
)
def prob_diff(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """How much more probable are the right tokens than the wrong ones?"""
    probs = logits.softmax(-1)
    sums = []
    for tokens in sets(prompts):
        assert tokens is not None
        tokens = tokens.to(logits.device)
        sums.append((probs.gather(1, tokens.clamp(min=0)) * (tokens >= 0)).sum(1))
    return sums[0] - sums[1]
