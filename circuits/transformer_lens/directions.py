"""The methods of `HookedTransformer` that read its weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from circuits import decompose
from circuits.errors import CircuitsError
from circuits.transformer_lens import utils

if TYPE_CHECKING:
    from circuits.transformer_lens.model import HookedTransformer


def tokens_to_residual_directions(self: HookedTransformer, tokens: Any) -> Tensor:
    """Which direction of the final residual stream raises these tokens' logits? [... d]"""
    ids = self.to_single_token(tokens) if isinstance(tokens, str) else tokens
    return self.W_U.T[torch.as_tensor(ids)].squeeze()


def accumulated_bias(
    self: HookedTransformer, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
) -> Tensor:
    """What do all output biases before this layer add to the stream? [d]"""
    options = {"mlp_input": mlp_input, "mlp_biases": include_mlp_biases}
    return decompose.accumulated_bias(self, layer, **options)


def all_composition_scores(self: HookedTransformer, mode: str) -> Tensor:
    """How strongly does each head read what each earlier one writes? [l h l h]

    `mode` is "Q", "K" or "V": which of its inputs.
    """
    rights = {"Q": lambda: self.QK, "K": lambda: self.QK.T, "V": lambda: self.OV}
    if mode not in rights:
        raise CircuitsError(f"mode={mode!r}: choose 'Q', 'K' or 'V'")
    scores = utils.composition_scores(self.OV, rights[mode]())
    layers = torch.arange(self.cfg.n_layers, device=scores.device)
    earlier = layers[:, None, None, None] < layers[None, None, :, None]
    return torch.where(earlier, scores, torch.zeros_like(scores))


def all_head_labels(self: HookedTransformer) -> list[str]:
    """The names of all heads: ``L0H0`` and so on."""
    return [f"L{i}H{h}" for i in range(self.cfg.n_layers) for h in range(self.cfg.n_heads)]
