"""Where does the information sit that makes the difference? Activation patching."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from circuits.components import Component
from circuits.effects import (
    BASE,
    EFFECT_MEANINGS,
    WHOLE,
    WORDS,
    Direction,
    Grid,
    MakeSweep,
    Patching,
    Positions,
    What,
    axes,
    by_template,
    cells_of,
    group_meanings,
    labels,
    measured,
    pair,
    pair_table,
    panels,
    planned,
    require_change,
    source_of,
    unit_of,
    what_of,
)
from circuits.model import HookedModel
from circuits.registry import PairOptions, RunOptions, TemplateOptions, analysis
from circuits.registry.asked_prompts import Batch, asked_prompts
from circuits.result import Result
from circuits.sweep import Cell


@analysis
def patch(
    model: HookedModel,
    *,
    what: What | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    positions: Positions | None = None,
    direction: Direction = "denoise",
    prompts: PairOptions,
    templates: TemplateOptions,
    how: RunOptions,
) -> Result:
    """Where does the information sit that makes the difference?

    Each prompt has a corrupted twin that lacks what the task is about. One part of the model at a
    time gets in one run the value that it has in the other; the share is how far that moves the
    metric, from 0 (as corrupted) to 1 (as clean). What runs before the part stays as it is.

    $ circuits patch --task ioi
    $ circuits patch --what head --task ioi --figure heads.png
    $ circuits patch --what attn --positions roles --direction noise --json
    $ circuits patch --component a5.h3@END --component m5@END --task ioi

    Args:
        what: Which parts, one at a time: the residual stream (resid_pre, resid_mid, resid_post),
            attention or MLP outputs by layer; head outputs, what heads read (q, k, v), or where
            they look (pattern). Without it, resid_pre.
        component: Patch this instead: a5.h3, a5, m7, m7.n12, resid_pre.6, a5.h3<q>; a5.h3@END at
            one position. Repeat it to patch several together.
        positions: One position at a time, by roles or by indices, or all at once. Without it, all
            at once for heads, otherwise indices, or roles where prompts differ in length.
        direction: Clean values into the corrupted run (denoise), or corrupted into clean (noise).

    Raises:
        CircuitsError: for prompts without twins; parts, positions and metrics that do not exist or
            do not fit together; and patches that change nothing.

    >>> from circuits.checkpoints import load
    >>> pair = {"prompt": "aAbBcdeBfg.", "corrupted": "aAbBcdeCfg.", "answer": "A"}
    >>> found = patch(load("compiled"), what="head", **pair, distractor="B")
    >>> found.top(1).frame[["component", "patched", "share"]].round(2).values.tolist()
    [['a2.h0', 10.0, 1.0]]
    """
    wanted, patching = Grid(what, component, positions), Patching(direction, prompts.metric)
    what_of(wanted)  # an unknown kind is refused before prompts are drawn
    batches = asked_prompts(model, prompts)
    if how.plan:
        ask = partial(_sweeps, model, wanted, patching)
        return planned(model, "patch", batches, ask, how, templates)
    return _patched(model, wanted, patching, batches, how, templates)


def _patched(
    model: HookedModel,
    wanted: Grid,
    patching: Patching,
    batches: Sequence[Batch],
    how: RunOptions,
    templates: TemplateOptions,
) -> Result:
    """What came of these patches, on all batches of prompts."""
    ask = partial(_sweeps, model, wanted, patching)
    frames, counts = [], []
    for batch, moments in measured(model, batches, ask, how, templates, full=1):
        cells = _cells(model, wanted, batch)
        hint = "choose another part, position or task"
        require_change(moments, range(2, len(cells)), f"patching {batch.first.task!r}", hint)
        rows = list(map(labels, cells[2:]))
        table = partial(pair_table, batch.first, labels=rows, patching=patching)
        frames.append(by_template(moments, templates, table))
        counts.append(moments.n)
    frame = pd.concat(frames)
    source = source_of(model, "patch", batches, counts, templates)
    question = "What restores it" if patching.direction == "denoise" else "What breaks it"
    parts = WORDS[what_of(wanted)] if wanted.component is None else frame["component"].iloc[0]
    columns = panels(axes(frame, wanted), templates, frame)
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"{question}? Patching {parts} ({patching.direction}, {source.model})",
        provenance=source,
        axes=columns,
        view="bars" if len(columns) == 1 else "heatmap",
        meanings=EFFECT_MEANINGS | group_meanings(templates, frame),
    )


def _cells(model: HookedModel, wanted: Grid, batch: Batch) -> tuple[Cell, ...]:
    return (BASE, WHOLE, *cells_of(model.cfg, batch.first, wanted))


def _sweeps(model: HookedModel, wanted: Grid, patching: Patching, batch: Batch) -> MakeSweep:
    """What is asked of each block of these prompts."""
    return partial(pair, cells=_cells(model, wanted, batch), patching=patching)
