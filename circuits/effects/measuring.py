"""What the analyses that sweep have in common: how they measure, plan, and say what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.components import Component
from circuits.effects.templates import (
    label_of,
    measured_over,
    population_of,
    require_templates,
)
from circuits.errors import CircuitsError, nearest
from circuits.files import named_path
from circuits.metrics import Metric, get_metric
from circuits.model import HookedModel
from circuits.prompts import PromptFile, Prompts
from circuits.registry import Progress, RunOptions, TemplateOptions
from circuits.registry.asked_prompts import Batch
from circuits.result import Provenance, Result, provenance
from circuits.sweep import Cell, CircuitSweep, Source, Sweep, cell, estimate, plan
from circuits.sweep.cells import Hold
from circuits.sweep.moments import Differences, Moments
from circuits.sweep.parts import MANIFEST
from circuits.sweep.survey import How, survey

Direction = Literal["denoise", "noise"]
DIRECTIONS = ("denoise", "noise")
ALL_ALIKE = TemplateOptions()  # templates are not told apart
BASE: Cell = cell()
WHOLE: Cell = cell("resid_pre.0")  # everything patched: the whole other run
MakeSweep = Callable[[Prompts], Sweep] | Callable[[Prompts], CircuitSweep]
Label = Mapping[str, str | int | float | None]  # what a row of a table is about
Named = str | Component | Sequence[str | Component] | None  # components, by name or as such
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
    "weights": "bytes of the weights themselves",
}


def metric_of(prompts: Prompts, metric: str | Metric | None) -> Metric:
    """The metric that was asked for, by name or as such, or the task's own.

    Raises:
        CircuitsError: when it does not exist, or these prompts lack what it needs.
    """
    asked = prompts.metric if metric is None else metric
    metric = asked if isinstance(asked, Metric) else get_metric(asked)
    metric.check(prompts, clean=True)
    return metric


@dataclass(frozen=True)
class Patching:
    """How one run of each pair is patched into the other, and what is measured.

    `direction` is denoise, clean values into the corrupted run, or noise, corrupted values into the
    clean run; for `hold` see `circuits.sweep.Sweep`.
    """

    direction: str
    metric: str | Metric | None = None
    hold: Hold = "all"


def pair(prompts: Prompts, cells: Sequence[Cell], patching: Patching) -> Sweep:
    """The sweep that patches one run of each pair into the other.

    Raises:
        CircuitsError: for an unknown direction, and prompts without a corrupted twin.
    """
    direction = patching.direction
    if direction not in DIRECTIONS:
        raise CircuitsError(
            f"there is no direction {direction!r}; choose {' or '.join(DIRECTIONS)}"
            f"{nearest(direction, DIRECTIONS)}"
        )
    clean = prompts.tokens
    corrupted = other = twins_of(prompts)
    if direction == "denoise":
        prompts, other = replace(prompts, tokens=corrupted, corrupted=clean), clean
    source = Source("resample", other, prompts.mask)
    metric = metric_of(prompts, patching.metric)
    return Sweep(prompts, metric, tuple(cells), source, clean=clean, hold=patching.hold)


def twins_of(prompts: Prompts) -> Tensor:
    """The corrupted twins [b p] of these prompts.

    Raises:
        CircuitsError: when they have none, or these are the prompts themselves.
    """
    corrupted = prompts.corrupted
    if corrupted is None and prompts.unequal is not None:
        raise CircuitsError(prompts.unequal)
    if corrupted is None:
        raise CircuitsError(
            f"the prompts of {prompts.task!r} have no corrupted twins to patch from; give one with "
            "each prompt (corrupted=, or a column 'corrupted' in a .csv or .jsonl file), or choose "
            "a task"
        )
    if torch.equal(prompts.tokens[prompts.mask], corrupted[prompts.mask]):
        raise CircuitsError(
            f"the corrupted twins of {prompts.task!r} are the clean prompts themselves, so there "
            "is no difference to trace; change in each the tokens that matter"
        )
    return corrupted


def every_pair(cells: Sequence[Cell], patching: Patching) -> Callable[[Batch], MakeSweep]:
    """The same cells patched on the pairs of every batch."""
    return lambda batch: partial(pair, cells=cells, patching=patching)


def components_of(component: Named) -> list[Component]:
    """The components that were named, one or several, as words or as such."""
    named = [component] if isinstance(component, str | Component) else list(component or ())
    writes = cell(*named)
    if any(write.senders for write in writes):
        raise CircuitsError(
            f"{component!r} is an edge; name a component, or trace edges with the analysis 'paths'"
        )
    return [write.target for write in writes]


def measured(
    model: HookedModel,
    batches: Sequence[Batch],
    make: Callable[[Batch], MakeSweep],
    how: RunOptions,
    templates: TemplateOptions = ALL_ALIKE,
    *,
    full: int | None = None,
    differences: Differences = (),
) -> Iterator[tuple[Batch, Moments]]:
    """Each batch with what came of its sweep. `full` is the cell that shares compare with.

    For `differences` see `circuits.sweep.moments.moments`.
    """
    require_templates(batches, templates)
    sizes = [batch.first.tokens.numel() / batch.share for batch in batches]
    parts = None if how.parts is None else named_path(how.parts)
    folders = [
        parts / batch.first.task if parts and len(batches) > 1 else parts for batch in batches
    ]
    begun = [folder is not None and (folder / MANIFEST).exists() for folder in folders]
    for i, (batch, folder) in enumerate(zip(batches, folders, strict=True)):
        run = How(
            memory=how.memory,
            engine=how.engine,
            parts=folder,
            # A run that ended amid one task has not begun the next.
            resume=how.resume and (begun[i] or not any(begun)),
            progress=share_of_progress(how.progress, sum(sizes[:i]), sizes[i], sum(sizes)),
            draws=how.draws,
            label=label_of(templates),
        )
        moments = survey(
            model,
            batch.blocks,
            make(batch),
            run,
            full=full,
            differences=differences,
            question=how.question,
        )
        yield batch, measured_over(moments, batch, templates)


def share_of_progress(
    progress: Progress | None, before: float, size: float, total: float
) -> Progress | None:
    """Progress in thousandths of all that is to be done, of which this is a share."""
    if progress is None:
        return None

    def step(done: int, of: int) -> None:
        progress(round(1000 * (before + size * done / max(of, 1)) / total), 1000)

    return step


def planned(
    model: HookedModel,
    name: str,
    batches: Sequence[Batch],
    make: Callable[[Batch], MakeSweep],
    how: RunOptions,
    templates: TemplateOptions = ALL_ALIKE,
) -> Result:
    """What would be computed, and at what cost: a row for each batch; nothing is run.

    A file is read to its end, so that its prompts are counted and its lines known to be sound; what
    they cost is estimated from its first block.
    """
    require_templates(batches, templates)
    rows, counts = [], []
    for batch in batches:
        work = plan(model, make(batch)(batch.first), memory=how.memory)
        n = batch.blocks.count() if isinstance(batch.blocks, PromptFile) else work.n_prompts
        times = n / work.n_prompts
        counts.append(n)
        rows.append(
            {
                "task": batch.first.task,
                "cells": work.n_cells,
                "prompts": n,
                "forwards": round(work.forwards * times),
                "work": work.work * times,
                "saved": 1 - work.work / work.forwards,
                "value": estimate(model, work) * times,
                "bytes": work.bytes,
                "weights": sum(w.numel() * w.element_size() for w in model.parameters()),
            }
        )
    return Result(
        pd.DataFrame(rows),
        unit="seconds",
        title=f"What would {name} compute? ({model.cfg.model_name})",
        provenance=source_of(model, name, batches, counts, templates),
        axes=("task",),
        meanings=PLAN_MEANINGS,
    )


def source_of(
    model: HookedModel,
    name: str,
    batches: Sequence[Batch],
    counts: Sequence[int] = (),
    templates: TemplateOptions = ALL_ALIKE,
) -> Provenance:
    """Where a result comes from, of all batches; `counts` are the prompts that were in each."""
    firsts = [batch.first for batch in batches]
    about = provenance(model, name, prompts=firsts[0])
    counts = counts or [len(prompts) for prompts in firsts]
    sums = [_checksum(batch, n) for batch, n in zip(batches, counts, strict=True)]
    return replace(
        about,
        task=", ".join(prompts.task for prompts in firsts),
        prompts=", ".join(sums),
        n_prompts=sum(counts),
        population=_populations(batches, templates, counts),
    )


def _populations(
    batches: Sequence[Batch], templates: TemplateOptions, counts: Sequence[int]
) -> str | None:
    """Over which prompts means and intervals are, in words; of several tasks, of each."""
    said = [population_of(batch, templates, n) for batch, n in zip(batches, counts, strict=True)]
    if len(set(said)) == 1:
        return said[0]
    named = zip(batches, said, strict=True)
    return "; ".join(f"{batch.first.task}: {text}" for batch, text in named if text is not None)


def _checksum(batch: Batch, n: int) -> str:
    """Of the prompts; of a file that was read in several blocks, of its bytes."""
    if not isinstance(batch.blocks, PromptFile) or n == len(batch.first):
        return batch.first.checksum
    return batch.blocks.checksum


def unit_of(frame: pd.DataFrame) -> str:
    """The unit of `value`; of several tasks, each one's."""
    units = frame.drop_duplicates("task")
    if units["unit"].nunique() == 1:
        return str(frame["unit"].iloc[0])
    return ", ".join(f"{u} ({t})" for u, t in zip(units["unit"], units["task"], strict=True))


