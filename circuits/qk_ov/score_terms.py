"""An attention score as a sum over pairs of parts: what asks, and what answers.

Shapes: b prompts, p positions, k parts, s sources, e = d_head, d = d_model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from einops import einsum
from torch import Tensor

from circuits.attribution import OTHER
from circuits.cache import Cache
from circuits.components import Component
from circuits.decompose import through_ln
from circuits.errors import CircuitsError
from circuits.hooks import position_axis
from circuits.model import HookedModel
from circuits.precision import wide
from circuits.prompts import Prompts

_LABEL = re.compile(r"L(\d+)H(\d+)|(\d+)_mlp_out|(pos)_embed|(.+)")


@dataclass(frozen=True, eq=False)
class Side:
    """The terms of a query or a key, summed over positions with some weights.

    Attributes:
        names: of the terms, [k].
        terms: [k b e], what each contributes to the query or key; together they are it.
        over_scale: [b p], the weights, each over LayerNorm's scale there.
        through: [d e], LayerNorm but for its scale, and W_Q or W_K.
    """

    names: list[str]
    terms: Tensor
    over_scale: Tensor
    through: Tensor


def watched(model: HookedModel, prompts: Prompts, head: Component, *, sources: bool) -> Cache:
    """What passes the sites that the score of this head depends on.

    Raises:
        CircuitsError: where positions act on queries and keys, or scores are capped.
    """
    if model.cfg.positional_embedding_type != "standard" or model.cfg.scores_soft_cap:
        raise _no_product(model)
    layer = head.layer or 0
    sites = ["blocks.0.hook_resid_pre", "hook_embed"]
    sites += [name for name in ("hook_pos_embed",) if name in model.hook_dict]
    inside = ["attn.hook_z", *([] if model.cfg.attn_only else ["hook_mlp_out"])]
    inside += ["attn.hook_pattern", "attn.hook_v"] if sources else []
    sites += [f"blocks.{i}.{site}" for i in range(layer) for site in inside]
    of_head = ("ln1.hook_scale", "attn.hook_attn_scores", "attn.hook_pattern")
    _, cache = model.run_with_cache(
        prompts.tokens,
        attention_mask=prompts.mask,
        names_filter=[*sites, *(f"blocks.{layer}.{site}" for site in of_head)],
        stop_at_layer=layer + 1,
    )
    return Cache({name: wide(value) for name, value in cache.items()}, model)


def side(cache: Cache, head: Component, slot: str, weights: Tensor) -> Side:
    """The terms of the query (`slot` q) or of the key (k), summed with `weights` [b p].

    They are those of the residual stream that enters the head's layer, read through ln1 with
    its own scale at each position; the bias also has ln1's bias and that of the projection.
    """
    model, layer, number = cache.model, head.layer or 0, head.head or 0
    attn, norm = model.blocks[layer].attn, model.blocks[layer].ln1
    W, b = (attn.W_Q, attn.b_Q) if slot == "q" else (attn.W_K, attn.b_K)
    W, b = wide(W[number]), wide(b[number])
    over_scale = weights / cache["scale", layer, "ln1"][..., 0]
    of_layer = f"blocks.{layer}."
    mixed = {
        name: einsum(over_scale, value.movedim(position_axis(name), 1), "b p, b p ... -> b ...")
        for name, value in cache.items()
        if not name.startswith(of_layer) or name == "blocks.0.hook_resid_pre"
        if not name.endswith(("pattern", "hook_v"))
    }
    stack, labels = Cache(mixed, model).get_full_resid_decomposition(
        layer, expand_neurons=False, return_labels=True
    )
    stack[-1] *= over_scale.sum(1, keepdim=True)  # biases are the same at every position
    through = through_ln(model, W, layer)
    terms = wide(stack) @ through
    terms[-1] += weights.sum(1, keepdim=True) * (wide(norm.b) @ W + b)
    return Side([_named(label) for label in labels], terms, over_scale, through)


def apart(
    cache: Cache, ends: Side, chosen: list[int], places: tuple[list[str], Tensor]
) -> tuple[list[str], Tensor]:
    """The chosen terms; heads among them by the places [s b p] that they read from.

    Returns names and what they contribute [k b e].
    """
    names, terms = [], []
    labels, masks = places
    for index in chosen:
        match = re.fullmatch(r"a(\d+)\.h(\d+)", ends.names[index])
        if match is None:
            names.append(ends.names[index])
            terms.append(ends.terms[index][None])
            continue
        layer, head = map(int, match.groups())
        pattern, v = cache["pattern", layer][:, head], cache["v", layer]
        v = v[:, :, head * v.shape[2] // cache.model.cfg.n_heads]  # heads may share values
        read = einsum(ends.over_scale, pattern, "b p, b p k -> b k")
        mixed = einsum(masks * read, v, "s b k, b k e -> s b e")
        names += [f"{ends.names[index]}<v>@{label}" for label in labels]
        terms.append(mixed @ wide(cache.model.blocks[layer].attn.W_O[head]) @ ends.through)
    return names, torch.cat(terms)


def place_masks(
    prompts: Prompts, places: list[str | int], like: Tensor
) -> tuple[list[str], Tensor]:
    """Names of places, and which positions count as which: [s b p], 1 or 0."""
    masks, names = prompts.places(places), [str(place) for place in places]
    if len(masks) > len(names):
        names.append(OTHER)
    return names, masks.to(like.dtype)


def require_product(model: HookedModel, score: Tensor, expected: Tensor, size: Tensor) -> None:
    """Refuse a score that the terms do not sum to; `size` is what rounding errors grow with.

    Raises:
        CircuitsError: where it is not, as in models that rotate queries and keys.
    """
    slack = 1e4 * torch.finfo(model.cfg.dtype or torch.float32).eps
    if bool(((score - expected).abs() > slack * (1 + size)).any()):
        raise _no_product(model)


def _no_product(model: HookedModel) -> CircuitsError:
    return CircuitsError(
        f"the attention scores of {model.cfg.model_name} are more than queries times keys over "
        "a number (rotary positions, or a soft cap), so they cannot be taken apart"
    )


def _named(label: str) -> str:
    """The name in this package's grammar of a term of the decomposition."""
    layer, head, mlp, pos, other = _LABEL.fullmatch(label).groups()  # type: ignore[union-attr]
    if layer is not None:
        return f"a{layer}.h{head}"
    return f"m{mlp}" if mlp is not None else pos or other
