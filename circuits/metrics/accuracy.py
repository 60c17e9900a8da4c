"""Right or wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.intervals import RIGHT_OR_WRONG
from circuits.metrics.base import metric
from circuits.metrics.reading import end, pair, sides

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@metric(
    unit="share of prompts",
    higher_is_better=True,
    needs=("distractors",),
    positions=end,
    tokens=pair,
    scale=RIGHT_OR_WRONG,
)
def accuracy(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    """Does the answer beat the distractor?

    Where there are several of either, any of them counts: of all these tokens, is the one with the
    highest logit right?
    """
    right, wrong = sides(logits, prompts)
    return (right.amax(1) > wrong.amax(1)).to(logits.dtype)
