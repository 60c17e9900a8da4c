"""The same model once more, with weights of its own."""

from __future__ import annotations

from dataclasses import replace

import torch

from circuits.architectures import HookedGPT2
from circuits.model import Readout


def copied(model: HookedGPT2, added: int = 0) -> HookedGPT2:
    """The same model with weights of its own; `added` neurons more in each MLP, which are zero."""
    cfg = replace(model.cfg, d_mlp=model.cfg.d_mlp + added)
    copy = HookedGPT2(cfg, model.tokenizer)
    copy.to(model.W_E.device, model.W_E.dtype)
    copy.source, copy.revision, copy.roles = model.source, model.revision, model.roles
    copy.adapter = model.adapter
    for name, readout in model.readouts.items():
        W, b = readout.W.detach().clone(), readout.b.detach().clone()
        copy.readouts[name] = Readout(W, b, readout.labels)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            old = weights[name]
            parameter[tuple(slice(n) for n in old.shape)].copy_(old)
            parameter.requires_grad_(False)
    return copy
