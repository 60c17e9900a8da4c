"""The cross-entropy of the scored tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import NOT_NEGATIVE
from circuits.metrics.base import metric
from circuits.metrics.reading import per_prompt, scored, target_log_probs

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="nats per token",
    higher_is_better=False,
    needs=("targets",),
    positions=scored,
    scale=NOT_NEGATIVE,
)
def loss(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """How surprised is the model by the scored tokens (their mean)?"""
    return per_prompt(-target_log_probs(logits, prompts), scored(prompts))
