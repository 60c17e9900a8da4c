"""TransformerLens 4: `TransformerBridge`, hooks around Hugging Face's own modules."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from experiments.benchmarks.items import Given
from experiments.benchmarks.peers.lens import (
    ablate_heads,
    attribution,
    forward,
    full_cache,
    logit_lens,
    patch_heads,
    patch_residual,
)

__all__ = [
    "ablate_heads",
    "attribution",
    "forward",
    "full_cache",
    "generate",
    "load",
    "logit_lens",
    "patch_heads",
    "patch_residual",
]


def load(folder: Path) -> TransformerBridge:
    model = TransformerBridge.boot_transformers(str(folder))
    model.requires_grad_(False)
    return model.eval()


@torch.no_grad()
def generate(model: TransformerBridge, given: Given) -> Tensor:
    tokens = torch.from_numpy(given.tokens)
    out = model.generate(
        tokens,
        max_new_tokens=given.new,
        do_sample=False,
        stop_at_eos=False,
        verbose=False,
        return_type="tokens",
    )
    return out[0, tokens.shape[1] :]
