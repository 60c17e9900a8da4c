"""What rotary positions make of queries and keys, which is linear: terms turn as their sum does.

Shapes: e = d_head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.model import HookedModel, Transformer


def turns(model: HookedModel) -> bool:
    """Whether positions turn queries and keys, by a rotation that is known here.

    Those of transformer_lens keep theirs to themselves.
    """
    return isinstance(model, Transformer) and model.cfg.positional_embedding_type == "rotary"


def turned(model: HookedModel, layer: int, slot: int, x: Tensor, position: int) -> Tensor:
    """Queries (slot 0) or keys (1), [... e], as this layer multiplies them at this position."""
    if not isinstance(model, Transformer) or not turns(model):
        return x
    at = torch.tensor([position], device=x.device)
    rows = x.reshape(-1, 1, 1, x.shape[-1])
    return model.blocks[layer].attn.placed(rows, slot, at).view(x.shape)


def require_distance(model: HookedModel, distance: int) -> None:
    """Refuse to ask for scores of keys at a distance where that means nothing.

    Raises:
        CircuitsError: for a distance below 0 or beyond the context, and for a model whose
            positions do not turn queries and keys, or that keeps to itself how they do.
    """
    cfg = model.cfg
    if not 0 <= distance < cfg.n_ctx:
        raise CircuitsError(
            f"distance={distance}: a key stands 0 to {cfg.n_ctx - 1} positions before its query"
        )
    if distance and not turns(model):
        why = "an adapted model keeps to itself how it turns queries and keys"
        if cfg.positional_embedding_type != "rotary":
            why = "its positions do not turn queries and keys; ask --show positions"
        raise CircuitsError(f"{cfg.model_name} has no scores by distance: {why}")
