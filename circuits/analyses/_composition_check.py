"""Do the heads that could read each other do so? Path patching on the pairs that stand out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.analyses._effects import (
    BASE,
    WHOLE,
    Patching,
    every_pair,
    measured,
    pair_table,
    require_change,
    source_of,
    unit_of,
)
from circuits.analyses._effects import MEANINGS as EFFECT_MEANINGS
from circuits.analyses._prompts import chosen
from circuits.analyses._reading import MEANINGS as SCORE_MEANINGS
from circuits.components import parse, parse_edge
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.registry import MeasureOptions, RunOptions
from circuits.result import Result
from circuits.sweep import cell

SHUFFLES = 10_000
InWords = str | list[str] | None  # components by their names, as they were given
MEANINGS = {
    **SCORE_MEANINGS,
    **EFFECT_MEANINGS,
    "edge": "who reads whom: sender->receiver<slot>; patched was this edge alone",
    "chosen": "whether the pair stands out by z (top) or was drawn from the others (random), of "
    "the same senders where they have more",
    "excess": "composition score minus its baseline",
    "size": "of the effect, without its sign",
    "agreement": "rank correlation (Spearman) of z and size over the task's pairs",
    "p_value": "share of random orders of each block's pairs that agree at least as well; empty "
    "where no block has two pairs",
    "blocks": "within what pairs were put in another order: their sender, or where none comes "
    "twice, their receiver",
    "share": "of the total effect, which patching everything has (of the means)",
}


def patched(
    model: HookedModel,
    pairs: pd.DataFrame,
    n: int,
    prompts: MeasureOptions,
    named: Mapping[str, InWords],
    how: RunOptions,
) -> Result:
    """The effect of `n` chosen edges on the task, and how it agrees with their scores.

    `named` are the arguments that name heads, in words.

    Raises:
        CircuitsError: as path patching.
    """
    rows, patching = _chosen(pairs, n, prompts.seed), Patching("noise", prompts.metric)
    cells = (BASE, WHOLE, *(cell(parse_edge(edge)) for edge in rows["edge"]))
    batches, ask = chosen(model, prompts), every_pair(cells, patching)
    frames, counts = [], []
    for batch, moments in measured(model, batches, ask, how, full=1):
        what = f"patching each of these edges on {batch.first.task!r}"
        require_change(moments, range(2, len(cells)), what, "choose other heads, or another task")
        labels = [_label(row) for _, row in rows.iterrows()]
        table = pair_table(batch.first, moments, labels, patching, of_whole=True)
        frames.append(_with_agreement(table.drop(columns=["layer", "head"]), prompts.seed))
        counts.append(moments.n)
    frame = pd.concat(frames, ignore_index=True)
    source = source_of(model, "composition", batches, counts)
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"Do heads read each other where they could? ({model.cfg.model_name})",
        provenance=replace(source, arguments=named),
        axes=("edge", "z", "share"),
        view="plane",
        meanings=MEANINGS,
    )


def _chosen(pairs: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """The pairs of highest z, and as many of the others: of the same senders, if there are."""
    order = pairs.dropna(subset="z").sort_values("z", ascending=False, kind="stable")
    if len(order) < 3:
        raise CircuitsError(
            f"{len(order)} pairs of heads that are not zero are too few to compare scores with "
            "effects: choose more heads"
        )
    top, others = order.head(n), order.iloc[n:]
    drawn = np.random.default_rng(seed).permutation(len(others))
    senders = others["sender"].to_numpy()[drawn]
    # How often has a pair's sender been drawn before, and how often is it among the top?
    before = pd.Series(senders).groupby(senders).cumcount().to_numpy()
    wanted = top["sender"].value_counts().reindex(senders, fill_value=0).to_numpy()
    matched = np.argsort(before >= wanted, kind="stable")  # the others fill up
    random = others.iloc[np.sort(drawn[matched][:n])]
    both: pd.DataFrame = pd.concat([top.assign(chosen="top"), random.assign(chosen="random")])
    return both


def _label(row: pd.Series[Any]) -> dict[str, Any]:
    sender = parse(row["sender"])
    names = ("edge", "slot", "sender", "receiver", "chosen", "score", "baseline", "z")
    label = {name: row[name] for name in names}
    return label | {"excess": row["value"], "layer": sender.layer, "head": sender.head}


def _with_agreement(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same table, and how well z orders the pairs by their effect."""
    size = table["value"].abs()
    receivers = table["receiver"] + "<" + table["slot"] + ">"
    repeated = bool(table["sender"].duplicated().any())
    codes = pd.factorize(table["sender"] if repeated else receivers)[0]
    found, p_value = agreement(
        table["z"].to_numpy(float), size.to_numpy(float), codes, np.random.default_rng(seed)
    )
    blocks = "sender" if repeated else "receiver"
    compared: pd.DataFrame = table.assign(
        size=size, agreement=found, p_value=p_value, blocks=blocks
    )
    return compared


def agreement(
    z: NDArray[np.float64],
    size: NDArray[np.float64],
    blocks: NDArray[np.int64],
    rng: np.random.Generator,
    shuffles: int = SHUFFLES,
) -> tuple[float, float]:
    """How well does z [n] order effects [n], and how often would chance do as well?

    Spearman's rank correlation, and the share of orders that agree at least as well when effects
    change places within each block [n] only. A sender of much has large effects on whoever reads
    it, and its z may be high for all; such pairs are no independent draws, but exchangeable among
    each other where z does not tell who reads it. NaN where nothing can change places.
    """
    x, y = (pd.Series(column).rank().to_numpy(float) for column in (z, size))
    found = float(_correlation(x, y[None])[0])
    by_block = np.argsort(blocks, kind="stable")
    if not np.isfinite(found) or len(np.unique(blocks)) == len(blocks):
        return found, np.nan
    keys = blocks[by_block] + rng.random((shuffles, len(y)))  # sorts within blocks
    shuffled = np.empty_like(keys)
    shuffled[:, by_block] = y[by_block[np.argsort(keys, axis=1)]]
    as_good = _correlation(x, shuffled) >= found - 1e-12
    return found, (int(as_good.sum()) + 1) / (shuffles + 1)


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of x [n] with each row of y [m n]; NaN where one of them is constant."""
    x, y = x - x.mean(), y - y.mean(1, keepdims=True)
    size = np.sqrt((x**2).sum() * (y**2).sum(1))
    safe = np.where(size > 0, size, np.nan)
    found: NDArray[np.float64] = (y @ x) / safe
    return found
