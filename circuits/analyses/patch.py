"""Where does the information sit that makes the difference? Activation patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.analyses._effects import (
    BASE,
    MEANINGS,
    WHOLE,
    Direction,
    MakeSweep,
    measured,
    pair,
    pair_table,
    planned,
    require_change,
    source_of,
    unit_of,
)
from circuits.analyses._grid import WORDS, Positions, What, axes, grid, labels, what_of
from circuits.analyses._prompts import Batch, chosen
from circuits.analyses._templates import MEANINGS as TEMPLATES
from circuits.analyses._templates import By, by_template, panels
from circuits.components import Component
from circuits.model import HookedGPT2
from circuits.prompts import Prompts
from circuits.registry import Progress, analysis
from circuits.result import Result
from circuits.sweep import Cell


@analysis
def patch(
    model: HookedGPT2,
    *,
    what: What | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    positions: Positions | None = None,
    direction: Direction = "denoise",
    task: str | Prompts | None = None,
    prompt: str | Sequence[str] | None = None,
    corrupted: str | Sequence[str] | None = None,
    file: str | Path | None = None,
    answer: str | None = None,
    distractor: str | None = None,
    metric: str | None = None,
    n: int | None = None,
    seed: int = 0,
    by: By | None = None,
    cluster: By | None = None,
    memory: str | None = None,
    plan: bool = False,
    engine: str = "local",
    parts: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
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
    return _patch(model, dict(locals()))


def _patch(model: HookedGPT2, given: Mapping[str, Any]) -> Result:
    what = what_of(given)
    batches, ask = chosen(model, given), partial(_sweeps, model, given)
    if given["plan"]:
        return planned(model, "patch", batches, ask, given)
    frames, counts = [], []
    for batch, found in measured(model, "patch", batches, ask, given, full=1):
        cells = _cells(model, batch, given)
        hint = "choose another part, position or task"
        require_change(found, range(2, len(cells)), f"patching {batch.first.task!r}", hint)
        rows = list(map(labels, cells[2:]))
        table = partial(pair_table, batch.first, given=given, labels=rows)
        frames.append(by_template(found, given, table))
        counts.append(found.n)
    frame = pd.concat(frames)
    source = source_of(model, "patch", batches, given, counts)
    asked = "What restores it" if given["direction"] == "denoise" else "What breaks it"
    parts = WORDS[what] if given["component"] is None else frame["component"].iloc[0]
    columns = panels(axes(frame, given), given)
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"{asked}? Patching {parts} ({given['direction']}, {source.model})",
        provenance=source,
        axes=columns,
        view="bars" if len(columns) == 1 else "heatmap",
        meanings=MEANINGS | TEMPLATES,
    )


def _cells(model: HookedGPT2, batch: Batch, given: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (BASE, WHOLE, *grid(model.cfg, batch.first, given))


def _sweeps(model: HookedGPT2, given: Mapping[str, Any], batch: Batch) -> MakeSweep:
    """What is asked of each block of these prompts?"""
    cells = _cells(model, batch, given)
    return lambda prompts: pair(prompts, given, cells)
