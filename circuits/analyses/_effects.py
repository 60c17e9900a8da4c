"""What the analyses that sweep have in common: how they measure, plan, and say what they found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from circuits.analyses._prompts import Batch
from circuits.analyses._templates import measured_over, population_of, require_templates
from circuits.components import Component
from circuits.errors import CircuitsError, nearest
from circuits.metrics import Metric, get_metric
from circuits.model import HookedGPT2
from circuits.prompts import PromptFile, Prompts
from circuits.registry import Progress, asked
from circuits.result import Provenance, Result, provenance
from circuits.sweep import Cell, Source, Sweep, cell, estimate, plan
from circuits.sweep.moments import Differences, Moments
from circuits.sweep.parts import MANIFEST
from circuits.sweep.survey import How, survey

Direction = Literal["denoise", "noise"]
DIRECTIONS = ("denoise", "noise")
# Options that change no number, as they are when nobody gives them.
HOW: Mapping[str, Any] = {"memory": None, "engine": "local", "parts": None, "resume": False}
BASE: Cell = cell()
WHOLE: Cell = cell("resid_pre.0")  # everything patched: the whole other run
MakeSweep = Callable[[Prompts], Sweep]
MEANINGS = {
    "task": "which prompts",
    "component": "what was patched; plus signs join what was patched together",
    "metric": "what was measured",
    "unit": "of all columns but the shares",
    "value": "the effect: patched minus the run that was patched, mean over n",
    "clean": "the metric of the clean prompts, mean over n",
    "corrupted": "the metric of their corrupted twins, mean over n",
    "patched": "the metric after patching, mean over n",
    "layer": "of the component",
    "head": "of the component, where it is one",
    "position": "where it was patched: a role of the prompts, or an index; empty for everywhere",
    "share": "of the way from corrupted (0) to clean (1), of the means",
    "share_low": "lower end of its 95 % interval (a ratio estimator's)",
    "share_high": "upper end of its 95 % interval",
}
PLAN_MEANINGS = {
    "task": "which prompts",
    "cells": "interventions, each of them on every prompt",
    "prompts": "how many",
    "forwards": "passes through the whole model that a loop would need",
    "work": "passes that are needed after all savings",
    "saved": "share of the passes that need not be computed",
    "value": "seconds, estimated from a measured pilot",
    "bytes": "of memory besides the weights, estimated from the same pilot",
}


def metric_of(prompts: Prompts, given: Mapping[str, Any]) -> Metric:
    """Which metric: the one asked for, or the task's own?

    Raises:
        CircuitsError: when it does not exist, or these prompts lack what it needs.
    """
    metric = get_metric(given["metric"] or prompts.metric)
    metric.check(prompts, clean=True)
    return metric


def pair(prompts: Prompts, given: Mapping[str, Any], cells: Sequence[Cell]) -> Sweep:
    """The sweep that patches one run of each pair into the other, in the `direction` given.

    denoise: clean values into the corrupted run; noise: corrupted values into the clean run.

    Raises:
        CircuitsError: for an unknown direction, and prompts without a corrupted twin.
    """
    direction = given["direction"]
    if direction not in DIRECTIONS:
        raise CircuitsError(
            f"there is no direction {direction!r}; choose {' or '.join(DIRECTIONS)}"
            f"{nearest(direction, DIRECTIONS)}"
        )
    clean, corrupted = prompts.tokens, prompts.corrupted
    if corrupted is None:
        raise CircuitsError(
            f"the prompts of {prompts.task!r} have no corrupted twins to patch from; give one with "
            "each prompt (corrupted=, or a column 'corrupted' in a .csv or .jsonl file), or choose "
            "a task"
        )
    if torch.equal(clean[prompts.mask], corrupted[prompts.mask]):
        raise CircuitsError(
            f"the corrupted twins of {prompts.task!r} are the clean prompts themselves, so there "
            "is no difference to trace; change in each the tokens that matter"
        )
    other = corrupted
    if direction == "denoise":
        prompts, other = replace(prompts, tokens=corrupted, corrupted=clean), clean
    source = Source("resample", other, prompts.mask)
    hold = given.get("hold", "all")
    return Sweep(prompts, metric_of(prompts, given), tuple(cells), source, clean=clean, hold=hold)


def parts_of(component: str | Component | Sequence[str | Component] | None) -> list[Component]:
    """The components that were named, one or several, as words or as such."""
    named = [component] if isinstance(component, str | Component) else list(component or ())
    found = cell(*named)
    if any(write.senders for write in found):
        raise CircuitsError(
            f"{component!r} is an edge; name a component, or trace edges with the analysis 'paths'"
        )
    return [write.target for write in found]


def measured(
    model: HookedGPT2,
    name: str,
    batches: Sequence[Batch],
    make: Callable[[Batch], MakeSweep],
    given: Mapping[str, Any],
    full: int | None = None,
    differences: Differences = (),
) -> Iterator[tuple[Batch, Moments]]:
    """Each batch with what came of its sweep. `full` is the cell that shares compare with.

    `name` is the analysis'; for `differences` see `circuits.sweep.moments.moments`.
    """
    more: dict[str, Any] = {"full": full, "differences": differences}
    require_templates(batches, given)
    about = {"analysis": name, **_arguments(name, given)}
    sizes = [batch.first.tokens.numel() / batch.share for batch in batches]
    parts = None if given["parts"] is None else Path(given["parts"])
    folders = [
        parts / batch.first.task if parts and len(batches) > 1 else parts for batch in batches
    ]
    begun = [folder is not None and (folder / MANIFEST).exists() for folder in folders]
    for i, (batch, folder) in enumerate(zip(batches, folders, strict=True)):
        how = How(
            memory=given["memory"],
            engine=given["engine"],
            parts=folder,
            # A run that ended amid one task has not begun the next.
            resume=given["resume"] and (begun[i] or not any(begun)),
            progress=part_of(given["progress"], sum(sizes[:i]), sizes[i], sum(sizes)),
        )
        found = survey(model, batch.blocks, make(batch), how, question=about, **more)
        yield batch, measured_over(found, batch, given)


def _arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What an analysis was asked, but for how and where it shall run."""
    arguments = asked(name, given)["arguments"]
    # What stands in the parts is of single prompts, whatever is said of them.
    left_out = {*HOW, "file", "plan", "by", "cluster"}
    return {key: value for key, value in arguments.items() if key not in left_out}


