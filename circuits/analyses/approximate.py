"""What would patching restore, by one gradient instead of many runs? Attribution patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from circuits.analyses._effects import (
    BASE,
    HOW,
    MEANINGS,
    WHOLE,
    Direction,
    MakeSweep,
    effect,
    measured,
    pair,
    pair_table,
    part_of,
    require_change,
    source_of,
    unit_of,
)
from circuits.analyses._grid import WORDS, Positions, axes, grid, labels, what_of
from circuits.analyses._prompts import Batch, chosen
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.prompts import Prompts
from circuits.registry import Progress, analysis
from circuits.result import Result
from circuits.sweep import Cell
from circuits.sweep.gradient import estimates

OWN = {
    "value": "estimated effect: (other run's value - own value) . gradient, mean over n",
    "patched": "the run that is patched, plus the estimated effect",
    "exact": "the effect of really patching it (only where it was checked)",
    "exact_low": "lower end of its 95 % interval",
    "exact_high": "upper end of its 95 % interval",
    "error": "the estimate minus the exact effect",
    "pearson": "correlation of estimates and exact effects, over the checked rows of the task",
    "spearman": "correlation of their ranks",
    "n_checked": "how many rows were checked",
}


@analysis
def approximate(
    model: HookedGPT2,
    *,
    what: Literal["resid_pre", "resid_mid", "resid_post", "attn", "mlp", "head"] | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    positions: Positions | None = None,
    direction: Direction = "denoise",
    check: Literal["all"] | int = 0,
    task: str | Prompts | None = None,
    prompt: str | Sequence[str] | None = None,
    corrupted: str | Sequence[str] | None = None,
    file: str | Path | None = None,
    answer: str | None = None,
    distractor: str | None = None,
    metric: str | None = None,
    n: int | None = None,
    seed: int = 0,
    memory: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """What would patching restore, by one gradient instead of many runs?

    Attribution patching estimates what `patch` measures: (other run's value - own value) times the
    gradient of the metric, for all parts from two runs and one backward pass. It is exact where
    the metric is linear in the part; saturated attention and LayerNorm make it wrong. How wrong is
    measured: some estimates are checked by really patching, and their agreement is the correlation
    of both (Pearson's and, of their ranks, Spearman's). Source: Nanda 2023, Syed et al. 2023
    (arXiv 2310.10348).

    $ circuits approximate --task ioi
    $ circuits approximate --what head --task ioi --check all --figure agreement.png
    $ circuits approximate --what mlp --positions roles --task ioi --figure mlps.png

    Args:
        what: Which parts: the residual stream (resid_pre, resid_mid, resid_post), attention or MLP
            outputs by layer, or head outputs. Without it, resid_pre.
        component: Estimate this instead: a5.h3, a5, m7, resid_pre.6; a5.h3@END at one position.
            Repeat it for several together.
        positions: One position at a time, by roles or by indices, or all at once. Without it, all
            at once for heads, otherwise indices, or roles where prompts differ in length.
        direction: Clean values into the corrupted run (denoise), or corrupted into clean (noise).
        check: Really patch so many of the largest estimates and as many drawn at random, or all.

    Raises:
        CircuitsError: as for `patch`; for a metric without a gradient; and where all gradients are
            zero.

    >>> from circuits.checkpoints import load
    >>> pair = {"prompt": "aAbBcdeBfg.", "corrupted": "aAbBcdeCfg.", "answer": "A"}
    >>> found = approximate(load("compiled"), what="head", check="all", **pair, distractor="B")
    >>> found.top(2).frame[["component", "value", "exact", "error"]].round(2).values.tolist()
    [['a1.h1', 200.0, 5.0, 195.0], ['a2.h0', 10.0, 10.0, 0.0]]
    """
    return _approximate(model, dict(locals()))


def _approximate(model: HookedGPT2, given: Mapping[str, Any]) -> Result:
    what = what_of(given)
    if given["check"] != "all" and (isinstance(given["check"], str) or given["check"] < 0):
        raise CircuitsError(f"check={given['check']}: check 0 or more of the estimates, or all")
    batches, frames, counts = chosen(model, given), [], []
    sizes = [len(batch.first) / batch.share for batch in batches]
    for i, batch in enumerate(batches):
        cells = grid(model.cfg, batch.first, given)
        ask = partial(pair, given=given, cells=cells)
        step = part_of(given["progress"], sum(sizes[:i]), sizes[i], sum(sizes))
        found = estimates(model, batch.blocks, ask, memory=given["memory"], progress=step)
        hint = "choose another part, position or task"
        require_change(found, range(2, len(cells) + 2), f"patching {batch.first.task!r}", hint)
        table = pair_table(batch.first, found, given, list(map(labels, cells)))
        frames.append(_checked(model, batch, cells, table, given))
        counts.append(found.n)
    frame = pd.concat(frames)
    source = source_of(model, "approximate", batches, given, counts)
    parts = WORDS[what] if given["component"] is None else frame["component"].iloc[0]
    columns = axes(frame, given)
    view = "bars" if len(columns) == 1 else "heatmap"
    if given["check"] and frame["exact"].notna().sum() > 1:
        columns, view = ("component", "value", "exact"), "scatter"
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"Estimated by gradient: patching {parts} ({given['direction']}, {source.model})",
        provenance=source,
        axes=columns,
        view=view,
        meanings=MEANINGS | OWN,
    )


def _checked(
    model: HookedGPT2,
    batch: Batch,
    cells: Sequence[Cell],
    table: pd.DataFrame,
    given: Mapping[str, Any],
) -> pd.DataFrame:
    """The table, with what patching really does for some estimates, and how the two agree."""
    if not given["check"]:
        return table
    some = _some(table, given)
    wanted = (BASE, WHOLE, *(cells[i] for i in some))

    def ask(batch: Batch) -> MakeSweep:
        return partial(pair, given=given, cells=wanted)

    how = {**given, **HOW, "memory": given["memory"], "progress": None}
    ((_, found),) = measured(model, "approximate", [batch], ask, how, full=1)
    exact = {i: effect(found, index) for index, i in enumerate(some, start=2)}
    columns = {"exact": "value", "exact_low": "ci_low", "exact_high": "ci_high"}
    more = {
        name: [exact[i][column] if i in exact else float("nan") for i in table.index]
        for name, column in columns.items()
    }
    checked: pd.DataFrame = table.assign(**more)
    checked["error"] = checked["value"] - checked["exact"]
    compared: pd.DataFrame = checked.assign(**agreement(checked))
    return compared


def _some(table: pd.DataFrame, given: Mapping[str, Any]) -> list[int]:
    """Which estimates are checked? All, or the largest and as many of the rest, at random.

    The largest alone would tell how wrong they are, but not whether a small one hides an effect.
    """
    order = table["value"].abs().sort_values(ascending=False, kind="stable").index.tolist()
    if given["check"] == "all":
        return order
    rest = order[given["check"] :]
    drawn = np.random.default_rng(given["seed"]).permutation(len(rest))[: given["check"]]
    return order[: given["check"]] + [rest[i] for i in sorted(drawn)]


def agreement(table: pd.DataFrame) -> dict[str, float]:
    """How do the estimates agree with exact patching, over the rows that have both?

    Pearson's correlation, Spearman's (that of the ranks), and how many rows; NaN where one side
    does not vary, as it is for less than two rows.

    >>> agreement(pd.DataFrame({"value": [1.0, 2.0, 9.0], "exact": [1.0, 3.0, 4.0]}))["spearman"]
    1.0
    """
    known = table.dropna(subset=["exact"])
    ranks = known[["value", "exact"]].rank()
    return {
        "pearson": _correlation(known["value"], known["exact"]),
        "spearman": _correlation(ranks["value"], ranks["exact"]),
        "n_checked": len(known),
    }


def _correlation(one: pd.Series[float], other: pd.Series[float]) -> float:
    if len(one) < 2 or one.nunique() < 2 or other.nunique() < 2:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
