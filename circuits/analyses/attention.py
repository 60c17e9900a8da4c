"""Where does each head look?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits import components
from circuits.batch import one_prompt
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.effects import components_of
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.registry import analysis
from circuits.result import Result, provenance

MOST_ROWS = 200_000  # without a wish, only the largest weights are kept beyond these
FEWEST_KEYS = 3  # that are kept of each query even then
NOTHING_LEFT = 1e-4  # of a query's attention besides the first token: too little to share out
Sink = Literal["keep", "drop"]
SINKS = get_args(Sink)
MEANINGS = {
    "component": "the head",
    "query": "index of the token from which it looks",
    "key": "index of the token at which it looks; never after the query",
    "query_token": "the token at query",
    "key_token": "the token at key",
    "value": "attention from query to key; over all keys it sums to 1",
    "corrected": "the same without the first token, of what is left (NaN if nothing is)",
    "entropy": "of the query's attention over all keys, in nats",
    "entropy_share": "of the largest entropy that so many keys can have, from 0 to 1",
    "left_out": "share of the query's attention that is at keys without a row",
}


@analysis
def attention(
    model: HookedModel,
    prompt: str,
    *,
    component: str | Component | Sequence[str | Component] | None = None,
    sink: Sink = "keep",
    least: float = 0.0,
    top: int | None = None,
) -> Result:
    """Where does each head look?

    One row for each head, query and key: softmax(q k / sqrt(d_head)), exactly 0 after the query,
    where no rows are. Many heads rest on the first token when they find nothing to do; the column
    corrected is attention without it. Of a long prompt only the largest weights are kept, and
    left_out says what is missing; every query keeps its largest one.

    $ circuits attention "When Mary and John went to the garden, John gave a letter to"
    $ circuits attention "one two three one two" --component a1.h0 --sink drop
    $ circuits attention "Once upon a time" --component a5 --figure layer5.png

    Args:
        prompt: The text to read (on a command line after -- if it begins with a dash).
        component: Only these heads: a5.h3, or a5 for a whole layer. Repeat it for several.
        sink: Whether attention to the first token is kept, or dropped and the rest shared out.
        least: Leave out weights below this one.
        top: Keep only so many keys of each query. Without it, all that 200,000 rows can hold.

    Raises:
        CircuitsError: for heads that do not exist, an unknown choice, or a prompt that is too long.

    >>> from circuits.checkpoints import load
    >>> looks = attention(load("compiled"), "abcdeabcde", component="a1.h0", top=1).frame
    >>> looks.loc[looks["query"] == 7, ["query_token", "key_token"]].values.tolist()
    [['b', 'c']]
    """
    heads = _heads(model.cfg, component)
    if sink not in SINKS or not 0 <= least <= 1 or (top is not None and top < 1):
        raise CircuitsError(
            f"sink={sink!r}, least={least}, top={top}: choose {' or '.join(SINKS)}, a weight from "
            "0 to 1, and at least 1 key"
        )
    tokens = one_prompt(model, prompt)
    words = np.array(model.require_tokenizer().token_strings(tokens[0].tolist()), dtype=object)
    with torch.inference_mode():
        frame = _frame(model, tokens, heads, _Limits(sink, least, top))
    for i, place in enumerate(("query", "key")):
        frame.insert(5 + i, f"{place}_token", words[frame[place]])
    whose = f"{len(heads)} heads" if len(heads) > 1 else str(heads[0])
    return Result(
        frame,
        unit="share of attention",
        title=f"Where does it look? ({model.cfg.model_name}, {whose}{_shown(frame, sink)})",
        provenance=provenance(model, "attention"),
        axes=("component", "query", "key"),
        view="patterns",
        meanings=MEANINGS,
    )


@dataclass(frozen=True)
class _Limits:
    """Which weights have a row: with the first token's or without, from `least`, `top` a query."""

    sink: Sink
    least: float
    top: int | None


def _shown(frame: pd.DataFrame, sink: str) -> str:
    """What has to be said of attention that is not shown."""
    share = 1 - float(frame.drop_duplicates(["component", "query"])["left_out"].mean())
    some = "" if share > 1 - 1e-6 else f", the largest weights: {share:.0%} of all attention"
    return (", without the first token" if sink == "drop" else "") + some


