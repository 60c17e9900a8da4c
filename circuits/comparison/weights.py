"""The weights of two models, part by part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.precision import wide

Tensors = Sequence[Tensor]
Rest = dict[str, tuple[Tensors | None, Tensors | None]]  # by the row's name, of either model
_UNUSED = "<|unused_"  # how an id without a token is called
# What lists tokens, positions or neurons: along which axis of each of its tensors?
_LISTED: dict[str, tuple[int | None, ...]] = {
    "embed": (0,),
    "pos": (0,),
    "logits": (None, None, 1, 0),
    "m": (1, 0, 0, None, None, None),  # neurons, of an MLP without a gate
}


def weights_compared(model: HookedModel, other: HookedModel, names: Sequence[str]) -> pd.DataFrame:
    """By how much each part's weights changed: a row for each part that either model has.

    What there is of each token, position or neuron is compared as far as both models have it; the
    rest has a row of its own, as ``embed[8192:8193]``. Where one model's unembedding has
    weights of its own, both are compared by the unembedding that they use. `names` are the two
    models'.

    Raises:
        CircuitsError: when the parts have other shapes, or the same ids are other tokens.
    """
    untied = not (model.cfg.tied and other.cfg.tied)
    first, second = (
        {(layer, part): tensors for layer, part, tensors in _weights(each, untied)}
        for each in (model, other)
    )
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for layer, part in dict.fromkeys([*first, *second]):
            old: Tensors | None = first.get((layer, part))
            new: Tensors | None = second.get((layer, part))
            if part in ("embed", "logits"):
                _require_same_tokens(part, model, other, names)
            rest: Rest = {}
            if old is not None and new is not None and len(old) <= len(_LISTED.get(part, ())):
                old, new, rest = _shared(part, old, new)
            rows.append(_row(layer, part, old, new, names))
            rows += [_row(layer, label, *pair, names) for label, pair in rest.items()]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _row(
    layer: str, part: str, old: Tensors | None, new: Tensors | None, names: Sequence[str]
) -> dict[str, Any]:
    only_in = names[0] if new is None else names[1] if old is None else None
    about = {"component": _name(layer, part), "layer": layer, "part": part}
    return {**about, **_norms(about["component"], old, new), "only_in": only_in}


def _shared(part: str, old: Tensors, new: Tensors) -> tuple[Tensors, Tensors, Rest]:
    """The tokens or positions that both have, of either model; and those that only one has."""
    axes = _LISTED[part][: len(old)]
    sizes = [
        [t.shape[i] for t, i in zip(each, axes, strict=True) if i is not None]
        for each in (old, new)
    ]
    if sizes[0] == sizes[1]:
        return old, new, {}
    least, most = sorted((sizes[0][0], sizes[1][0]))

    def cut(tensors: Tensors, start: int, length: int, *, unlisted: bool) -> list[Tensor]:
        return [
            t if i is None else t.narrow(i, start, length)
            for t, i in zip(tensors, axes, strict=True)
            if unlisted or i is not None
        ]

    longer = old if sizes[0][0] == most else new
    left = cut(longer, least, most - least, unlisted=False)
    rest: Rest = {f"{part}[{least}:{most}]": (left, None) if longer is old else (None, left)}
    return cut(old, 0, least, unlisted=True), cut(new, 0, least, unlisted=True), rest


def _require_same_tokens(
    part: str, model: HookedModel, other: HookedModel, names: Sequence[str]
) -> None:
    """Raise where ids that both models have stand for different tokens.

    A special token may have another name, but not another place; an unused id may get a token.
    """
    first, second = model.tokenizer, other.tokenizer
    if first is None or second is None or type(first) is not type(second):
        return  # nothing says otherwise
    if first.checksum == second.checksum:
        return
    both = (first, second)
    read = [{i: token for token, i in each.ranks.items()} for each in both]
    unused = {i for each in both for token, i in each.special.items() if token.startswith(_UNUSED)}
    moved = {i for token, i in first.special.items() if second.special.get(token, i) != i}
    for i in range(min(model.cfg.d_vocab, other.cfg.d_vocab)):
        if i in moved or (read[0].get(i) != read[1].get(i) and i not in unused):
            shapes = [tuple(each.W_E.shape) for each in (model, other)]
            tokens = [each.token_strings([i])[0] for each in both]
            raise CircuitsError(
                f"the weights of {part} have the shapes {shapes[0]} and {shapes[1]}, but the "
                f"vocabularies differ: token {i} is {tokens[0]!r} in {names[0]} and {tokens[1]!r} "
                f"in {names[1]}; compare what the models do, with an analysis"
            )


def _norms(name: str, old: Tensors | None, new: Tensors | None) -> dict[str, float]:
    """The columns value_a, value_b, norm and value: norms, the change's, and its share."""
    norms = [np.nan if each is None else _norm(each) for each in (old, new)]
    change = share = np.nan
    if old is not None and new is not None:
        shapes = [[tuple(tensor.shape) for tensor in each] for each in (old, new)]
        if shapes[0] != shapes[1]:
            raise CircuitsError(
                f"the weights of {name} have the shapes {shapes[0]} and {shapes[1]}: only models "
                "of one width can be compared by their weights; compare what they do, with an "
                "analysis"
            )
        pairs = zip(old, new, strict=True)
        change = _norm([wide(b.to(a.device)) - wide(a) for a, b in pairs])
        if norms[0] or not change:
            share = change / norms[0] if change else 0.0
    return {"value_a": norms[0], "value_b": norms[1], "norm": change, "value": share}


def _name(layer: str, part: str) -> str:
    if part.startswith("h"):
        return f"a{layer}.{part}"
    in_layer = part in ("a", "m") or part.startswith("m[")
    return f"{part[0]}{layer}{part[1:]}" if in_layer else part


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _weights(model: HookedModel, untied: bool) -> Iterator[tuple[str, str, list[Tensor]]]:
    """All weights of a model, each once: layer, part, tensors; `untied`, with the unembedding."""
    yield "ends", "embed", [model.W_E]
    if model.cfg.positional_embedding_type == "standard":
        yield "ends", "pos", [model.W_pos]
    per_head = [getattr(model, f"{kind}_{slot}") for kind in "Wb" for slot in "QKV"]
    per_head.append(model.W_O)
    for layer, block in enumerate(model.blocks):
        for head in range(model.cfg.n_heads):
            yield str(layer), f"h{head}", [weight[layer, head] for weight in per_head]
        inside = [getattr(block.attn, norm, None) for norm in ("q_norm", "k_norm")]
        norms = [*(each for each in inside if each is not None), block.ln1.w, block.ln1.b]
        yield str(layer), "a", [model.b_O[layer], *norms, *_behind(model, layer, "ln1_post")]
        if model.cfg.attn_only:
            continue
        names = ("W_in", "b_in", "W_out", "b_out", *["W_gate"] * model.cfg.gated_mlp)
        mlp = [getattr(model, name)[layer] for name in names]
        yield str(layer), "m", [*mlp, block.ln2.w, block.ln2.b, *_behind(model, layer, "ln2_post")]
    norm: list[Tensor] = [model.ln_final.w, model.ln_final.b]
    yield "ends", "logits", [*norm, model.W_U, model.b_U] if untied else norm


def _behind(model: HookedModel, layer: int, norm: str) -> list[Tensor]:
    """The weight of a norm that stands behind a layer, where there is one (Gemma 2)."""
    return [getattr(model.blocks[layer], norm).w] if model.cfg.post_norms else []
