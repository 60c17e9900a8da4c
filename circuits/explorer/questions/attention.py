"""Where every head looks, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.explorer.pieces import Options, Piece, question
from circuits.explorer.subject import Subject
from circuits.explorer.takes import Taking
from circuits.explorer.tray import Tray
from circuits.hooks import HookPoint

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
    stream, seen = desk.run(about, tray).streams[layer], []

    def keep(value: Tensor, hook: HookPoint) -> None:
        seen.append(value[0].float().clone())

    site = f"blocks.{layer}.attn.hook_pattern"
    hooks = [*tray.hooks(layer, layer + 1), (site, keep)]
    desk.model.run_with_hooks(
        stream,
        fwd_hooks=hooks,
        attention_mask=torch.ones(stream.shape[:2], device=stream.device),
        start_at_layer=layer,
        stop_at_layer=layer + 1,
    )
    return seen[0]
