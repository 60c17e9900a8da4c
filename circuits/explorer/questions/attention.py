"""Where every head looks, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from circuits.explorer.pieces import Options, Piece, question
from circuits.explorer.questions.written import passing
from circuits.explorer.subject import Subject
from circuits.explorer.takes import Taking
from circuits.explorer.tray import Tray

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

FINEST = 65535  # weights are told in steps of 1 / 65535


@dataclass(frozen=True, eq=False)
class LayerAttention(Piece):
    """The attention of a layer's heads.

    Attributes:
        layer: which one.
        n: how many tokens the prompt has.
        weights: [head query key], in steps of 1/65535.
    """

    kind: ClassVar[str] = "attention"
    layer: int
    n: int
    weights: NDArray[np.uint16]


@question
def attention(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Where does every head look?

    Pieces: an `attention` a layer, the first layer first; `take`.
    """
    options.only()
    about = desk.subject(view)
    tray = desk.tray(about)
    for layer in range(desk.model.cfg.n_layers):
        pattern = patterns(desk, about, tray, layer)
        weights = (pattern.clamp(0, 1) * FINEST).round().cpu().numpy().astype("<u2")
        yield LayerAttention(layer, len(about.ids), weights)
    line = "found = circuits.attention(model, text)"
    yield Taking(desk, about).of_text([["attention"]], [line])


def patterns(desk: Desk, about: Subject, tray: Tray, layer: int) -> Tensor:
    """The attention patterns of a layer [h q k], by one pass through it alone."""
    return passing(desk, about, tray, layer, "attn.hook_pattern").float()