def part_of(progress: Progress | None, before: float, own: float, total: float) -> Progress | None:
    """Progress in thousandths of the whole, where this is only a part of it."""
    if progress is None:
        return None

    def step(done: int, of: int) -> None:
        progress(round(1000 * (before + own * done / max(of, 1)) / total), 1000)

    return step


def planned(
    model: HookedGPT2,
    name: str,
    batches: Sequence[Batch],
    make: Callable[[Batch], MakeSweep],
    given: Mapping[str, Any],
) -> Result:
    """What would be computed, and what would it cost? One row a batch; nothing is run.

    A file is read to its end, so that its prompts are counted and its lines known to be sound; what
    they cost is estimated from its first block.
    """
    require_templates(batches, given)
    rows, counts = [], []
    for batch in batches:
        found = plan(model, make(batch)(batch.first), memory=given["memory"])
        n = batch.blocks.count() if isinstance(batch.blocks, PromptFile) else found.n_prompts
        times = n / found.n_prompts
        counts.append(n)
        rows.append(
            {
                "task": batch.first.task,
                "cells": found.n_cells,
                "prompts": n,
                "forwards": round(found.forwards * times),
                "work": found.work * times,
                "saved": 1 - found.work / found.forwards,
                "value": estimate(model, found) * times,
                "bytes": found.bytes,
            }
        )
    return Result(
        pd.DataFrame(rows),
        unit="seconds",
        title=f"What would {name} compute? ({model.cfg.model_name})",
        provenance=source_of(model, name, batches, given, counts),
        axes=("task",),
        meanings=PLAN_MEANINGS,
    )


