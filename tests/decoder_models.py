"""Tiny random models of every architecture but GPT-2's, for the tests."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuits.architectures import DECODERS, Decoder, DecoderConfig, Rotary
from circuits.tokenizer import Tokenizer

SIZES: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 4,
    "d_model": 16,
    "d_head": 6,
    "d_mlp": 20,
    "n_ctx": 48,
    "d_vocab": 31,
    "rotary": Rotary(6),
}
GEMMA = {"act_fn": "gelu_new", "embedding_scale": 4.0, "tied": True}
TOY = {
    "rotary": None,
    "positional_embedding_type": "standard",
    "act_fn": "gelu",
    "gated_mlp": False,
    "normalization_type": "LN",
}
# By a short name: the type of its config.json, and what differs.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"n_key_value_heads": 2}),
    "mistral": ("mistral", {"attn_types": ("local",) * 2, "window_size": 9}),
    "qwen2": ("qwen2", {"n_key_value_heads": 2, "attn_bias": True, "tied": True}),
    "qwen3": ("qwen3", {"n_key_value_heads": 2, "use_qk_norm": True}),
    "gemma": ("gemma", GEMMA | {"n_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        GEMMA
        | {
            "n_key_value_heads": 2,
            "attn_types": ("local", "global"),
            "window_size": 5,
            "attn_scale": 2.0,
            "post_norms": True,
            "scores_soft_cap": 5.0,
            "logits_soft_cap": 3.0,
        },
    ),
    "pythia": (
        "gpt_neox",
        {
            "rotary": Rotary(2),
            "act_fn": "gelu",
            "parallel": True,
            "gated_mlp": False,
            "normalization_type": "LN",
        },
    ),
    "attn-only": ("transformer_lens", TOY | {"attn_only": True}),
    "gelu-2l": ("transformer_lens", TOY),
    "shortformer": (
        "transformer_lens",
        TOY | {"attn_only": True, "positional_embedding_type": "shortformer"},
    ),
}


def decoder_config(shape: str, **sizes: Any) -> DecoderConfig:
    kind, differs = SHAPES[shape]
    name = {"architecture": kind, "model_name": f"tiny-{shape}"}
    return DecoderConfig(**(SIZES | differs | name | sizes))


def decoder(
    shape: str,
    *,
    dtype: torch.dtype = torch.float64,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    **sizes: Any,
) -> Decoder:
    """Attention is far from uniform, no bias is zero, no norm is the plain one."""
    cfg = decoder_config(shape, **sizes)
    if tokenizer is not None:
        cfg = replace(cfg, d_vocab=tokenizer.n_vocab)
    model = DECODERS[cfg.architecture](cfg, tokenizer).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            is_norm = re.search(r"ln\w*\.(w|stored)$|_norm$", name) is not None
            start = float(is_norm and "gemma" not in shape)  # whose norms are stored less 1
            weight.copy_(start + 0.4 * noise)
    return model


def tokens_of(cfg: DecoderConfig, batch: int = 2, pos: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(cfg.d_vocab, (batch, pos), generator=generator)
