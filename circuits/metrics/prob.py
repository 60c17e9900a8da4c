"""The probability of the scored tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import SHARE
from circuits.metrics.base import metric
from circuits.metrics.reading import answered, per_prompt, scored, set_probs, target_log_probs

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="probability", higher_is_better=True, needs=("answers",), positions=answered, scale=SHARE
)
def prob(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """How probable is the answer (the mean over scored tokens)?

    Where any of several answers is right, and none is scored by itself, this is the probability
    that one of them follows END: the sum of theirs.
    """
    if not scored(prompts).any():
        return set_probs(logits.softmax(-1), prompts.answer_sets)
    return per_prompt(target_log_probs(logits, prompts).exp(), scored(prompts))
