"""Where do heads look on the prompts of a result? For pages, which have no model of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.components import Component
from circuits.effects.circuit_questions import single_batch
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.pages.attention import packed
from circuits.registry import PairOptions
from circuits.result import Result

MOST_PROMPTS, MOST_TOKENS = 4, 128  # a page holds every weight of every head
LEAST = 0.002  # smaller weights are no color
STANDARD_INPUT = "-"


def looks(result: Result, model: HookedModel, heads: Collection[Component]) -> list[dict[str, Any]]:
    """The attention of these heads on the first prompts that the result is about.

    Prompts are asked for again as they were for the result; there are none where that cannot be
    (they came from standard input, say), and none that are longer than 128 tokens.
    """
    prompts = _tokens(result, model)
    words = model.require_tokenizer() if prompts else None
    shown = []
    for tokens in prompts:
        assert words is not None
        texts = np.array(words.token_strings(tokens.tolist()), dtype=object)
        frame = pd.concat(_rows(model, tokens, heads), ignore_index=True)
        for place in ("query", "key"):
            frame[f"{place}_token"] = texts[frame[place]]
        shown.append(packed(frame))
    return shown


def _tokens(result: Result, model: HookedModel) -> list[Tensor]:
    """The first prompts, each without padding."""
    known = {option.name for option in fields(PairOptions)}
    asked = {name: given for name, given in result.provenance.arguments.items() if name in known}
    if str(asked.get("file")) == STANDARD_INPUT or model.tokenizer is None:
        return []
    try:
        first = single_batch(model, PairOptions(**asked), "a circuit").first
    except CircuitsError:  # a file that is gone; the page does without
        return []
    pairs = zip(first.tokens[:MOST_PROMPTS], first.mask[:MOST_PROMPTS], strict=True)
    return [row[mask] for row, mask in pairs if int(mask.sum()) <= MOST_TOKENS]


def _rows(
    model: HookedModel, tokens: Tensor, heads: Collection[Component]
) -> Iterator[pd.DataFrame]:
    """Each head's weights on one prompt [p]: component, query, key and value."""
    patterns: dict[int, Tensor] = {}
    layers = sorted({head.layer for head in heads if head.layer is not None})

    def read(pattern: Tensor, hook: HookPoint) -> None:
        patterns[layers[len(patterns)]] = pattern[0].double().cpu()

    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    ids = tokens[None]
    with torch.inference_mode():
        model.run_with_hooks(ids, fwd_hooks=[(sites, read)], attention_mask=all_real(ids))
    for head in heads:
        assert head.layer is not None
        assert head.head is not None
        weights = patterns[head.layer][head.head].numpy()
        largest = weights.max(-1, keepdims=True)  # so that each query has a row
        query, key = np.nonzero(np.tril(weights >= np.minimum(largest, LEAST)))
        yield pd.DataFrame(
            {"component": str(head), "query": query, "key": key, "value": weights[query, key]}
        )