def source_of(
    model: HookedGPT2,
    name: str,
    batches: Sequence[Batch],
    given: Mapping[str, Any],
    counts: Sequence[int] = (),
) -> Provenance:
    """Where a result comes from, of all batches; `counts` are the prompts that were in each."""
    firsts = [batch.first for batch in batches]
    about = provenance(model, name, **asked(name, {**given, **HOW}), prompts=firsts[0])
    counts = counts or [len(prompts) for prompts in firsts]
    sums = [_checksum(batch, n) for batch, n in zip(batches, counts, strict=True)]
    return replace(
        about,
        task=", ".join(prompts.task for prompts in firsts),
        prompts=", ".join(sums),
        n_prompts=sum(counts),
        population=_populations(batches, given, counts),
    )


def _populations(
    batches: Sequence[Batch], given: Mapping[str, Any], counts: Sequence[int]
) -> str | None:
    """Over which prompts are the means and intervals? Of several tasks, said of each."""
    said = [population_of(batch, given, n) for batch, n in zip(batches, counts, strict=True)]
    if len(set(said)) == 1:
        return said[0]
    named = zip(batches, said, strict=True)
    return "; ".join(f"{batch.first.task}: {text}" for batch, text in named if text is not None)


def _checksum(batch: Batch, n: int) -> str:
    """Of the prompts; of a file that was read in several blocks, of its bytes."""
    if batch.file is None or n == len(batch.first):
        return batch.first.checksum
    digest = hashlib.sha256()
    with batch.file.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[:16]


def unit_of(frame: pd.DataFrame) -> str:
    """The unit of `value`; of several tasks, each one's."""
    units = frame.drop_duplicates("task")
    if units["unit"].nunique() == 1:
        return str(frame["unit"].iloc[0])
    return ", ".join(f"{u} ({t})" for u, t in zip(units["unit"], units["task"], strict=True))


def effect(found: Moments, index: int) -> dict[str, float]:
    """The columns value to n of one cell."""
    return {name: column[index].item() for name, column in found.interval().items()}


def shares(found: Moments, *, turned: bool) -> Mapping[str, Any]:
    """Each cell's share of the whole effect, or `turned`, how much it leaves. Columns [c]."""
    ratio = found.ratio()
    low, value, high = (np.asarray(ratio[name]) for name in ("ci_low", "value", "ci_high"))
    if turned:
        low, value, high = 1 - high, 1 - value, 1 - low
    return {"share": value + 0.0, "share_low": low, "share_high": high}  # -0.0 becomes 0.0


def ends(found: Moments, direction: str) -> dict[str, float]:
    """The metric of the two runs themselves; the cells are BASE, WHOLE, ..."""
    base, other = found.value[0].item(), found.value[1].item()
    if direction == "noise":
        return {"clean": base, "corrupted": other}
    return {"clean": other, "corrupted": base}


def pair_table(
    prompts: Prompts,
    found: Moments,
    given: Mapping[str, Any],
    labels: Sequence[Mapping[str, Any]],
    *,
    of_whole: bool = False,
) -> pd.DataFrame:
    """A row for each cell after BASE and WHOLE, with these `labels`.

    Shares are of the way from corrupted to clean, or `of_whole`, of the whole effect.
    """
    metric, direction = metric_of(prompts, given), given["direction"]
    both = ends(found, direction)
    share = shares(found, turned=direction == "noise" and not of_whole)
    rows = [
        {
            "task": prompts.task,
            **label,
            "metric": metric.name,
            "unit": metric.unit,
            **both,
            "patched": found.value[index].item(),
            **effect(found, index),
            **{column: values[index].item() for column, values in share.items()},
        }
        for index, label in enumerate(labels, start=2)
    ]
    frame: pd.DataFrame = pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})
    return frame


def require_change(found: Moments, cells: Sequence[int], what: str, hint: str) -> None:
    """Did any of these cells change anything? Silence is an error here.

    Raises:
        CircuitsError: when none did.
    """
    if not found.changed[list(cells)].any():
        raise CircuitsError(
            f"{what} changed nothing: on these prompts it writes what is there already, or only "
            f"where nothing that is measured can see it, so there is no effect to measure; {hint}"
        )
