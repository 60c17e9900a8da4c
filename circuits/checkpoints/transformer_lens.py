"""A `HookedTransformer` of transformer_lens (2.x or 3.x) in memory, processed or not.

transformer_lens itself is not imported: the given object has its configuration with it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from circuits.architectures import Decoder, HookedGPT2
from circuits.checkpoints.assembling import assemble
from circuits.checkpoints.decoders import build, decoder_config
from circuits.checkpoints.layout import same_numbers
from circuits.checkpoints.vocabulary import cached_gpt2, is_released, object_roles
from circuits.config import ACTIVATIONS, ModelConfig
from circuits.errors import CheckpointError
from circuits.tokenizer import Tokenizer

# Settings of its configuration, and the values with which it computes what GPT-2 does.
_ALLOWED: dict[str, tuple[object, ...]] = {
    "act_fn": (*ACTIVATIONS, "gelu_pytorch_tanh"),
    "normalization_type": ("LN", "LNPre"),
    "positional_embedding_type": ("standard",),
    "attention_dir": ("causal",),
    "attn_only": (False,),
    "parallel_attn_mlp": (False,),
    "gated_mlp": (False,),
    "final_rms": (False,),
    "post_embedding_ln": (False,),
    "use_normalization_before_and_after": (False,),
    "use_qk_norm": (False,),
    "use_logn_attn": (False,),
    "use_attention_sinks": (False,),
    "clip_qkv": (None,),
    "num_experts": (None,),
}
_SOFT_CAPS = ("attn_scores_soft_cap", "output_logits_soft_cap")


def from_object(
    theirs: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookedGPT2:
    """The same model as this `HookedTransformer`, with copies of its weights.

    A folded LayerNorm (``LNPre``) is one whose weights are 1 and biases 0. An unembedding that is
    no longer the transposed token embedding, or has a bias, gives an untied model.

    Raises:
        CheckpointError: naming a setting that makes it compute something else than GPT-2.
    """
    cfg = theirs.cfg
    origin = f"transformer_lens {cfg.model_name}"
    _require_gpt2(cfg, origin)
    weights = {name: parameter.detach() for name, parameter in theirs.named_parameters()}
    W_E, W_U, b_U = (weights[name] for name in ("embed.W_E", "unembed.W_U", "unembed.b_U"))
    tied = same_numbers(W_U, W_E.T) and not bool(b_U.any())
    tensors = {"W_E": W_E.clone(), "W_pos": weights["pos_embed.W_pos"].clone()}
    if not tied:
        tensors |= {"unembed.W_U_untied": W_U.clone(), "unembed.b_U": b_U.clone()}
    tensors |= _layer_norm(weights, "ln_final", W_E)
    for layer in range(cfg.n_layers):
        tensors |= _block(weights, f"blocks.{layer}", W_E)
    tokenizer = _tokenizer(theirs)
    return assemble(
        _config(cfg, tied),
        tensors,
        origin=origin,
        described="its own cfg",
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )


def convert(theirs: Any, **to: Any) -> HookedGPT2 | Decoder:
    """The same model as this `HookedTransformer`: a GPT-2, or a model of attention alone.

    `to` are the device and the precision of `from_object`.
    """
    attn_only, positions = theirs.cfg.attn_only, theirs.cfg.positional_embedding_type
    return (
        _toy(theirs, **to) if attn_only or positions == "shortformer" else from_object(theirs, **to)
    )


def _toy(theirs: Any, **to: Any) -> Decoder:
    """A model of attention alone, or with Shortformer's positions."""
    origin = f"transformer_lens {theirs.cfg.model_name}"
    said = {name: value for name, value in vars(theirs.cfg).items() if value is not None}
    cfg = decoder_config(said, theirs.cfg.model_name, origin)
    starts = bool(theirs.cfg.default_prepend_bos)
    return build(
        replace(cfg, default_prepend_bos=starts),
        {name: weight.detach().clone() for name, weight in theirs.state_dict().items()},
        origin=origin,
        described="its own cfg",
        tokenizer=_tokenizer(theirs),
        **to,
    )


