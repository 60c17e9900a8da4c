"""The probability of the scored tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import SHARE
from circuits.metrics.base import metric
from circuits.metrics.reading import per_prompt, scored, target_log_probs

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="probability", higher_is_better=True, needs=("targets",), positions=scored, scale=SHARE
)
def prob(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """How probable is the answer (the mean over scored tokens)?"""
    return per_prompt(target_log_probs(logits, prompts).exp(), scored(prompts))
