"""What a model says next: pieces that several questions have. Not a question itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from circuits.arrays import Floats
from circuits.explorer.pieces import Piece
from circuits.explorer.subject import words

if TYPE_CHECKING:
    from circuits.model import HookedModel

TOP = 10


@dataclass(frozen=True, eq=False)
class Predictions(Piece):
    """The likeliest next tokens.

    Attributes:
        of: whose these are: ``now`` (with the edits of the tray), ``before`` (without),
            ``contrast`` or ``patched``.
        at: after which position.
        ids, texts: the tokens.
        p, logits: of each.
    """

    kind: ClassVar[str] = "predictions"
    of: str
    at: int
    ids: list[int]
    texts: list[str]
    p: Floats
    logits: Floats


def predictions(
    model: HookedModel, logits: Tensor, of: str, at: int, top: int = TOP
) -> Predictions:
    """The likeliest tokens by these logits [v]."""
    best = logits.topk(min(top, len(logits)))
    p = logits.softmax(-1)[best.indices]
    ids = best.indices.tolist()
    return Predictions(
        of, at, ids, words(model, ids), p.double().cpu().numpy(), best.values.double().cpu().numpy()
    )


def numbers(values: Tensor) -> Floats:
    """As an array of Python's precision."""
    array: Floats = values.detach().double().cpu().numpy().astype(np.float64)
    return array
