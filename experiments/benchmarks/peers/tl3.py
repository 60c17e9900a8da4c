"""TransformerLens 3: `HookedTransformer`, its own modules with a hook at every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens import (
    HookedTransformer,
    HookedTransformerConfig,
    TransformerLensKeyValueCache,
)
from transformer_lens.pretrained.weight_conversions import (
    convert_gpt2_weights,
    convert_neox_weights,
    convert_qwen2_weights,
)
from transformers import AutoModelForCausalLM

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


_CONVERSIONS = {
    "gpt2": convert_gpt2_weights,
    "gpt_neox": convert_neox_weights,
    "qwen2": convert_qwen2_weights,
}


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
        init_weights=False,
        device="cpu",
        **_mathematics(config),
    )
    model = HookedTransformer(cfg)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    state = _CONVERSIONS[shape.kind](theirs, cfg)
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model.requires_grad_(False)
    return model.eval()


def _mathematics(config: dict[str, Any]) -> dict[str, Any]:
    """What its configuration calls the architecture's options."""
    if config["model_type"] == "gpt2":
        return {
            "eps": config["layer_norm_epsilon"],
            "act_fn": config["activation_function"],
            "normalization_type": "LN",
        }
    size = config["hidden_size"] // config["num_attention_heads"]
    rotary = {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False}
    if config["model_type"] == "gpt_neox":
        return rotary | {
            "eps": config["layer_norm_eps"],
            "act_fn": config["hidden_act"],
            "normalization_type": "LN",
            "parallel_attn_mlp": True,
            "rotary_dim": int(size * config["rotary_pct"]),
            "rotary_base": config["rotary_emb_base"],
        }
    return rotary | {
        "eps": config["rms_norm_eps"],
        "act_fn": config["hidden_act"],
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "n_key_value_heads": config["num_key_value_heads"],
        "rotary_dim": size,
        "rotary_base": int(config["rope_theta"]),
    }


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
