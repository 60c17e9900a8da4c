"""Two answers to the same question, row by row; and the weights of two models, part by part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.draws import COLUMN, Draws
from circuits.errors import CircuitsError, nearest
from circuits.model import HookedModel
from circuits.precision import wide
from circuits.result import AVERAGED, Result, mean_interval

WEIGHTS = "weights"
Tensors = Sequence[Tensor]
Rest = dict[str, tuple[Tensors | None, Tensors | None]]  # by the row's name, of either model
_UNUSED = "<|unused_"  # how an id without a token is called
# Parts that list tokens or positions: along which axis of each of their tensors?
_LISTED: dict[str, tuple[int | None, ...]] = {
    "embed": (0,),
    "pos": (0,),
    "logits": (None, None, 1, 0),
}
# Columns that say what a row is about, not what was found there.
LABELS = (
    *("task", "template", "variable", "subspace", "component", "edge", "stage", "layer", "head"),
    *("position", "metric", "unit"),
)
MEANINGS = {
    "value_a": "of the model",
    "value_b": "of the other model",
    "value": "what changed: the other's less the model's own; of weights ||other - own|| / ||own||",
    "stderr": "standard error of the difference",
    "ci_low": "lower end of its 95 % interval",
    "ci_high": "upper end of its 95 % interval",
    "paired": "whether the difference was taken prompt by prompt (or draw by draw); otherwise its "
    "interval takes the two means as independent, which is rather too wide",
    "n": "number of prompts (or other draws) that either mean is of; the smaller of the two",
    "only_in": "the model that has this row, if the other one lacks it",
    "part": "of the model's weights: a head with its biases (h0 ...), what is left of its "
    "attention layer (a: output bias and LayerNorm), an MLP with its LayerNorm (m), embed, pos, "
    "logits (the final LayerNorm, and the unembedding if either model's has weights of its own); "
    "embed[8192:8193]: the tokens, or positions, that only one of them has",
    "component": "the same as one name",
    "layer": "in which the part is",
    "norm": "Frobenius norm of the change",
}


def compared(
    first: Result,
    second: Result,
    column: str,
    names: Sequence[str],
    draws: tuple[Draws, Draws],
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Both answers row by row, and the columns that label them in a figure.

    `draws` are the numbers behind the means of either answer.

    Raises:
        CircuitsError: when they are about other prompts, in other units, or share no row.
    """
    _require_same_question(first, second)
    for one in (first, second):
        _require_number(one, column)
    keys = _keys(first, second)
    a, b = (_by_key(one.frame, keys) for one in (first, second))
    shared = [key for key in a if key in b]
    if not shared:
        raise CircuitsError(
            f"the answers of {names[0]} and {names[1]} have no row in common (by "
            f"{', '.join(keys)}): their parts are named differently, so there is nothing to compare"
        )
    averaged = column == "value" and all("n" in one.frame for one in (first, second))
    rows = []
    for key in [*a, *(key for key in b if key not in a)]:
        row = a[key] if key in a else b[key]
        lacking = None if key in a and key in b else names[0] if key in a else names[1]
        found = {name: row[name] for name in keys}
        found |= _change(a.get(key), b.get(key), column, draws if averaged else None)
        rows.append(found | {"only_in": lacking})
    frame = pd.DataFrame(rows)
    for name in keys:
        frame[name] = frame[name].astype(first.frame[name].dtype)
    axes = tuple(axis for axis in first.axes if axis in keys)
    return frame, axes or (keys[0],)


def _require_same_question(first: Result, second: Result) -> None:
    if first.provenance.prompts != second.provenance.prompts:
        raise CircuitsError(
            f"{first.provenance.model} and {second.provenance.model} would be asked different "
            "tokens: their vocabularies or contexts differ, so the same prompts are not the same "
            "to them and the numbers cannot be compared; give models of one vocabulary"
        )
    if first.unit != second.unit:
        raise CircuitsError(
            f"the answers are in different units, {first.unit} and {second.unit}; give the metric"
        )


def _require_number(result: Result, column: str) -> None:
    frame = result.frame
    numbers = [str(name) for name in frame if pd.api.types.is_numeric_dtype(frame[name])]
    if column not in numbers:
        raise CircuitsError(
            f"{result.provenance.analysis} has no number {column!r} to compare; choose a column "
            f"of {', '.join(numbers)}{nearest(column, numbers)}"
        )


