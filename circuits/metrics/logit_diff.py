"""The difference of two logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.metrics.base import metric
from circuits.metrics.reading import end, pair

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(unit="logits", higher_is_better=True, needs=("distractors",), positions=end, tokens=pair)
def logit_diff(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """By how much does the answer's logit exceed the distractor's?"""
    return logits[:, 0] - logits[:, 1]
