"""State dicts under TransformerLens' names: from and to a `HookedGPT2`, folded and centered."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.transformer_lens import from_object
from circuits.factored import FactoredMatrix
from circuits.transformer_lens.config import HookedTransformerConfig
from circuits.weights import process

State = Mapping[str, Tensor]
BUFFERS = (".mask", ".IGNORE")  # what TransformerLens saves besides weights


def to_house(state: State, cfg: HookedTransformerConfig) -> HookedGPT2:
    """The model of this package with these weights."""
    weights = {name: value for name, value in state.items() if not name.endswith(BUFFERS)}
    theirs = SimpleNamespace(cfg=cfg, tokenizer=None, named_parameters=lambda: weights.items())
    return from_object(theirs, device=cfg.device)


def to_state(model: HookedGPT2) -> dict[str, Tensor]:
    """The weights of a model of this package, copied, under TransformerLens' names."""
    state = {
        "embed.W_E": model.W_E,
        "pos_embed.W_pos": model.W_pos,
        "ln_final.w": model.ln_final.w,
        "ln_final.b": model.ln_final.b,
        "unembed.W_U": model.W_U,
        "unembed.b_U": model.b_U,
    }
    parts = {"ln1": ("w", "b"), "ln2": ("w", "b"), "mlp": ("W_in", "b_in", "W_out", "b_out")}
    parts["attn"] = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
    for layer, block in enumerate(model.blocks):
        for part, names in parts.items():
            for name in names:
                weight: Tensor = getattr(getattr(block, part), name)
                state[f"blocks.{layer}.{part}.{name}"] = weight
    return {name: weight.detach().clone() for name, weight in state.items()}


def processed(state: State, cfg: HookedTransformerConfig, **steps: bool) -> dict[str, Tensor]:
    """The same model's weights after the named steps, each of which is off if not named.

    The steps are those of `circuits.weights.process`: `fold_ln`, `center_writing_weights`,
    `center_unembed`, `fold_value_biases`.
    """
    names = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    wanted = {name: bool(steps.get(name)) for name in names}
    if not any(wanted.values()):
        return dict(state)
    new, _ = process(to_house(state, cfg), [[0]], **wanted)
    buffers = {name: value for name, value in state.items() if name.endswith(BUFFERS)}
    return to_state(new) | buffers


def refactored(state: State, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    """The same model with even factors: W_O a rotation, W_Q and W_K with columns of equal norm.

    W_V W_O = U S V^T becomes (U S) V^T, with the value biases in b_O. W_Q W_K^T, each with its bias
    as one more row, becomes (U sqrt(S)) (V sqrt(S))^T.
    """
    new = dict(state)
    for layer in range(cfg.n_layers):
        attn = f"blocks.{layer}.attn"
        rows = {x: new[f"{attn}.b_{x}"].unsqueeze(-2) for x in "QK"}
        Q, K = (torch.cat([new[f"{attn}.W_{x}"], rows[x]], -2) for x in "QK")
        U, S, V = FactoredMatrix(Q, K.mT).svd()
        for letter, vectors in (("Q", U), ("K", V)):
            even = vectors * S.sqrt().unsqueeze(-2)
            new[f"{attn}.W_{letter}"] = even[..., :-1, :].clone()
            new[f"{attn}.b_{letter}"] = even[..., -1, :].clone()
        W_O, b_V = new[f"{attn}.W_O"], new[f"{attn}.b_V"]
        new[f"{attn}.b_O"] = new[f"{attn}.b_O"] + (b_V.unsqueeze(-1) * W_O).sum((0, 1))
        new[f"{attn}.b_V"] = torch.zeros_like(b_V)
        U, S, V = FactoredMatrix(new[f"{attn}.W_V"], W_O).svd()
        new[f"{attn}.W_V"] = U * S.unsqueeze(-2)
        new[f"{attn}.W_O"] = V.mT.contiguous()
    return new
