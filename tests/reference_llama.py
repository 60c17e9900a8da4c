"""A Llama in NumPy, float64, head by head: what `circuits.architectures.llama` should compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from circuits.architectures import Decoder

Array = NDArray[np.float64]


def rms_norm(x: Array, w: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def turned(x: Array, base: float) -> Array:
    """Pair i of position p as a complex number, times exp(i p base^(-2i / d_head))."""
    half = x.shape[1] // 2
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(half) / half)
    pairs: Array = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return pairs


def softmax(x: Array) -> Array:
    e: Array = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logits(model: Decoder, tokens: list[int]) -> Array:
    """[p v], from the tensors as a checkpoint has them."""
    cfg = model.cfg
    of = model.released_names()
    w = {of[name]: p.detach().double().numpy() for name, p in model.named_parameters()}
    x = w["model.embed_tokens.weight"][tokens]
    later = np.triu(np.ones((len(x), len(x)), dtype=bool), 1)
    e, n_groups = cfg.d_head, cfg.n_key_value_heads or cfg.n_heads
    for layer in range(cfg.n_layers):
        at = f"model.layers.{layer}."
        read = rms_norm(x, w[at + "input_layernorm.weight"], cfg.eps)
        q, k, v = (read @ w[f"{at}self_attn.{part}_proj.weight"].T for part in "qkv")
        mixed = []
        for head in range(cfg.n_heads):
            group = head * n_groups // cfg.n_heads
            mine, shared = slice(head * e, (head + 1) * e), slice(group * e, (group + 1) * e)
            queries, keys = turned(q[:, mine], 10_000.0), turned(k[:, shared], 10_000.0)
            scores = (queries @ keys.conj().T).real / np.sqrt(e)
            mixed.append(softmax(np.where(later, -np.inf, scores)) @ v[:, shared])
        x = x + np.concatenate(mixed, 1) @ w[at + "self_attn.o_proj.weight"].T
        read = rms_norm(x, w[at + "post_attention_layernorm.weight"], cfg.eps)
        gate = read @ w[at + "mlp.gate_proj.weight"].T
        neurons = gate / (1 + np.exp(-gate)) * (read @ w[at + "mlp.up_proj.weight"].T)
        x = x + neurons @ w[at + "mlp.down_proj.weight"].T
    final: Array = rms_norm(x, w["model.norm.weight"], cfg.eps) @ w["lm_head.weight"].T
    return final
