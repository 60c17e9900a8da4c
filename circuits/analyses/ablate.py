"""What breaks without a part of the model?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from circuits import components
from circuits.analyses._effects import (
    BASE,
    MakeSweep,
    effect,
    measured,
    metric_of,
    parts_of,
    planned,
    require_change,
    source_of,
    unit_of,
)
from circuits.analyses._prompts import Batch, chosen
from circuits.analyses._reference import reference
from circuits.analyses._templates import MEANINGS as TEMPLATES
from circuits.analyses._templates import By, by_template, panels
from circuits.components import Component, Edge
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.interventions import get_method
from circuits.metrics import METRICS, Metric
from circuits.model import HookedGPT2
from circuits.prompts import Prompts
from circuits.registry import Progress, analysis
from circuits.result import Result
from circuits.sweep import Cell, Sweep, cell, check_cell, logits, name
from circuits.sweep.moments import Moments

MOST_CHANGED = 5  # tokens listed for a prompt
MEANINGS = {
    "task": "which prompts",
    "component": "what was ablated; plus signs join what was ablated together",
    "method": "what was written instead",
    "reference": "where the values that were written come from",
    "metric": "what was measured",
    "unit": "of clean, ablated and value",
    "clean": "the metric of the model as it is, mean over n",
    "ablated": "the metric after ablation, mean over n",
    "value": "the effect: ablated minus clean, mean over n",
    "total": "the whole effect, which is value, next to its parts",
    "direct": "the part of the effect that goes straight to the logits, mean over n",
    "direct_low": "lower end of its 95 % interval",
    "direct_high": "upper end of its 95 % interval",
    "indirect": "value minus direct, prompt by prompt: what later parts make of it, mean over n",
    "indirect_low": "lower end of its 95 % interval",
    "indirect_high": "upper end of its 95 % interval",
    "self_repair": "the indirect effect, positive where it makes the metric better",
    "self_repair_low": "lower end of its 95 % interval",
    "self_repair_high": "upper end of its 95 % interval",
    "direct_held": "the direct part if the final LayerNorm kept its scale, mean over n",
    "direct_held_low": "lower end of its 95 % interval",
    "direct_held_high": "upper end of its 95 % interval",
    "indirect_held": "value minus direct_held: what later parts and the final scale make of it",
    "indirect_held_low": "lower end of its 95 % interval",
    "indirect_held_high": "upper end of its 95 % interval",
    "self_repair_held": "the same, positive where it makes the metric better: self-repair that "
    "counts what the final LayerNorm's scale makes up for",
    "self_repair_held_low": "lower end of its 95 % interval",
    "self_repair_held_high": "upper end of its 95 % interval",
    "rank": "place among all components of this kind by damage, if asked for; 1 hurts most",
    "ranked": "how many components of this kind there are",
    "kl": "nats by which the prediction after the prompt moved, KL(clean || ablated)",
}


@analysis
def ablate(
    model: HookedGPT2,
    *,
    layer: int | None = None,
    head: int | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    all_heads: bool = False,
    method: str = "zero",
    freeze: Literal["patterns"] | None = None,
    effects: bool = False,
    rank: bool = False,
    task: str | Prompts | None = None,
    prompt: str | Sequence[str] | None = None,
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
    """What breaks without this head, layer or MLP?

    For one prompt, the predictions that change most are listed. Effects are direct, to the logits,
    or indirect, by way of later parts (McGrath et al. 2023, 2307.15771). What the final norm makes
    up for (Rushing & Nanda 2024, 2402.15390) is direct, and indirect in columns that end in held.

    $ circuits ablate --layer 5 --head 3 --rank
    $ circuits ablate --all-heads --task ioi --effects --method position-mean --json
    $ circuits ablate --component m7 --component a5.h3 --freeze patterns

    Args:
        layer: Layer of the head, counted from 0.
        head: The head in that layer, counted from 0.
        component: What to ablate, by name: a5.h3, a5 (attention layer), m7 (MLP), m7.n12 (neuron),
            embed, pos, resid_pre.6; a5.h3@END at one position. Repeat it for several together.
        all_heads: Ablate every head, one at a time.
        method: What to write instead: zero, mean (over all tokens), position-mean (at each
            position, over prompts as long, of one template), resample (of another prompt), noise.
        freeze: Hold all attention patterns as they are without the ablation.
        effects: Split the total effect into direct and indirect, and say what is self-repair.
        rank: Say its place by damage among all of its kind, for which each of them is ablated.

    Raises:
        CircuitsError: when parts, prompts, metric do not fit together, or nothing is changed.

    >>> import circuits
    >>> asked = {"prompt": "aAbBcdeBfg.", "answer": "A", "distractor": "B"}
    >>> found = ablate(circuits.load("compiled"), layer=2, head=0, effects=True, **asked).frame
    >>> found[["clean", "ablated", "direct"]].round(1).abs().values.tolist()
    [[10.0, 0.0, 10.0]]
    """
    return _ablate(model, dict(locals()))


def _ablate(model: HookedGPT2, given: Mapping[str, Any]) -> Result:
    wanted, method = _wanted(model.cfg, given), given["method"]
    get_method(method)
    direct = _direct(wanted) if given["effects"] else []
    straight = [*direct, *_held(direct)]
    ranked = _ranked(model.cfg, wanted) if given["rank"] or given["all_heads"] else []
    batches = chosen(model, given)
    cells = tuple(dict.fromkeys([BASE, *wanted, *ranked, *straight]))
    pairs = zip([*wanted, *wanted], straight, strict=False)  # none, where effects are not split
    differences = [(cells.index(total), cells.index(part)) for total, part in pairs]
    ask = partial(_sweeps, model, cells, given)
    if given["plan"]:
        return planned(model, "ablate", batches, ask, given)
    frames, counts = [], []
    for batch, found in measured(model, "ablate", batches, ask, given, differences=differences):
        places = [cells.index(one) for one in wanted]
        what = "each head" if given["all_heads"] else name(wanted[0])
        hint = "choose another component, method or task"
        require_change(found, places, f"{method} ablation of {what}", hint)
        counts.append(found.n)
        table = partial(
            _frame, model, batch, cells=cells, wanted=wanted, ranked=ranked, given=given
        )
        frames.append(by_template(found, given, table))
    frame = pd.concat(frames)
    first = [
        "task",
        *(["template"] if given["by"] else []),
        "component",
        "layer",
        "head",
        "method",
        "reference",
        "metric",
        "unit",
    ]
    frame = frame[[*first, *(column for column in frame.columns if column not in first)]]
    return _result(model, frame, batches, counts, given)


def _wanted(cfg: ModelConfig, given: Mapping[str, Any]) -> list[Cell]:
    """What shall be ablated: every head by itself, or some parts together?"""
    layer, head = given["layer"], given["head"]
    parts = parts_of(given["component"])
    if given["all_heads"]:
        if parts or layer is not None or head is not None:
            raise CircuitsError(
                "all_heads takes every head in turn; leave out layer, head and component"
            )
        return [cell(part) for part in components.all_heads(cfg)]
    if (layer is None) != (head is None):
        lacking, has = ("head", f"layer {layer}") if head is None else ("layer", f"head {head}")
        raise CircuitsError(
            f"{has} alone names no head: give a {lacking}, too (or a component: a5 is the whole "
            "attention layer 5, m5 its MLP)"
        )
    if layer is not None:
        parts.insert(0, Component("head", layer, head))
    if not parts:
        raise CircuitsError(
            "nothing to ablate: give layer and head, a component such as a5.h3 or m7, or all_heads"
        )
    found = cell(*parts)
    check_cell(found, cfg)
    return [found]


def _ranked(cfg: ModelConfig, wanted: Sequence[Cell]) -> list[Cell]:
    """Among which components does the one asked for have its place?

    Raises:
        CircuitsError: when there is no other of its kind.
    """
    one = wanted[0][0].target
    kinds = {
        "head": components.all_heads(cfg),
        "mlp": components.all_mlps(cfg),
        "attn": [Component("attn", layer) for layer in range(cfg.n_layers)],
    }
    peers = kinds.get(one.kind, []) if len(wanted[0]) == 1 else []
    if not peers:
        raise CircuitsError(
            f"{name(wanted[0])} has no rank: name one head, MLP or attention layer, or leave rank "
            "out"
        )
    return [cell(replace(peer, slot=one.slot, position=one.position)) for peer in peers]


def _sweeps(
    model: HookedGPT2, cells: tuple[Cell, ...], given: Mapping[str, Any], batch: Batch
) -> MakeSweep:
    """What is asked of each block of these prompts?"""

    def sweep(prompts: Prompts) -> Sweep:
        source, _ = reference(model, prompts, batch, given)
        return Sweep(prompts, metric_of(prompts, given), cells, source, freeze=given["freeze"])

    return sweep


def _frame(
    model: HookedGPT2,
    batch: Batch,
    found: Moments,
    *,
    cells: Sequence[Cell],
    wanted: Sequence[Cell],
    ranked: Sequence[Cell],
    given: Mapping[str, Any],
) -> pd.DataFrame:
    """One row for each set of parts: its effect, and its place among `ranked`."""
    prompts = batch.first
    metric = metric_of(prompts, given)
    sign = -1 if metric.higher_is_better else 1
    damage = {one: sign * found.effect[cells.index(one)] for one in ranked}
    source, about = reference(model, prompts, batch, given)
    rows = []
    for one in wanted:
        index = cells.index(one)
        worse = sum(other > damage[one] for other in damage.values()) if ranked else None
        part = one[0].target if len(one) == 1 else None
        rows.append(
            {
                "task": prompts.task,
                "component": name(one),
                "layer": part and part.layer,
                "head": part and part.head,
                "method": given["method"],
                "reference": about,
                "metric": metric.name,
                "unit": metric.unit,
                "clean": found.value[0].item(),
                "ablated": found.value[index].item(),
                **effect(found, index),
                **_split(found, cells, one, metric, given),
                "rank": None if worse is None else worse + 1,
                "ranked": len(ranked) or None,
            }
        )
    whole = dict.fromkeys(("layer", "head", "rank", "ranked"), "Int64")
    frame: pd.DataFrame = pd.DataFrame(rows).astype(whole)
    if prompts.seed is None and len(prompts) == found.n == 1 and model.tokenizer is not None:
        sweep = Sweep(prompts, METRICS["kl"], (BASE, *wanted), source, freeze=given["freeze"])
        frame = frame.join(_changes(model, sweep))
    return frame


def _split(
    found: Moments, cells: Sequence[Cell], one: Cell, metric: Metric, given: Mapping[str, Any]
) -> dict[str, float]:
    """Which part of the effect is direct, which indirect, which self-repair?"""
    if not given["effects"]:
        return {}
    total, direct = cells.index(one), _direct([one])
    columns = {"total": found.effect[total].item()}
    for held, (straight,) in {"": direct, "_held": _held(direct)}.items():
        part = cells.index(straight)
        by = {
            f"direct{held}": effect(found, part),
            f"indirect{held}": effect(found, found.at(total, part)),
        }
        ends = {"": "value", "_low": "ci_low", "_high": "ci_high"}
        for which, numbers in by.items():
            columns |= {which + end: numbers[column] for end, column in ends.items()}
        columns |= _repair(columns, held, metric)
    return columns


def _repair(columns: Mapping[str, float], held: str, metric: Metric) -> dict[str, float]:
    """The indirect effect where better is positive."""
    ends = ("", "_low", "_high") if metric.higher_is_better else ("", "_high", "_low")
    sign = 1 if metric.higher_is_better else -1
    return {
        f"self_repair{held}{to}": sign * columns[f"indirect{held}{end}"] + 0.0  # no -0.0
        for to, end in zip(("", "_low", "_high"), ends, strict=True)
    }


def _direct(wanted: Sequence[Cell]) -> list[Cell]:
    """The same parts, heard by nobody but the logits.

    Raises:
        CircuitsError: for inputs and patterns of heads, which write nothing themselves.
    """
    logits = Component("logits")
    return [cell(*(Edge(write.target, logits) for write in one)) for one in wanted]


def _held(direct: Sequence[Cell]) -> list[Cell]:
    """The same, with the final LayerNorm's scale as it is without the ablation."""
    return [tuple(replace(write, scale_held=True) for write in one) for one in direct]


