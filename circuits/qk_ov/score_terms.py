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
from circuits.qk_ov.turning import turned, turns

_LABEL = re.compile(r"L(\d+)H(\d+)|(\d+)_mlp_out|(pos)_embed|(.+)")


@dataclass(frozen=True, eq=False)
class Side:
    """The terms of a query or a key, summed over positions with some weights.

    Attributes:
        slot: 0 of a query, 1 of a key.
        names: of the terms, [k].
        terms: [k b e], what each contributes to the query or key; together they are it. Where
            positions turn it, they are turned.
        over_scale: [b p], the weights, each over LayerNorm's scale there; where positions turn it,
            by the position that has the weight, otherwise all at once (None).
        through: [d e], LayerNorm but for its scale, and W_Q or W_K.
    """

    slot: int
    names: list[str]
    terms: Tensor
    over_scale: dict[int | None, Tensor]
    through: Tensor


def watched(model: HookedModel, prompts: Prompts, head: Component, *, sources: bool) -> Cache:
    """What passes the sites that the score of this head depends on.

    Raises:
        CircuitsError: where positions act on queries and keys, or scores are capped.
    """
    linear = model.cfg.positional_embedding_type == "standard" or turns(model)
    if model.cfg.scores_soft_cap or not linear:
        raise _no_product(model)
    model.score_scales()  # says where queries and keys are normalized first
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
    attn = model.blocks[layer].attn
    W, b = (attn.W_Q, attn.b_Q) if slot == "q" else (attn.W_K, attn.b_K)
    W, b = wide(W[number]), wide(b[number])
    through, place = through_ln(model, W, layer), "qk".index(slot)
    names: list[str] = []
    sums: list[Tensor] = []
    over_scale: dict[int | None, Tensor] = {}
    for position in _by_position(model, weights):
        some = weights if position is None else _only(weights, position)
        over_scale[position] = some / cache["scale", layer, "ln1"][..., 0]
        names, stack = _parts(cache, layer, over_scale[position])
        terms = wide(stack) @ through
        terms[-1] += some.sum(1, keepdim=True) * (wide(model.blocks[layer].ln1.b) @ W + b)
        sums.append(turned(model, layer, place, terms, position or 0))
    return Side(place, names, torch.stack(sums).sum(0), over_scale, through)


def _by_position(model: HookedModel, weights: Tensor) -> list[int] | list[None]:
    """The positions that have weights, where each turns what it is; else all at once."""
    if not turns(model):
        return [None]
    positions: list[int] = weights.any(0).nonzero().flatten().tolist()
    return positions


def _only(weights: Tensor, position: int) -> Tensor:
    """The weights [b p] at this position, and 0 elsewhere."""
    here = torch.arange(weights.shape[1], device=weights.device) == position
    return weights * here


def _parts(cache: Cache, layer: int, over_scale: Tensor) -> tuple[list[str], Tensor]:
    """Names of the parts of the stream that enters a layer, and their weighted sums: [k b d]."""
    of_layer = f"blocks.{layer}."
    mixed = {
        name: einsum(over_scale, value.movedim(position_axis(name), 1), "b p, b p ... -> b ...")
        for name, value in cache.items()
        if not name.startswith(of_layer) or name == "blocks.0.hook_resid_pre"
        if not name.endswith(("pattern", "hook_v"))
    }
    stack, labels = Cache(mixed, cache.model).get_full_resid_decomposition(
        layer, expand_neurons=False, return_labels=True
    )
    stack[-1] *= over_scale.sum(1, keepdim=True)  # biases are the same at every position
    return [_named(label) for label in labels], stack


def apart(
    cache: Cache, head: Component, ends: Side, chosen: list[int], places: tuple[list[str], Tensor]
) -> tuple[list[str], Tensor]:
    """The chosen terms of this head's; heads among them by the places [s b p] they read from.

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
        layer, number = map(int, match.groups())
        pattern, v = cache["pattern", layer][:, number], cache["v", layer]
        v = v[:, :, number * v.shape[2] // cache.model.cfg.n_heads]  # heads may share values
        W_O = wide(cache.model.blocks[layer].attn.W_O[number])
        total: Tensor | None = None
        for position, over_scale in ends.over_scale.items():
            read = einsum(over_scale, pattern, "b p, b p k -> b k")
            mixed = einsum(masks * read, v, "s b k, b k e -> s b e") @ W_O @ ends.through
            some = turned(cache.model, head.layer or 0, ends.slot, mixed, position or 0)
            total = some if total is None else total + some
        assert total is not None
        names += [f"{ends.names[index]}<v>@{label}" for label in labels]
        terms.append(total)
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