def _keys(first: Result, second: Result) -> list[str]:
    """Which columns tell the rows apart, in both answers?

    The figure's axes and what is known to be a label; then others that are no measurements, until
    no two rows are alike.
    """
    shared = [str(name) for name in first.frame if name in second.frame.columns]
    labels = [name for name in shared if name in LABELS or name in first.axes]
    labels = [name for name in labels if not pd.api.types.is_float_dtype(first.frame[name])]
    more = [
        name
        for name in shared
        if name not in labels
        and name not in (*AVERAGED, COLUMN)
        and not name.endswith(f"_{COLUMN}")
        and not pd.api.types.is_float_dtype(first.frame[name])
    ]
    for n in range(len(more) + 1):
        keys = [*labels, *more[:n]]
        if keys and not any(one.frame.duplicated(keys).any() for one in (first, second)):
            return [name for name in shared if name in keys]
    raise CircuitsError(
        f"the rows of {first.provenance.analysis} cannot be told apart by {', '.join(labels)}, so "
        "those of the two models cannot be matched"
    )


def _by_key(frame: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[str, ...], dict[str, Any]]:
    rows = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    return {tuple(str(row[name]) for name in keys): row for row in rows}


def _change(
    a: Mapping[str, Any] | None,
    b: Mapping[str, Any] | None,
    column: str,
    draws: tuple[Draws, Draws] | None,
) -> dict[str, Any]:
    """The columns value_a, value_b and value; of means, with their draws, also stderr to paired."""
    own, others = (np.nan if row is None else float(row[column]) for row in (a, b))
    found: dict[str, Any] = {"value_a": own, "value_b": others, "value": others - own}
    if draws is None:
        return found
    if a is None or b is None:
        missing = dict.fromkeys(("stderr", "ci_low", "ci_high"), np.nan)
        return found | missing | {"n": 0, "paired": False}
    one, other = (d.behind(row) for d, row in zip(draws, (a, b), strict=True))
    if one is not None and other is not None and len(one.values) == len(other.values):
        change = other.values - one.values
        ends = mean_interval(change, scale=one.scale.change, groups=one.groups)
        interval = {name: float(ends[name]) for name in ("stderr", "ci_low", "ci_high")}
        return found | interval | {"n": len(change), "paired": True}
    up = np.hypot(b["ci_high"] - b["value"], a["value"] - a["ci_low"])
    down = np.hypot(b["value"] - b["ci_low"], a["ci_high"] - a["value"])
    return found | {
        "stderr": float(np.hypot(a["stderr"], b["stderr"])),
        "ci_low": found["value"] - float(down),
        "ci_high": found["value"] + float(up),
        "n": int(min(a["n"], b["n"])),
        "paired": False,
    }


def parts_changed(model: HookedModel, other: HookedModel, names: Sequence[str]) -> pd.DataFrame:
    """By how much did each part's weights change? A row for each part that either has.

    What there is of each token or position is compared as far as both models have it; the rest has
    a row of its own, as ``embed[8192:8193]``. Where one model's unembedding has weights of its own,
    both are compared by the unembedding that they use.

    Raises:
        CircuitsError: when the parts have other shapes, or the same ids are other tokens.
    """
    untied = not (model.cfg.tied and other.cfg.tied)
    both: list[dict[tuple[str, str], Tensors]] = [
        {(layer, part): tensors for layer, part, tensors in _parts(one, untied)}
        for one in (model, other)
    ]
    first, second = both
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for layer, part in dict.fromkeys([*first, *second]):
            own, new = first.get((layer, part)), second.get((layer, part))
            if part in ("embed", "logits"):
                _require_same_tokens(part, model, other, names)
            if own is not None and new is not None and part in _LISTED:
                own, new, rest = _shared(part, own, new)
                rows.append(_row(layer, part, own, new, names))
                rows += [_row(layer, label, *pair, names) for label, pair in rest.items()]
            else:
                rows.append(_row(layer, part, own, new, names))
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _row(
    layer: str, part: str, own: Tensors | None, new: Tensors | None, names: Sequence[str]
) -> dict[str, Any]:
    only_in = names[0] if new is None else names[1] if own is None else None
    about = {"component": _name(layer, part), "layer": layer, "part": part}
    return {**about, **_weights_changed(about["component"], own, new), "only_in": only_in}


