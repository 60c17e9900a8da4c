"""What a part writes here, in tokens: pieces that several questions have. Not a question itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits import decompose
from circuits.arrays import Floats
from circuits.errors import CircuitsError
from circuits.explorer.questions.predictions import numbers
from circuits.explorer.subject import Subject, words
from circuits.explorer.tray import Tray
from circuits.hooks import HookPoint
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.model import HookedModel


@dataclass(frozen=True, eq=False)
class Ranked:
    """Tokens, the first ones most, and a number for each."""

    texts: list[str]
    values: Floats


def ranked(model: HookedModel, values: Tensor, top: int, *, sign: int = 1) -> Ranked:
    """The tokens with the largest of these values [v]; the numbers are shown times `sign`."""
    best = values.topk(min(top, len(values)))
    return Ranked(words(model, best.indices.tolist()), numbers(sign * best.values))


def logits_of(desk: Desk, about: Subject, tray: Tray, written: Tensor) -> Tensor:
    """What these numbers [d], written at the position looked at, add to each logit [v].

    The final norm's scale is held as it is; less the mean over the vocabulary, since a shift of all
    logits changes no probability.

    Raises:
        CircuitsError: for models that norm what a part writes before it is added.
    """
    model = desk.model
    if model.cfg.post_norms:
        raise CircuitsError(
            f"{model.cfg.model_name} normalizes what a layer writes before it is added, so no part "
            "of it has logits of its own"
        )
    final = desk.run(about, tray).final[about.at]
    centered = decompose.center(model, final[None])[0]
    scale = (centered.square().mean() + model.cfg.eps).sqrt()
    through = decompose.center(model, wide(written)[None])[0] * wide(model.ln_final.w) / scale
    logits = through @ wide(model.W_U)
    return logits - logits.mean()


def passing(desk: Desk, about: Subject, tray: Tray, layer: int, site: str) -> Tensor:
    """What passes a site of this layer, [p ...], in a pass through the layer alone."""
    stream, seen = desk.run(about, tray).streams[layer], []

    def keep(value: Tensor, hook: HookPoint) -> None:
        seen.append(value[0].clone())

    desk.model.run_with_hooks(
        stream,
        fwd_hooks=[*tray.hooks(layer, layer + 1), (f"blocks.{layer}.{site}", keep)],
        attention_mask=torch.ones(stream.shape[:2], device=stream.device),
        start_at_layer=layer,
        stop_at_layer=layer + 1,
    )
    passed: Tensor = seen[0]
    return passed
