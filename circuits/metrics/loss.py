"""The cross-entropy of the scored tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import NOT_NEGATIVE
from circuits.metrics.base import metric
from circuits.metrics.reading import answered, per_prompt, scored, set_log_probs, target_log_probs

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="nats per token",
    higher_is_better=False,
    needs=("answers",),
    positions=answered,
    scale=NOT_NEGATIVE,
)
def loss(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """How surprised is the model by the scored tokens (their mean)?

    Where any of several answers is right, and none is scored by itself, this is -log of the
    probability that one of them follows END: of the sum of theirs.
    """
    if not scored(prompts).any():
        return -set_log_probs(logits.log_softmax(-1), prompts.answer_sets)
    return per_prompt(-target_log_probs(logits, prompts), scored(prompts))
