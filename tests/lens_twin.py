"""The same model as a TransformerLens `HookedTransformer`, for the tests that compare the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

IGNORE_DEPRECATION = "ignore:HookedTransformer is deprecated:DeprecationWarning"


def lens_twin(model: HookedGPT2, **options: Any) -> HookedTransformer:
    """With our weights; `options` are of HookedTransformerConfig."""
    theirs = lens_shell(model.cfg, **options)
    missing, unexpected = theirs.load_state_dict(lens_state(model), strict=False)
    assert not unexpected
    assert all(name.endswith((".mask", ".IGNORE")) for name in missing), missing
    return theirs


def lens_shell(cfg: ModelConfig, **options: Any) -> HookedTransformer:
    """Built offline from a config; `transformer_lens` has to be installed."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = "n_layers n_heads d_model d_head d_mlp n_ctx d_vocab eps dtype act_fn".split()
    shared = {name: getattr(cfg, name) for name in sizes}
    options = {"normalization_type": "LN", "device": "cpu"} | options
    return HookedTransformer(HookedTransformerConfig(**shared, **options))


def lens_state(model: HookedGPT2) -> dict[str, torch.Tensor]:
    """Our weights under TransformerLens' names."""
    state = {
        "embed.W_E": model.W_E,
        "pos_embed.W_pos": model.W_pos,
        "ln_final.w": model.ln_final.w,
        "ln_final.b": model.ln_final.b,
        "unembed.W_U": model.W_U,
        "unembed.b_U": model.b_U,
    }
    for layer, block in enumerate(model.blocks):
        parts = {"ln1": ("w", "b"), "ln2": ("w", "b"), "mlp": ("W_in", "b_in", "W_out", "b_out")}
        parts["attn"] = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
        for part, names in parts.items():
            for name in names:
                weight = getattr(getattr(block, part), name)
                state[f"blocks.{layer}.{part}.{name}"] = weight
    return {name: weight.detach().clone() for name, weight in state.items()}