def _require_gpt2(cfg: Any, origin: str) -> None:
    for setting, allowed in _ALLOWED.items():
        value = getattr(cfg, setting, allowed[0])
        if value not in allowed:
            raise CheckpointError(
                f"{origin} has {setting}={value!r}, which is not GPT-2's mathematics; only "
                f"{' or '.join(map(repr, allowed))} can be converted"
            )
    capped = [cap for cap in _SOFT_CAPS if (getattr(cfg, cap, None) or 0) > 0]
    is_root = math.isclose(cfg.attn_scale, math.sqrt(cfg.d_head), rel_tol=1e-6)
    scaled = is_root or not cfg.use_attn_scale
    grouped = getattr(cfg, "n_key_value_heads", None) not in (None, cfg.n_heads)
    if capped or not scaled or grouped or cfg.d_vocab_out != cfg.d_vocab:
        raise CheckpointError(
            f"{origin} is no GPT-2: soft caps {capped}, attention scale {cfg.attn_scale:g} (GPT-2: "
            f"{math.sqrt(cfg.d_head):g}), {cfg.n_heads} query heads but "
            f"{getattr(cfg, 'n_key_value_heads', None) or cfg.n_heads} for keys, {cfg.d_vocab} "
            f"tokens in and {cfg.d_vocab_out} out"
        )


def _config(cfg: Any, tied: bool) -> ModelConfig:
    return ModelConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab,
        d_head=cfg.d_head,
        d_mlp=cfg.d_mlp,
        eps=cfg.eps,
        tied=tied,
        model_name=cfg.model_name,
        default_prepend_bos=cfg.default_prepend_bos,
        act_fn="gelu_new" if cfg.act_fn == "gelu_pytorch_tanh" else cfg.act_fn,
        use_attn_scale=cfg.use_attn_scale,
        scale_attn_by_inverse_layer_idx=cfg.scale_attn_by_inverse_layer_idx,
        attn_types=tuple(cfg.attn_types) if cfg.use_local_attn else None,
        window_size=cfg.window_size if cfg.use_local_attn else None,
    )


def _block(weights: dict[str, Tensor], block: str, like: Tensor) -> dict[str, Tensor]:
    attn, mlp = f"{block}.attn", f"{block}.mlp"
    W = [rearrange(weights[f"{attn}.W_{letter}"], "h d e -> d (h e)") for letter in "QKV"]
    b = [rearrange(weights[f"{attn}.b_{letter}"], "h e -> (h e)") for letter in "QKV"]
    tensors = {
        f"{attn}.W_QKV": torch.cat(W, dim=1),
        f"{attn}.b_QKV": torch.cat(b),
        f"{attn}.W_O_flat": rearrange(weights[f"{attn}.W_O"], "h e d -> (h e) d").clone(),
        f"{attn}.b_O": weights[f"{attn}.b_O"].clone(),
    }
    for name in ("W_in", "b_in", "W_out", "b_out"):
        tensors[f"{mlp}.{name}"] = weights[f"{mlp}.{name}"].clone()
    for norm in ("ln1", "ln2"):
        tensors |= _layer_norm(weights, f"{block}.{norm}", like)
    return tensors


def _layer_norm(weights: dict[str, Tensor], name: str, like: Tensor) -> dict[str, Tensor]:
    """A norm's weight and bias; 1 and 0 where they were folded into the next layer."""
    if f"{name}.w" in weights:
        return {key: weights[key].clone() for key in (f"{name}.w", f"{name}.b")}
    width = like.shape[-1:]
    return {f"{name}.w": like.new_ones(width), f"{name}.b": like.new_zeros(width)}


def _tokenizer(theirs: Any) -> Tokenizer | None:
    """The vocabulary and roles of its own tokenizer, an object of ``transformers``, if it has one.

    Without one, GPT-2's for a model with the name of a released one.
    """
    cfg, backend = theirs.cfg, getattr(theirs.tokenizer, "backend_tokenizer", None)
    if backend is None:
        released = is_released(getattr(cfg, "tokenizer_name", None), cfg.model_name)
        return cached_gpt2(cfg.d_vocab) if released else None
    roles = object_roles(theirs.tokenizer)
    return Tokenizer.from_json(backend.to_str(), name=str(cfg.model_name), roles=roles)