def _shared(part: str, own: Tensors, new: Tensors) -> tuple[Tensors, Tensors, Rest]:
    """The tokens or positions that both have, of either model; and those that only one has."""
    axes = _LISTED[part][: len(own)]
    sizes = [
        [t.shape[i] for t, i in zip(one, axes, strict=True) if i is not None] for one in (own, new)
    ]
    if sizes[0] == sizes[1]:
        return own, new, {}
    least, most = sorted((sizes[0][0], sizes[1][0]))

    def cut(one: Tensors, start: int, length: int, *, whole: bool) -> list[Tensor]:
        return [
            t if i is None else t.narrow(i, start, length)
            for t, i in zip(one, axes, strict=True)
            if whole or i is not None
        ]

    longer = own if sizes[0][0] == most else new
    left = cut(longer, least, most - least, whole=False)
    rest: Rest = {f"{part}[{least}:{most}]": (left, None) if longer is own else (None, left)}
    return cut(own, 0, least, whole=True), cut(new, 0, least, whole=True), rest


def _require_same_tokens(
    part: str, model: HookedModel, other: HookedModel, names: Sequence[str]
) -> None:
    """Do the ids that both models have stand for the same tokens?

    A special token may have another name, but not another place; an unused id may get a token.
    """
    one, two = model.tokenizer, other.tokenizer
    if one is None or two is None or type(one) is not type(two):
        return  # nothing says otherwise
    if one.checksum == two.checksum:
        return
    read = [{i: token for token, i in each.ranks.items()} for each in (one, two)]
    unused = {
        i for each in (one, two) for token, i in each.special.items() if token.startswith(_UNUSED)
    }
    moved = {i for token, i in one.special.items() if two.special.get(token, i) != i}
    for i in range(min(model.cfg.d_vocab, other.cfg.d_vocab)):
        if i in moved or (read[0].get(i) != read[1].get(i) and i not in unused):
            shapes = [tuple(each.W_E.shape) for each in (model, other)]
            tokens = [each.token_strings([i])[0] for each in (one, two)]
            raise CircuitsError(
                f"the weights of {part} have the shapes {shapes[0]} and {shapes[1]}, but the "
                f"vocabularies differ: token {i} is {tokens[0]!r} in {names[0]} and {tokens[1]!r} "
                f"in {names[1]}; compare what the models do, with an analysis"
            )


def _weights_changed(name: str, own: Tensors | None, new: Tensors | None) -> dict[str, float]:
    norms = [np.nan if one is None else _norm(one) for one in (own, new)]
    change = share = np.nan
    if own is not None and new is not None:
        shapes = [[tuple(tensor.shape) for tensor in one] for one in (own, new)]
        if shapes[0] != shapes[1]:
            raise CircuitsError(
                f"the weights of {name} have the shapes {shapes[0]} and {shapes[1]}: only models "
                "of one width can be compared by their weights; compare what they do, with an "
                "analysis"
            )
        pairs = zip(own, new, strict=True)
        change = _norm([wide(b.to(a.device)) - wide(a) for a, b in pairs])
        if norms[0] or not change:
            share = change / norms[0] if change else 0.0
    return {"value_a": norms[0], "value_b": norms[1], "norm": change, "value": share}


def _name(layer: str, part: str) -> str:
    if part.startswith("h"):
        return f"a{layer}.{part}"
    return f"{part}{layer}" if part in ("a", "m") else part


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _parts(model: HookedModel, untied: bool) -> Iterator[tuple[str, str, list[Tensor]]]:
    """All weights of a model, each once: layer, part, tensors; `untied`, with the unembedding."""
    yield "ends", "embed", [model.W_E]
    if model.cfg.positional_embedding_type == "standard":
        yield "ends", "pos", [model.W_pos]
    per_head = [getattr(model, f"{kind}_{slot}") for kind in "Wb" for slot in "QKV"]
    per_head.append(model.W_O)
    for layer, block in enumerate(model.blocks):
        for head in range(model.cfg.n_heads):
            yield str(layer), f"h{head}", [weight[layer, head] for weight in per_head]
        yield str(layer), "a", [model.b_O[layer], block.ln1.w, block.ln1.b]
        if model.cfg.attn_only:
            continue
        names = ("W_in", "b_in", "W_out", "b_out", *["W_gate"] * model.cfg.gated_mlp)
        mlp = [getattr(model, name)[layer] for name in names]
        yield str(layer), "m", [*mlp, block.ln2.w, block.ln2.b]
    norm: list[Tensor] = [model.ln_final.w, model.ln_final.b]
    yield "ends", "logits", [*norm, model.W_U, model.b_U] if untied else norm