def _heads(
    cfg: ModelConfig, component: str | Component | Sequence[str | Component] | None
) -> list[Component]:
    """The heads that are asked for, in the order of computation."""
    wanted: list[Component] = []
    for part in components_of(component):
        components.check(part, cfg)
        if part.kind not in ("head", "attn") or part.slot or part.position is not None:
            raise CircuitsError(f"{part} has no pattern; name heads (a5.h3) or layers (a5)")
        of_layer = [head for head in components.all_heads(cfg) if head.layer == part.layer]
        wanted += [part] if part.kind == "head" else of_layer
    every = components.all_heads(cfg)
    return [head for head in every if head in wanted] if wanted else every


def _frame(
    model: HookedModel, tokens: Tensor, heads: Sequence[Component], limits: _Limits
) -> pd.DataFrame:
    """The rows of all heads, without the tokens' texts."""
    layers = sorted({head.layer for head in heads if head.layer is not None})
    n = tokens.shape[1]
    if limits.top is None and len(heads) * n * (n + 1) // 2 > MOST_ROWS:
        limits = replace(limits, top=max(FEWEST_KEYS, MOST_ROWS // (len(heads) * n)))
    parts: list[pd.DataFrame] = []

    def read(pattern: Tensor, hook: HookPoint) -> None:
        layer = layers[len(parts)]
        numbers = [head.head for head in heads if head.layer == layer]
        parts.append(_rows(pattern[0, numbers], limits).assign(layer=layer))
        parts[-1]["head"] = np.array(numbers)[parts[-1].pop("row")]

    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    options: dict[str, Any] = {"attention_mask": all_real(tokens)}
    options["stop_at_layer"] = layers[-1] + 1
    model.run_with_hooks(tokens, fwd_hooks=[(sites, read)], **options)
    frame = pd.concat(parts, ignore_index=True)
    if not len(frame):
        raise CircuitsError(
            "without the first token nothing is left to look at; give a longer prompt, or sink=keep"
        )
    name = "a" + frame["layer"].astype(str) + ".h" + frame["head"].astype(str)
    first = ["layer", "head", "query", "key", "value"]
    last = ["corrected", "entropy", "entropy_share", "left_out"]
    rows: pd.DataFrame = frame[[*first, *last]]
    rows.insert(0, "component", name)
    typed: pd.DataFrame = rows.astype({"layer": "Int64", "head": "Int64"})
    return typed


def _rows(pattern: Tensor, limits: _Limits) -> pd.DataFrame:
    """The rows of one layer's heads: pattern [h q k] -> columns row (the head's), query, key ..."""
    pattern = pattern.double()
    rest = pattern.clone()
    rest[..., 0] = 0
    left = rest.sum(-1, keepdim=True)
    corrected = torch.where(left > NOTHING_LEFT, rest / left.clamp(min=1e-30), torch.nan)
    seen = torch.ones_like(pattern, dtype=torch.bool).tril()
    shown = pattern
    if limits.sink == "drop":
        shown, seen = corrected, seen & ~corrected.isnan()
        seen[..., 0] = False
    shown = shown.nan_to_num()
    # Ranks settle ties, so that equal weights are kept from the left.
    rank = shown.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    large = shown >= limits.least
    if limits.top is not None:
        large &= rank < limits.top
    where = seen & (large | (rank == 0))
    entropy, share = _entropy(shown, 1 if limits.sink == "drop" else 0)
    out = shown.sum(-1) - (shown * where).sum(-1)
    row, query, key = (axis.cpu().numpy() for axis in where.nonzero(as_tuple=True))
    columns = {
        "value": shown[where],
        "corrected": corrected[where],
        **{
            name: values.clamp(min=0)[row, query]
            for name, values in (("entropy", entropy), ("entropy_share", share), ("left_out", out))
        },
    }
    numbers = {name: values.cpu().numpy() for name, values in columns.items()}
    rows: pd.DataFrame = pd.DataFrame({"row": row, "query": query, "key": key, **numbers})
    return rows


def _entropy(pattern: Tensor, dropped: int) -> tuple[Tensor, Tensor]:
    """In nats, and of the largest possible one: [h q] each, of patterns [h q k].

    `dropped` keys are not to be looked at. Of a single key, the share is 0 of 0: NaN.
    """
    entropy = torch.special.entr(pattern).sum(-1)
    n_keys = torch.arange(1, pattern.shape[-1] + 1).to(pattern) - dropped
    return entropy, torch.where(n_keys > 1, entropy / n_keys.clamp(min=2).log(), torch.nan)
