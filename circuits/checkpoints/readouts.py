"""Heads of fine-tuned checkpoints besides the vocabulary's: read, kept and written again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.assembling import require_finite
from circuits.checkpoints.layout import READOUTS, listed, resolve_dtype, under_released_names
from circuits.errors import CheckpointError
from circuits.model import Readout


def attach(
    model: HookedGPT2, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> HookedGPT2:
    """The model with the heads that these tensors hold as ``model.readouts``, which is said.

    Raises:
        CheckpointError: for a head of another width than the model's.
    """
    theirs = under_released_names(tensors, model.source)
    labels = config.get("id2label")
    for name in READOUTS:
        W, b = theirs.get(f"{name}.weight"), theirs.get(f"{name}.bias")
        if W is None:
            continue
        if W.ndim != 2 or W.shape[1] != model.cfg.d_model or (b is not None and len(b) != len(W)):
            raise CheckpointError(
                f"{model.source} has a head {name}.weight of shape {list(W.shape)}; it should read "
                f"d_model={model.cfg.d_model} numbers"
            )
        given = {f"{name}.weight": W} if b is None else {f"{name}.weight": W, f"{name}.bias": b}
        resolve_dtype(given, None, model.source)
        require_finite(given, model.source)
        like = model.W_E
        W = W.detach().T.to(like.device, like.dtype).clone()
        b = b if b is None else b.detach().to(like.device, like.dtype).clone()
        fits = isinstance(labels, Mapping) and len(labels) == W.shape[1]
        named = list(labels.values()) if fits and isinstance(labels, Mapping) else ()
        model.readouts[_key(name)] = Readout(W, b, named)
    if model.readouts:
        warnings.warn(
            f"{model.source} has a head besides the vocabulary's: it is kept as "
            f"model.readouts[{listed([repr(name) for name in model.readouts])}], and logits are "
            "those of its body with the token embedding",
            stacklevel=2,
        )
    return model


def saved(model: HookedGPT2, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of the model's readouts as transformers calls them."""
    tensors: dict[str, Tensor] = {}
    for name in READOUTS:
        if _key(name) not in model.readouts:
            continue
        readout = model.readouts[_key(name)]
        tensors[f"{name}.weight"] = readout.W.detach().T.to("cpu", dtype).contiguous()
        if readout.b.any() or name != "score":  # GPT2ForSequenceClassification has no bias
            tensors[f"{name}.bias"] = readout.b.detach().to("cpu", dtype)
    return tensors


def described(model: HookedGPT2) -> dict[str, Any]:
    """What a ``config.json`` says of the model's readouts."""
    entries: dict[str, Any] = {}
    for name, architecture in READOUTS.items():
        if _key(name) in model.readouts:
            labels = model.readouts[_key(name)].labels
            entries = {
                "architectures": [architecture],
                "id2label": {str(i): label for i, label in enumerate(labels)},
                "label2id": {label: i for i, label in enumerate(labels)},
            }
    return entries


def _key(name: str) -> str:
    """A module's name has no dots."""
    return name.partition(".")[0]
