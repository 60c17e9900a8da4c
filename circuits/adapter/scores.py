"""What an adapted model makes of a query and a key: what their product is divided by.

Shapes: l layer, b prompts of one token, h head, e = d_head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from einops import einsum, rearrange
from torch import Tensor

from circuits.errors import CircuitsError

if TYPE_CHECKING:
    from circuits.adapter.model import AdaptedModel

N_TOKENS = 64  # random tokens, each a prompt of its own
_FLAT = 0.9  # of a soft cap: a score beyond it hardly depends on what it was before the cap
_READ = ("q", "k", "attn_scores")
_ROUNDING = 1e4  # times the precision's epsilon: how far a quotient may be off


def score_scales(model: AdaptedModel) -> list[float]:
    """What each layer divides the product of a query and a key by to get their score.

    A ``HookedTransformer`` says it (`attn_scale`: the root of d_head, another number, 1, times the
    layer's number). A ``TransformerBridge`` does not, so it is measured: as the product over the
    score where a token reads itself at the first position, which no architecture rotates. What is
    said is checked against the same scores. Scores are those before a soft cap.

    Raises:
        CircuitsError: where scores are no such quotients (norms of queries and keys), or nothing
            can be seen of them.
    """
    n_layers = model.cfg.n_layers
    sites = [f"blocks.{i}.attn.hook_{what}" for i in range(n_layers) for what in _READ]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (N_TOKENS, 1), generator=generator)
    with torch.no_grad():
        _, cache = model.run_with_cache(
            tokens.to(model.cfg.device), names_filter=sites, return_type=None, prepend_bos=False
        )
    scales = []
    for layer, block in enumerate(model.theirs.blocks):
        q, k, scores = (cache[f"blocks.{layer}.attn.hook_{what}"].double() for what in _READ)
        product = einsum(q, k, "b one h e, b one h e -> b h")
        scales.append(_scale(model, layer, block, product, rearrange(scores, "b h 1 1 -> b h")))
    return scales


def _scale(model: AdaptedModel, layer: int, block: Any, product: Tensor, scores: Tensor) -> float:
    """The divisor that turns the products [b h] of this layer into its scores [b h]."""
    cap = model.cfg.scores_soft_cap
    if cap:
        steep = scores.abs() < _FLAT * cap
        product, scores = product[steep], cap * torch.atanh(scores[steep] / cap)
    else:  # what a position adds to all of a head's scores (ALiBi) is no part of the product
        product, scores = product - product.mean(0), scores - scores.mean(0)
    declared = getattr(block.attn, "attn_scale", None)
    energy = float((scores * product).sum())
    if declared is None and not energy:
        raise CircuitsError(
            f"the scores of layer {layer} of {model.cfg.model_name} do not show what they are "
            "divided by; give the model as a HookedTransformer, which says it"
        )
    scale = float(declared) if declared is not None else float(product.square().sum()) / energy
    slack = _ROUNDING * torch.finfo(model.cfg.dtype or torch.float32).eps
    error = (product / scale - scores).abs()
    if bool((error > slack * (1 + scores.abs())).any()):
        raise CircuitsError(
            f"the attention scores of layer {layer} of {model.cfg.model_name} are no products of "
            "its queries and keys (it normalizes or clips them first), so weights alone do not "
            "give them; watch hook_attn_scores instead"
        )
    return scale
