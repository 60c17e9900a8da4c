"""How far a prediction moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import NOT_NEGATIVE
from circuits.metrics.base import metric
from circuits.metrics.reading import divergence, per_prompt, scored_and_end

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="nats",
    higher_is_better=False,
    needs=("clean",),
    positions=scored_and_end,
    scale=NOT_NEGATIVE,
)
def kl(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """How far is the prediction from the clean run's, KL(clean || edited)?"""
    assert clean is not None
    moved = divergence(clean.log_softmax(-1), logits.log_softmax(-1))
    return per_prompt(moved, scored_and_end(prompts))
