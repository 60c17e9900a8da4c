"""GPT-2 in plain NumPy: the same model as circuits/model.py, written to be read.

No batches, no caches, no fused operations, nothing from the package: one prompt, one head at a
time, in float64. `weights` maps the parameter names of `HookedGPT2.state_dict()` to arrays.

Shapes: p positions, d = d_model (the residual stream), e = d_head, m = d_mlp, v = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Weights = dict[str, np.ndarray]
Gelu = Callable[[np.ndarray], np.ndarray]


def logits(
    tokens: list[int], weights: Weights, n_heads: int, eps: float = 1e-5, gelu: Gelu | None = None
) -> np.ndarray:
    """How likely is each next token, after every position? [p] -> [p v], before the softmax"""
    # Each position starts as the sum of two learned vectors: which token, and where.
    stream = weights["W_E"][tokens] + weights["W_pos"][: len(tokens)]  # [p d]
    for layer in range(n_layers(weights)):
        block = {k.removeprefix(f"blocks.{layer}."): w for k, w in weights.items()}
        # A block only ever adds to the stream: attention moves information between positions ...
        stream = stream + attention(layer_norm(stream, block, "ln1", eps), block, n_heads)
        # ... and the MLP computes with what has arrived at each one.
        stream = stream + mlp(layer_norm(stream, block, "ln2", eps), block, gelu or gelu_new)
    final = layer_norm(stream, weights, "ln_final", eps)
    if "unembed.W_U_untied" in weights:
        return final @ weights["unembed.W_U_untied"] + weights["unembed.b_U"]
    return final @ weights["W_E"].T  # tied: a token's logit is the match with its own embedding


def layer_norm(x: np.ndarray, weights: Weights, name: str, eps: float) -> np.ndarray:
    """Give every position mean 0 and variance 1, then a learned scale and shift. [p d] -> [p d]"""
    centered = x - x.mean(axis=-1, keepdims=True)
    variance = (centered**2).mean(axis=-1, keepdims=True)
    return centered / np.sqrt(variance + eps) * weights[f"{name}.w"] + weights[f"{name}.b"]


def attention(x: np.ndarray, block: Weights, n_heads: int) -> np.ndarray:
    """Each head looks back, weighs earlier positions, and adds up their values. [p d] -> [p d]"""
    queries, keys, values = np.split(x @ block["attn.W_QKV"] + block["attn.b_QKV"], 3, axis=-1)
    d_head = queries.shape[-1] // n_heads
    future = np.triu(np.ones((len(x), len(x)), dtype=bool), k=1)
    out = np.zeros_like(x)
    for head in range(n_heads):
        mine = slice(head * d_head, (head + 1) * d_head)  # this head's columns
        scores = queries[:, mine] @ keys[:, mine].T / np.sqrt(d_head)  # [query key]
        pattern = softmax(np.where(future, -np.inf, scores))
        out += pattern @ values[:, mine] @ block["attn.W_O_flat"][mine]
    return out + block["attn.b_O"]


def mlp(x: np.ndarray, block: Weights, gelu: Gelu) -> np.ndarray:
    """Neurons that fire on directions of the stream and write others. [p d] -> [p d]"""
    return gelu(x @ block["mlp.W_in"] + block["mlp.b_in"]) @ block["mlp.W_out"] + block["mlp.b_out"]


def gelu_new(x: np.ndarray) -> np.ndarray:
    """GPT-2's smooth ReLU: x times a tanh approximation of the normal distribution function."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    """Positive numbers that sum to one; the maximum is subtracted so that exp cannot overflow."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def loss(tokens: list[int], weights: Weights, n_heads: int, eps: float = 1e-5) -> np.ndarray:
    """How surprised is the model by each token after the first? [p] -> [p-1], in nats"""
    probs = softmax(logits(tokens, weights, n_heads, eps))
    return -np.log(probs[np.arange(len(tokens) - 1), tokens[1:]])


def generate(
    tokens: list[int], weights: Weights, n_heads: int, n_new: int, eps: float = 1e-5
) -> list[int]:
    """How does the text go on, if the most likely token is taken every time?"""
    for _ in range(n_new):
        tokens = [*tokens, int(logits(tokens, weights, n_heads, eps)[-1].argmax())]
    return tokens


def n_layers(weights: Weights) -> int:
    """How many blocks do these weights have?"""
    return sum(name.endswith("ln1.w") for name in weights)
