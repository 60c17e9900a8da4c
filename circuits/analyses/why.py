"""Why does a head look there? Its attention score as a sum over pairs of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from einops import einsum
from torch import Tensor

from circuits import components
from circuits.attribution import OTHER
from circuits.cache import Cache
from circuits.components import Component
from circuits.effects import places
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.qk_ov import Side, apart, place_masks, require_product, side, watched
from circuits.registry import MeanOptions, PromptOptions, analysis
from circuits.registry.asked_prompts import asked_prompts
from circuits.result import Result, mean_interval, provenance

MEANINGS = {
    "query_part": "what asks: a part of the residual stream at the query; other sums up the rest",
    "key_part": "what answers: a part of the residual stream at the key; other sums up the rest",
    "value": "what the pair adds to the score, mean over n",
    "share": "of the total",
    "total": "what all values sum to: the score, or its difference to the score compared with",
    "score": "the key's score before softmax, mean over n",
    "weight": "the attention that the query pays to the key, mean over n",
}
UNIT = "score before softmax"
Against = Literal["mean"] | int | str


@analysis
def why(
    model: HookedModel,
    head: str | Component,
    prompt: str | Sequence[str] | None = None,
    *,
    query: int | str = -1,
    key: int | str | None = None,
    against: Against | None = None,
    positions: Literal["roles", "indices"] | None = None,
    top: int = 8,
    task: str | Prompts | None = None,
    n: int | None = None,
    seed: int = 0,
    means: MeanOptions,
) -> Result:
    """Why does it look there?

    A score is the product of a query and a key, and each is a sum over the parts x of the residual
    stream that enters the layer: heads, MLPs, embeddings, biases. So it is exactly the sum over
    pairs of parts, (LN(x_i) W_Q) (LN(x_j) W_K) / sqrt(d_head), with the scale that LayerNorm really
    has at the query and at the key (Elhage et al. 2021, QK circuits and K-composition). An adapted
    model that divides by another number is divided by that. Rotary positions turn each part as they
    turn the whole, so the sum stays exact, at the positions that query and key really have.

    Parts speak for themselves: what a head tells an MLP, and the MLP passes on, is the MLP's. To
    follow such a path, see paths --to a5.h3<k>.

    Softmax only sees differences between keys: what the query alone contributes is the same for
    all. Compare the key with the mean over all others, or with another: the difference of two
    scores is the logarithm of the ratio of their weights.

    $ circuits why a1.h0 "Mr Brown went home. Mr" --against mean
    $ circuits why a5.h5 --task ioi --query END --key IO --against S1 --figure why.png
    $ circuits why a1.h0 "Once upon a time. Once" --positions indices --top 12

    Args:
        head: The head, by name: a5.h3.
        prompt: A prompt of your own (or a task); several are averaged over.
        query: The position that looks: an index (-1 the last), or a role of the task's prompts.
        key: The position looked at. Without it, of each prompt the one with the highest weight.
        against: Compare the key with the mean over all others that the query sees, or with this
            position.
        positions: Take heads among the parts apart by the position that they read from: by
            indices, or by roles of the task's prompts.
        top: How many parts of each side to list; the others are one row and one column.

    Raises:
        CircuitsError: for heads and positions that do not exist, and keys that the query cannot
            see.

    >>> from circuits.checkpoints import load
    >>> found = why(load("compiled"), "a2.h0", "aAbBcdeBfg.", against="mean", top=2)
    >>> found.top(1).frame[["query_part", "key_part", "value"]].round(1).values.tolist()
    [['embed', 'embed', 24.5]]
    """
    look = _Look(_head(model, head), query, key, against)
    prompts = _prompts(model, PromptOptions(task=task, prompt=prompt, n=n, seed=seed))
    if top < 1:
        raise CircuitsError(f"top={top}: list at least 1 part")
    return _taken_apart(model, prompts, look, positions, top, means)


@dataclass(frozen=True)
class _Look:
    """Which head looks from where, at what, rather than at what else, as it was asked."""

    head: Component
    query: int | str
    key: int | str | None
    against: Against | None


def _taken_apart(
    model: HookedModel,
    prompts: Prompts,
    look: _Look,
    positions: str | None,
    top: int,
    means: MeanOptions,
) -> Result:
    """The look's score, a row for each pair of parts."""
    where: list[str | int] = []
    if positions is not None:
        where = [place for place in places(prompts, positions) if place is not None]
    with torch.inference_mode():
        cache = watched(model, prompts, look.head, sources=bool(where))
        ends = _ends(cache, prompts, look)
        queries, keys, values = _pairs(cache, prompts, ends, where, top)
    total = values.sum((0, 1))
    score, compared, weight = _really(cache, ends)
    require_product(model, total, score - compared, values.abs().sum((0, 1)))
    numbers = values.flatten(0, 1).double().cpu().numpy()
    columns = mean_interval(numbers, draws=means.draws)
    mean_total = float(total.double().mean())
    frame = pd.DataFrame(
        {
            "query_part": np.repeat(queries, len(keys)),
            "key_part": keys * len(queries),
            **columns,
            "share": columns["value"] / mean_total if mean_total else np.nan,
            "total": mean_total,
            "score": float(score.double().mean()),
            "weight": float(weight.double().mean()),
        }
    )
    return Result(
        frame,
        unit=UNIT,
        title=_title(model, prompts, ends, look),
        provenance=provenance(model, "why", prompts=prompts),
        axes=("query_part", "key_part"),
        view="heatmap",
        meanings=MEANINGS,
    )