def effect(moments: Moments, index: int) -> dict[str, float]:
    """The columns value to n of one cell."""
    return {name: column.item(index) for name, column in moments.interval().items()}


def shares(moments: Moments, *, turned: bool) -> Mapping[str, NDArray[np.float64]]:
    """Each cell's share of the whole effect, or `turned`, how much it leaves. Columns [c]."""
    ratio = moments.ratio()
    low, value, high = (np.asarray(ratio[name]) for name in ("ci_low", "value", "ci_high"))
    if turned:
        low, value, high = 1 - high, 1 - value, 1 - low
    return {"share": value + 0.0, "share_low": low, "share_high": high}  # -0.0 becomes 0.0


def ends(moments: Moments, direction: str) -> dict[str, float]:
    """The metric of the two runs themselves; the cells are BASE, WHOLE, ..."""
    base, other = moments.value[0].item(), moments.value[1].item()
    if direction == "noise":
        return {"clean": base, "corrupted": other}
    return {"clean": other, "corrupted": base}


def pair_table(
    prompts: Prompts,
    moments: Moments,
    labels: Sequence[Label],
    patching: Patching,
    *,
    of_whole: bool = False,
) -> pd.DataFrame:
    """A row for each cell after BASE and WHOLE, with these `labels`.

    Shares are of the way from corrupted to clean, or `of_whole`, of the whole effect.
    """
    metric, direction = metric_of(prompts, patching.metric), patching.direction
    both = ends(moments, direction)
    share = shares(moments, turned=direction == "noise" and not of_whole)
    rows = [
        {
            "task": prompts.task,
            **label,
            "metric": metric.name,
            "unit": metric.unit,
            **both,
            "patched": moments.value[index].item(),
            **effect(moments, index),
            **{column: values[index].item() for column, values in share.items()},
        }
        for index, label in enumerate(labels, start=2)
    ]
    frame: pd.DataFrame = pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})
    return frame


def require_change(moments: Moments, cells: Sequence[int], what: str, hint: str) -> None:
    """Refuse a sweep in which none of these cells changed anything.

    Raises:
        CircuitsError: when none did.
    """
    if not moments.changed[list(cells)].any():
        raise CircuitsError(
            f"{what} changed nothing: on these prompts it writes what is there already, or only "
            f"where nothing that is measured can see it, so there is no effect to measure; {hint}"
        )
