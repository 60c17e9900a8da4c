"""What would patching restore, by one gradient instead of many runs? Attribution patching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from circuits.agreement import pearson, spearman
from circuits.components import Component
from circuits.effects import (
    BASE,
    EFFECT_MEANINGS,
    WHOLE,
    WORDS,
    Direction,
    Grid,
    Patching,
    Positions,
    axes,
    by_template,
    cells_of,
    effect,
    every_pair,
    group_meanings,
    label_of,
    labels,
    measured,
    measured_over,
    pair,
    pair_table,
    panels,
    require_change,
    require_templates,
    share_of_progress,
    source_of,
    unit_of,
    what_of,
)
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.registry import MemoryOptions, PairOptions, RunOptions, TemplateOptions, analysis
from circuits.registry.asked_prompts import Batch, asked_prompts
from circuits.result import Result
from circuits.sweep import Cell
from circuits.sweep.gradient import estimates
from circuits.sweep.moments import Moments

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


OF_GROUP = {"pearson": OWN["pearson"].replace("task", "group")}


@analysis
def approximate(
    model: HookedModel,
    *,
    what: Literal["resid_pre", "resid_mid", "resid_post", "attn", "mlp", "head"] | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    positions: Positions | None = None,
    direction: Direction = "denoise",
    check: Literal["all"] | int = 0,
    prompts: PairOptions,
    templates: TemplateOptions,
    how: MemoryOptions,
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
    wanted, patching = Grid(what, component, positions), Patching(direction, prompts.metric)
    what_of(wanted)  # an unknown kind is refused before prompts are drawn
    if check != "all" and (isinstance(check, str) or check < 0):
        raise CircuitsError(f"check={check}: check 0 or more of the estimates, or all")
    asked = _Asked(wanted, patching, check, prompts.seed)
    return _estimated(model, asked, asked_prompts(model, prompts), templates, how)


@dataclass(frozen=True)
class _Asked:
    """What is patched and measured, and how many of the largest estimates are checked.

    As many others are, drawn with the seed.
    """

    wanted: Grid
    patching: Patching
    check: Literal["all"] | int
    seed: int


def _estimated(
    model: HookedModel,
    asked: _Asked,
    batches: Sequence[Batch],
    templates: TemplateOptions,
    how: MemoryOptions,
) -> Result:
    """The estimates on all batches of prompts, and what came of checking them."""
    require_templates(batches, templates)
    wanted, patching, frames, counts = asked.wanted, asked.patching, [], []
    sizes = [len(batch.first) / batch.share for batch in batches]
    for i, batch in enumerate(batches):
        cells = cells_of(model.cfg, batch.first, wanted)
        ask = partial(pair, cells=cells, patching=patching)
        step = share_of_progress(how.progress, sum(sizes[:i]), sizes[i], sum(sizes))
        moments = estimates(
            model,
            batch.blocks,
            ask,
            memory=how.memory,
            progress=step,
            draws=how.draws,
            label=label_of(templates),
        )
        moments = measured_over(moments, batch, templates)
        hint = "choose another part, position or task"
        require_change(moments, range(2, len(cells) + 2), f"patching {batch.first.task!r}", hint)
        table = partial(pair_table, batch.first, labels=list(map(labels, cells)), patching=patching)
        if asked.check:
            some = _some(table(moments), asked)
            run = partial(_exact, model, batch, [cells[i] for i in some], patching, how.memory)
            table = partial(_compared, table, some, _beside(moments, run(templates)))
        frames.append(by_template(moments, templates, table))
        counts.append(moments.n)
    frame = pd.concat(frames)
    source = source_of(model, "approximate", batches, counts, templates)
    parts = WORDS[what_of(wanted)] if wanted.component is None else frame["component"].iloc[0]
    columns = panels(axes(frame, wanted), templates, frame)
    view = "bars" if len(columns) == 1 else "heatmap"
    if asked.check and frame["exact"].notna().sum() > 1:
        columns, view = ("component", "value", "exact"), "scatter"
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"Estimated by gradient: patching {parts} ({patching.direction}, {source.model})",
        provenance=source,
        axes=columns,
        view=view,
        meanings=EFFECT_MEANINGS
        | group_meanings(templates, frame)
        | (OWN if templates.by is None else OWN | OF_GROUP),
    )


def _exact(
    model: HookedModel,
    batch: Batch,
    cells: Sequence[Cell],
    patching: Patching,
    memory: str | None,
    templates: TemplateOptions,
) -> Moments:
    """What really patching each of these cells does: BASE and WHOLE come first."""
    ask = every_pair((BASE, WHOLE, *cells), patching)
    how = RunOptions(memory=memory)
    ((_, moments),) = measured(model, [batch], ask, how, templates, full=1)
    return moments


def _beside(moments: Moments, exact: Moments) -> dict[Moments, Moments]:
    """What is exact, beside what is estimated: of all prompts, and of each group."""
    of_groups = {part: exact.groups[label] for label, part in moments.groups.items()}
    return {moments: exact, **of_groups}


def _compared(
    estimated: Callable[[Moments], pd.DataFrame],
    some: Sequence[int],
    exact: Mapping[Moments, Moments],
    moments: Moments,
) -> pd.DataFrame:
    """The table with the exact effects of some of its rows, and how the two agree."""
    table = estimated(moments)
    known = {row: effect(exact[moments], index) for index, row in enumerate(some, start=2)}
    columns = {"exact": "value", "exact_low": "ci_low", "exact_high": "ci_high"}
    more = {
        name: [known[i][column] if i in known else float("nan") for i in table.index]
        for name, column in columns.items()
    }
    checked: pd.DataFrame = table.assign(**more)
    checked["error"] = checked["value"] - checked["exact"]
    compared: pd.DataFrame = checked.assign(**agreement(checked))
    return compared


def _some(table: pd.DataFrame, asked: _Asked) -> list[int]:
    """The estimates that are checked: all, or the largest and as many of the rest, at random.

    The largest alone would tell how wrong they are, but not whether a small one hides an effect.
    """
    order = table["value"].abs().sort_values(ascending=False, kind="stable").index.tolist()
    if asked.check == "all":
        return order
    rest = order[asked.check :]
    drawn = np.random.default_rng(asked.seed).permutation(len(rest))[: asked.check]
    return order[: asked.check] + [rest[i] for i in sorted(drawn)]


def agreement(table: pd.DataFrame) -> dict[str, float]:
    """How well the estimates agree with exact patching, over the rows that have both.

    Pearson's correlation, Spearman's (that of the ranks), and how many rows; NaN where one side
    does not vary, as it is for less than two rows.

    >>> agreement(pd.DataFrame({"value": [1.0, 2.0, 9.0], "exact": [1.0, 3.0, 4.0]}))["spearman"]
    1.0
    """
    known = table.dropna(subset=["exact"])
    return {
        "pearson": pearson(known["value"], known["exact"]),
        "spearman": spearman(known["value"], known["exact"]),
        "n_checked": len(known),
    }