@dataclass(frozen=True, eq=False)
class _Ends:
    """Which head looks from where, at what, compared with what.

    Attributes:
        query: [b], the position that looks; `key` [b], the one looked at.
        against: [b p], weights of the positions that the key is compared with; they sum to 1, or
            all are 0 where it is not compared.
    """

    head: Component
    query: Tensor
    key: Tensor
    against: Tensor


def _head(model: HookedModel, head: str | Component) -> Component:
    part = components.parse(head) if isinstance(head, str) else head
    if part.kind != "head" or part.slot is not None or part.position is not None:
        raise CircuitsError(f"{part} is no head; name one, such as a0.h0")
    return components.check(part, model.cfg)


def _prompts(model: HookedModel, prompts: PromptOptions) -> Prompts:
    if prompts.prompt is None and prompts.task is None:
        raise CircuitsError("nothing to look at: give a prompt, or a task")
    return asked_prompts(model, prompts)[0].first


def _ends(cache: Cache, prompts: Prompts, look: _Look) -> _Ends:
    """The positions that were asked for, or the key that gets most attention."""
    head = look.head
    rows = torch.arange(len(prompts), device=prompts.tokens.device)
    query = prompts.index(look.query)
    window = cache.model.cfg.window(head.layer or 0)
    distance = query[:, None] - torch.arange(prompts.mask.shape[1], device=rows.device)
    seen = prompts.mask & (distance >= 0)
    if window is not None:
        seen &= distance < window
    if look.key is None:
        key = cache["pattern", head.layer][rows, head.head, query].argmax(-1)
    else:
        key = prompts.index(look.key)
    _require_seen(prompts, look.key, key, query, window)
    against = torch.zeros_like(cache["scale", head.layer, "ln1"][..., 0])
    if look.against == "mean":
        others = seen.to(against.dtype)
        others[rows, key] = 0
        if not bool(others.any(1).all()):
            raise CircuitsError(
                f"query {look.query!r} sees one position only, so there is no other to compare "
                "with; choose a later query"
            )
        against = others / others.sum(1, keepdim=True)
    elif look.against is not None:
        other = prompts.index(look.against)
        _require_seen(prompts, look.against, other, query, window)
        if bool((other == key).any()):
            raise CircuitsError(
                f"the key is compared with itself (position {int(key[other == key][0])}); choose "
                "another position for against, or mean"
            )
        against[rows, other] = 1
    return _Ends(head, query, key, against)


def _require_seen(
    prompts: Prompts,
    asked_for: int | str | None,
    key: Tensor,
    query: Tensor,
    window: int | None,
) -> None:
    later = (key > query).nonzero().flatten().tolist()
    if later:
        row = later[0]
        raise CircuitsError(
            f"position {asked_for!r} comes after the query in prompt {row} "
            f"({prompts.texts[row]!r}): {int(key[row])} after {int(query[row])}, which sees "
            "nothing later; choose another"
        )
    if window is not None and bool((query - key >= window).any()):
        row = int((query - key >= window).nonzero()[0])
        raise CircuitsError(
            f"position {asked_for!r} is {int(query[row] - key[row])} before the query in prompt "
            f"{row} ({prompts.texts[row]!r}), and this layer's attention is local: a query sees "
            f"the last {window} tokens, its own included; choose another"
        )


