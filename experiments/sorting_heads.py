"""Which of the nine heads of `sort-abc` does what: where it looks, what it writes, what breaks?"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from circuits.analyses.ablate import ablate
from circuits.experiment import interval, table
from circuits.result import Result

if TYPE_CHECKING:
    from sorting import Words

PLACES = 6  # where a letter is written


def head_tables(data: Words, name: str, n: int, seed: int) -> dict[str, Result]:
    """For the experiment `name`: a table each of looks, of counts written, of what breaks."""
    model = data.model
    with torch.inference_mode():
        looks, counts = looks_table(data), written_table(data, seed)
    title = "Which letters a head looks at, mean over six places"
    about = {"axes": ("component", "letters"), "view": "heatmap"}
    means = {"letters": "which letters it looks at", "component": "the head"}
    found = ablate(model, all_heads=True, method="resample", task="sorting", n=n, seed=seed)
    return {
        "head_looks": table(
            model, name, looks, "times even attention", title, meanings=means, **about
        ),
        "head_counts": table(
            model,
            name,
            counts,
            "R²",
            "Counts of A, B and C, read from what one head mixed (words with new counts)",
            axes=("component", "counts"),
            view="heatmap",
            meanings={"counts": "whose counts are asked for", "component": "the head"},
        ),
        "head_ablations": found,
    }


def looks_table(data: Words) -> pd.DataFrame:
    """How much does each head look at one letter of a kind, next to an even look?"""
    rows = []
    for layer, head in product(range(data.model.cfg.n_layers), range(data.model.cfg.n_heads)):
        pattern = data.cache["pattern", layer][:, head].double()
        kinds = {f"{letter} in the word": i for i, letter in enumerate("ABC")}
        found = {name: in_word(data, pattern, data.words == i) for name, i in kinds.items()}
        nexts = torch.stack([data.words == data.answers[:, k, None] for k in range(PLACES)], 1)
        found["next letter, in the word"] = in_word(data, pattern, nexts)
        first = data.words.shape[1]
        after = [pattern[:, first - 1 + k, first:].sum(1) / k * (first + k) for k in range(1, 6)]
        found["written letters"] = torch.stack(after, 1).mean(1)
        for name, values in found.items():
            rows.append({"component": f"a{layer}.h{head}", "letters": name, **interval(values)})
    return pd.DataFrame(rows)


def in_word(data: Words, pattern: Tensor, of_kind: Tensor) -> Tensor:
    """The look [words] at one letter `of_kind` ([words 6], or [words 6 6] by place) in the word."""
    first = data.words.shape[1]
    if of_kind.ndim == 2:
        of_kind = of_kind[:, None].expand(-1, PLACES, -1)
    has = of_kind[:, 0].any(1)
    even = 1 / (first + torch.arange(PLACES))
    weight = pattern[:, first - 1 : first - 1 + PLACES, :first] * of_kind
    return (weight.sum(2) / of_kind.sum(2) / even).mean(1)[has]


def written_table(data: Words, seed: int) -> pd.DataFrame:
    """How well can counts be read from each head alone? Mean over six places, all words."""
    draw = torch.Generator().manual_seed(seed)
    asked = {"the word's": data.counts, "another word's": data.shuffled(draw)}
    rows = []
    for layer, head in product(range(data.model.cfg.n_layers), range(data.model.cfg.n_heads)):
        mixed = data.cache["z", layer][:, data.words.shape[1] - 1 :, head].double()
        for name, counts in asked.items():
            spread = (counts - counts.mean(0)).square().sum()
            missed = [
                (data.fitted(mixed[:, k], counts) - counts).square().sum() for k in range(PLACES)
            ]
            r2 = 1 - torch.stack(missed) / spread
            rows.append({"component": f"a{layer}.h{head}", "counts": name, **interval(r2)})
    return pd.DataFrame(rows)
