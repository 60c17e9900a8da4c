"""A model of `circuits.architectures` as a `HookedTransformer`, for tests that compare the two."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from circuits.architectures import Decoder, DecoderConfig


def twin(model: Decoder) -> Any:
    """With our weights; `transformer_lens` has to be installed."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    theirs = HookedTransformer(HookedTransformerConfig(**_config(model.cfg)))
    missing, unexpected = theirs.load_state_dict(_state(model, theirs), strict=False)
    assert not unexpected
    assert all(name.endswith((".mask", ".IGNORE", "rotary_sin", "rotary_cos")) for name in missing)
    return theirs


def _config(cfg: DecoderConfig) -> dict[str, Any]:
    shared = "n_layers n_heads d_model d_head d_mlp n_ctx d_vocab eps dtype act_fn model_name"
    shared += " normalization_type positional_embedding_type attn_only gated_mlp"
    options = {name: getattr(cfg, name) for name in shared.split()}
    if cfg.rotary is not None:
        options |= {"rotary_dim": cfg.rotary.dims, "rotary_base": int(cfg.rotary.base)}
        options |= {"rotary_adjacent_pairs": False}
    if cfg.attn_types is not None:
        options |= {"use_local_attn": True, "window_size": cfg.window_size}
        options |= {"attn_types": list(cfg.attn_types)}
    if cfg.n_key_value_heads is not None:
        options |= {"n_key_value_heads": cfg.n_key_value_heads}
    return options | {
        "device": "cpu",
        "default_prepend_bos": cfg.default_prepend_bos,
        "final_rms": cfg.normalization_type == "RMS",
        "parallel_attn_mlp": cfg.parallel,
        "use_qk_norm": cfg.use_qk_norm,
        "use_normalization_before_and_after": cfg.post_norms,
        "act_fn": None if cfg.attn_only else cfg.act_fn,
        "attn_scale": cfg.attn_scale or math.sqrt(cfg.d_head),
        "attn_scores_soft_cap": cfg.scores_soft_cap or -1.0,
        "output_logits_soft_cap": cfg.logits_soft_cap or -1.0,
    }


def _state(model: Decoder, theirs: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {
        "embed.W_E": model.W_E,
        "unembed.W_U": model.W_U,
        "unembed.b_U": model.b_U,
        "ln_final.w": model.ln_final.w,
        "ln_final.b": model.ln_final.b,
    }
    if hasattr(model, "positions"):
        state["pos_embed.W_pos"] = model.positions
    shared = model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    for i, block in enumerate(model.blocks):
        at = f"blocks.{i}."
        for norm in ("ln1", "ln2", "ln1_post", "ln2_post"):
            if hasattr(block, norm):
                state |= {f"{at}{norm}.{x}": getattr(getattr(block, norm), x) for x in "wb"}
        for kind in "QKVO":
            for weight in (f"W_{kind}", f"b_{kind}"):
                value = getattr(block.attn, weight)
                once = value[::shared] if kind in "KV" else value
                state[f"{at}attn.{'_' * (kind in 'KV' and shared > 1)}{weight}"] = once
        for norm in ("q_norm", "k_norm"):
            if getattr(block.attn, norm, None) is not None:
                state[f"{at}attn.{norm}.w"] = getattr(block.attn, norm)
        if hasattr(block, "mlp"):
            for weight in ("W_in", "b_in", "W_out", "b_out", "W_gate"):
                if hasattr(block.mlp, weight):
                    state[f"{at}mlp.{weight}"] = getattr(block.mlp, weight)
    has = dict(theirs.named_parameters())
    return {name: state[name].detach().clone() for name in has if name in state}