def _pairs(
    cache: Cache, prompts: Prompts, ends: _Ends, where: list[str | int], top: int
) -> tuple[list[str], list[str], Tensor]:
    """Names of the listed parts of both sides, and what each pair adds: [q k b]"""
    rows = torch.arange(len(prompts), device=prompts.tokens.device)
    at_query, at_key = torch.zeros_like(ends.against), -ends.against
    at_query[rows, ends.query] = 1
    at_key[rows, ends.key] += 1
    sides = side(cache, ends.head, "q", at_query), side(cache, ends.head, "k", at_key)
    both: list[tuple[list[str], Tensor]] = [(each.names, each.terms) for each in sides]
    if where:
        masks = place_masks(prompts, where, at_query)
        both = [
            _split(cache, ends.head, each, picked, masks)
            for each, picked in zip(sides, _largest(both, top), strict=True)
        ]
    listed = [
        _listed(names, parts, picked)
        for (names, parts), picked in zip(both, _largest(both, top), strict=True)
    ]
    (queries, asking), (keys, answering) = listed
    scale = cache.model.score_scales()[ends.head.layer or 0]
    return queries, keys, einsum(asking / scale, answering, "i b e, j b e -> i j b")


def _largest(both: Sequence[tuple[list[str], Tensor]], top: int) -> list[list[int]]:
    """The parts of each side that add most to the mean score, up or down; largest first."""
    mean = einsum(both[0][1], both[1][1], "i b e, j b e -> i j").abs()
    largest = []
    for axis, (names, _) in enumerate(both):
        size = mean.sum(1 - axis)
        size[[i for i, name in enumerate(names) if name == OTHER]] = -1
        largest.append(size.sort(descending=True, stable=True).indices[:top].tolist())
    return largest


def _split(
    cache: Cache, head: Component, ends: Side, picked: list[int], masks: tuple[list[str], Tensor]
) -> tuple[list[str], Tensor]:
    """The picked parts taken apart, and the rest as one part."""
    names, parts = apart(cache, head, ends, picked, masks)
    rest = ends.terms.sum(0) - ends.terms[picked].sum(0)
    return [*names, OTHER], torch.cat([parts, rest[None]])


def _listed(names: list[str], parts: Tensor, picked: list[int]) -> tuple[list[str], Tensor]:
    """The picked parts, and the rest as one part if there is any."""
    if len(picked) == len(names):
        return [names[i] for i in picked], parts[picked]
    rest = [i for i in range(len(names)) if i not in set(picked)]
    stack = torch.cat([parts[picked], parts[rest].sum(0)[None]])
    return [*(names[i] for i in picked), OTHER], stack


def _really(cache: Cache, ends: _Ends) -> tuple[Tensor, Tensor, Tensor]:
    """The run's own score and weight of the key, and the score it is compared with: each [b]"""
    rows = torch.arange(len(ends.query), device=ends.query.device)
    layer, head = ends.head.layer, ends.head.head
    scores = cache["attn_scores", layer][rows, head, ends.query]
    weight = cache["pattern", layer][rows, head, ends.query, ends.key]
    compared = (ends.against * scores.masked_fill(ends.against == 0, 0)).sum(-1)
    return scores[rows, ends.key], compared, weight


def _title(model: HookedModel, prompts: Prompts, ends: _Ends, look: _Look) -> str:
    """Who looks from where at what, in words."""
    task = f"{prompts.task}, " if len(prompts) > 1 or prompts.seed is not None else ""
    looks = [str(look.query), "where it looks most" if look.key is None else str(look.key)]
    if len(prompts) == 1 and model.tokenizer is not None:
        both = [int(ends.query[0]), int(ends.key[0])]
        words = model.tokenizer.token_strings(prompts.tokens[0, both].tolist())
        looks = [f"{_quoted(word)} ({at})" for word, at in zip(words, both, strict=True)]
    rather = "" if look.against is None else f", rather than at {look.against}"
    if look.against == "mean":
        rather = ", rather than elsewhere"
    return (
        f"Why does {ends.head} look from {looks[0]} at {looks[1]}{rather}? "
        f"({task}{model.cfg.model_name})"
    )


def _quoted(token: str) -> str:
    return "'" + token.replace("\n", "\\n") + "'"
