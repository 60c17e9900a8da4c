"""TransformerLens 3: `HookedTransformer`, its own modules with a hook at every step."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformer_lens import (
    HookedTransformer,
    HookedTransformerConfig,
    TransformerLensKeyValueCache,
)
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

from experiments.benchmarks.items import Given, Shape
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


def load(folder: Path) -> HookedTransformer:
    """What `from_pretrained_no_processing` does, which takes no folder: its steps one by one."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape.of(config)
    cfg = HookedTransformerConfig(
        n_layers=shape.layers,
        n_heads=shape.heads,
        d_model=shape.width,
        d_head=shape.width // shape.heads,
        d_mlp=shape.hidden,
        n_ctx=shape.context,
        d_vocab=shape.vocabulary,
        eps=config["layer_norm_epsilon"],
        act_fn=config["activation_function"],
        normalization_type="LN",
        init_weights=False,
        device="cpu",
    )
    model = HookedTransformer(cfg)
    state = convert_gpt2_weights(GPT2LMHeadModel.from_pretrained(folder), cfg)
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model.requires_grad_(False)
    return model.eval()


@torch.no_grad()
def generate(model: HookedTransformer, given: Given) -> Tensor:
    """A loop of our own: `HookedTransformer.generate` 3.9 gives the new tokens wrong positions."""
    tokens, new = torch.from_numpy(given.tokens), []
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", batch_size=1)
    for _ in range(given.new):
        mask = torch.ones_like(tokens)
        tokens = model(tokens, past_kv_cache=cache, attention_mask=mask)[:, -1:].argmax(-1)
        new.append(tokens)
    return torch.cat(new, 1)[0]