def _changes(model: HookedGPT2, sweep: Sweep) -> pd.DataFrame:
    """Which predictions after the only prompt change most? A row for each cell after the first."""
    tokenizer = model.require_tokenizer()
    found = {index: read[-1].double().log_softmax(-1) for index, _, read in logits(model, sweep)}
    before, rows = found.pop(0), []
    for _, after in sorted(found.items()):
        change = after.exp() - before.exp()
        row: dict[str, Any] = {"kl": float((before.exp() * (before - after)).sum())}
        top = change.abs().topk(min(MOST_CHANGED, len(change))).indices.tolist()
        for place, token in enumerate(top, start=1):
            row[f"token_{place}"] = tokenizer.token_strings([token])[0]
            row[f"clean_{place}"] = float(before[token].exp())
            row[f"ablated_{place}"] = float(after[token].exp())
        rows.append(row)
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _result(
    model: HookedGPT2,
    frame: pd.DataFrame,
    batches: Sequence[Batch],
    counts: Sequence[int],
    given: Mapping[str, Any],
) -> Result:
    source = source_of(model, "ablate", batches, given, counts)
    how = f"{given['method']}{', patterns held' if given['freeze'] else ' ablation'}"
    what = "each head" if given["all_heads"] else frame["component"].iloc[0]
    axes: tuple[str, ...] = ("task",)
    view = "bars"
    if given["all_heads"]:
        tasks = () if len(batches) == 1 else ("task",)
        view, axes = "heatmap", (*tasks, "layer", "head")
        if given["effects"] and not tasks and given["by"] is None:
            view, axes = "scatter", ("component", "direct", "total")
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"What breaks without {what}? ({how}, {source.model})",
        provenance=source,
        axes=panels(axes, given),
        view=view,
        meanings=MEANINGS | TEMPLATES,
    )
