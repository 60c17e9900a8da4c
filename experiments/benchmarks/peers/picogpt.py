"""A GPT-2 in NumPy, as short as it gets, in the manner of picoGPT: the numbers to agree with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from experiments.benchmarks.items import Given
from experiments.benchmarks.peers import Declined

SWEEPS_UP_TO = 20e6  # parameters; beyond, a loop of NumPy runs teaches nothing but patience
Array = Any
Edit = Callable[[str, int, Array], Array]  # site, layer, value -> value


def load(folder: Path) -> SimpleNamespace:
    """The weights by name, and the shape."""
    weights = {k.removeprefix("transformer."): v for k, v in load_file(folder / WEIGHTS).items()}
    return SimpleNamespace(**json.loads((folder / "config.json").read_text()), w=weights)


WEIGHTS = "model.safetensors"


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + 0.044715 * x * x * x)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(m: SimpleNamespace, x: Array, name: str) -> Array:
    x = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(m.layer_norm_epsilon))
    return x / scale * m.w[f"{name}.weight"] + m.w[f"{name}.bias"]


def linear(m: SimpleNamespace, x: Array, name: str) -> Array:
    flat = x.reshape(-1, x.shape[-1]) @ m.w[f"{name}.weight"] + m.w[f"{name}.bias"]
    return flat.reshape(*x.shape[:-1], -1)


def attention(m: SimpleNamespace, x: Array, layer: int, past: dict, edit: Edit) -> Array:
    b, t, d = x.shape
    q, k, v = (
        part.reshape(b, t, m.n_head, -1).transpose(0, 2, 1, 3)  # [b h t e]
        for part in np.split(linear(m, x, f"h.{layer}.attn.c_attn"), 3, axis=-1)
    )
    if layer in past:
        k, v = (np.concatenate(pair, 2) for pair in zip(past[layer], (k, v), strict=True))
    past[layer] = k, v
    scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(d // m.n_head))
    visible = np.tri(t, k.shape[2], k.shape[2] - t, dtype=bool)
    z = softmax(np.where(visible, scores, np.float32(-1e10))) @ v
    z = edit("z", layer, z.transpose(0, 2, 1, 3))  # [b t h e]
    return linear(m, z.reshape(b, t, d), f"h.{layer}.attn.c_proj")


def streams(m: SimpleNamespace, tokens: Array, past: dict, edit: Edit) -> list[Array]:
    """The residual stream before each layer, and after the last."""
    start = past[0][0].shape[2] if past else 0
    x = m.w["wte.weight"][tokens] + m.w["wpe.weight"][start : start + tokens.shape[1]]
    states = []
    for i in range(m.n_layer):
        x = edit("resid_pre", i, x)
        states.append(x)
        x = x + attention(m, layer_norm(m, x, f"h.{i}.ln_1"), i, past, edit)
        hidden = gelu(linear(m, layer_norm(m, x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x = x + linear(m, hidden, f"h.{i}.mlp.c_proj")
    return [*states, x]


def unembed(m: SimpleNamespace, x: Array) -> Array:
    flat = layer_norm(m, x, "ln_f").reshape(-1, x.shape[-1]) @ m.w["wte.weight"].T
    return flat.reshape(*x.shape[:-1], -1)


def unchanged(site: str, layer: int, value: Array) -> Array:
    return value


def forward(m: SimpleNamespace, given: Given) -> Array:
    return unembed(m, streams(m, given.tokens, {}, unchanged)[-1])


def last_logits(m: SimpleNamespace, given: Given) -> Array:
    return unembed(m, streams(m, given.tokens, {}, unchanged)[-1][:, -1])


def logit_lens(m: SimpleNamespace, given: Given) -> Array:
    logits = unembed(m, np.concatenate(streams(m, given.tokens, {}, unchanged)))
    top = logits.max(-1)
    return top - np.log(np.exp(logits - top[..., None]).sum(-1)) - top


def generate(m: SimpleNamespace, given: Given) -> Array:
    past, tokens, new = {}, given.tokens, []
    for _ in range(given.new):
        tokens = unembed(m, streams(m, tokens, past, unchanged)[-1][:, -1]).argmax(-1)[:, None]
        new.append(tokens[0, 0])
    return np.array(new)


def logit_diff(m: SimpleNamespace, tokens: Array, given: Given, edit: Edit) -> float:
    if m.n_layer * 12 * m.n_embd**2 > SWEEPS_UP_TO:
        raise Declined("a loop over NumPy runs: done on small models only, to agree with")
    logits = unembed(m, streams(m, tokens, {}, edit)[-1][:, -1])
    rows = np.arange(len(tokens))
    return float((logits[rows, given.answers] - logits[rows, given.distractors]).mean())


def ablate_heads(m: SimpleNamespace, given: Given) -> Array:
    def without(layer: int, head: int) -> Edit:
        def edit(site: str, at: int, value: Array) -> Array:
            if (site, at) == ("z", layer):
                value = value.copy()
                value[:, :, head] = 0
            return value

        return edit

    return np.array(
        [
            [logit_diff(m, given.tokens, given, without(layer, head)) for head in range(m.n_head)]
            for layer in range(m.n_layer)
        ]
    )


def patch(m: SimpleNamespace, given: Given, site: str, places: int) -> Array:
    """What the clean run has at each layer and place (position or head), in the corrupted run."""
    clean = {}

    def keep(at_site: str, layer: int, value: Array) -> Array:
        clean[at_site, layer] = value
        return value

    streams(m, given.tokens, {}, keep)

    def written(layer: int, place: int) -> Edit:
        def edit(at_site: str, at: int, value: Array) -> Array:
            if (at_site, at) == (site, layer):
                where = (slice(None), place) if site == "resid_pre" else (..., place, slice(None))
                value = value.copy()
                value[where] = clean[site, layer][where]
            return value

        return edit

    return np.array(
        [
            [logit_diff(m, given.corrupted, given, written(layer, i)) for i in range(places)]
            for layer in range(m.n_layer)
        ]
    )


def patch_residual(m: SimpleNamespace, given: Given) -> Array:
    return patch(m, given, "resid_pre", given.tokens.shape[1])


def patch_heads(m: SimpleNamespace, given: Given) -> Array:
    return patch(m, given, "z", m.n_head)
