"""What breaks without a part of the model?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pandas as pd

from circuits import components
from circuits.components import Component, Edge
from circuits.config import ModelConfig
from circuits.effects import (
    BASE,
    MakeSweep,
    Named,
    by_template,
    components_of,
    effect,
    group_meanings,
    measured,
    metric_of,
    panels,
    planned,
    reference,
    require_change,
    source_of,
    unit_of,
)
from circuits.errors import CircuitsError
from circuits.interventions import get_method
from circuits.metrics import METRICS, Metric, divergence
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import MeasureOptions, RunOptions, TemplateOptions, analysis
from circuits.registry.asked_prompts import Batch, asked_prompts
from circuits.result import Result
from circuits.sweep import Cell, Sweep, cell, check_cell, logits, name
from circuits.sweep.moments import Moments

MOST_CHANGED = 5  # tokens listed for a prompt
# Columns that stand in front.
FIRST = (
    "task", "template", "component", "layer", "head", "method", "reference", "metric", "unit",
)  # fmt: skip
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
    model: HookedModel,
    *,
    layer: int | None = None,
    head: int | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    all_heads: bool = False,
    method: str = "zero",
    freeze: Literal["patterns"] | None = None,
    effects: bool = False,
    rank: bool = False,
    prompts: MeasureOptions,
    templates: TemplateOptions,
    how: RunOptions,
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
        method: What to write instead: {methods}.
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
    wanted = _wanted(model.cfg, layer, head, component, all_heads)
    get_method(method)
    straight = _straight(wanted) if effects else ()
    peers = _peers(model.cfg, wanted) if rank or all_heads else ()
    ablation = _Ablation(method, freeze, wanted, peers, straight, prompts, all_heads)
    batches = asked_prompts(model, prompts)
    ask = partial(_sweeps, model, ablation)
    if how.plan:
        return planned(model, "ablate", batches, ask, how, templates)
    return _measured(model, ablation, batches, how, templates)


@dataclass(frozen=True)
class _Ablation:
    """What is ablated, how, and what is asked about it.

    Attributes:
        wanted: the parts that are ablated together, for each row of the table.
        peers: those among which a row has its place; none, where no rank is asked for.
        straight: what `wanted` does straight to the logits: of each row, then of each row with the
            final LayerNorm's scale held; none, where effects are not split.
        options: the prompts and the metric that were asked for.
        every_head: whether the rows are all heads of the model.
    """

    method: str
    freeze: Literal["patterns"] | None
    wanted: Sequence[Cell]
    peers: Sequence[Cell]
    straight: Sequence[Cell]
    options: MeasureOptions
    every_head: bool

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that is swept, each once; the first is the model as it is."""
        return tuple(dict.fromkeys([BASE, *self.wanted, *self.peers, *self.straight]))

    @property
    def what(self) -> str:
        """What is ablated, in words."""
        return "each head" if self.every_head else name(self.wanted[0])

    @property
    def differences(self) -> list[tuple[int, int]]:
        """Whole effects and their direct parts, as indices of cells."""
        pairs = zip([*self.wanted, *self.wanted], self.straight, strict=False)  # or no pairs
        cells = self.cells
        return [(cells.index(total), cells.index(part)) for total, part in pairs]


def _measured(
    model: HookedModel,
    ablation: _Ablation,
    batches: Sequence[Batch],
    how: RunOptions,
    templates: TemplateOptions,
) -> Result:
    """What came of these ablations, on all batches of prompts."""
    ask = partial(_sweeps, model, ablation)
    frames, counts = [], []
    places = [ablation.cells.index(parts) for parts in ablation.wanted]
    swept = measured(model, batches, ask, how, templates, differences=ablation.differences)
    for batch, moments in swept:
        hint = "choose another component, method or task"
        require_change(moments, places, f"{ablation.method} ablation of {ablation.what}", hint)
        counts.append(moments.n)
        table = partial(_frame, model, ablation, batch)
        frames.append(by_template(moments, templates, table))
    frame = _in_order(pd.concat(frames))
    source = source_of(model, "ablate", batches, counts, templates)
    manner = f"{ablation.method}{', patterns held' if ablation.freeze else ' ablation'}"
    view, axes = _view(ablation, len(batches), templates)
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"What breaks without {ablation.what}? ({manner}, {source.model})",
        provenance=source,
        axes=panels(axes, templates, frame),
        view=view,
        meanings=MEANINGS | group_meanings(templates, frame),
    )


def _view(
    ablation: _Ablation, n_tasks: int, templates: TemplateOptions
) -> tuple[str, tuple[str, ...]]:
    """How a figure shows it, along which columns."""
    if not ablation.every_head:
        return "bars", ("task",)
    if ablation.straight and n_tasks == 1 and templates.by is None:
        return "scatter", ("component", "direct", "total")
    return "heatmap", ("layer", "head") if n_tasks == 1 else ("task", "layer", "head")


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table, what a row is about in front."""
    group = [frame.columns[1]] if "spread" in frame else []  # where groups are told apart
    first = [column for column in FIRST if column in frame.columns and column not in group]
    first[1:1] = group
    ordered: pd.DataFrame = frame[[*first, *frame.columns.drop(first)]]
    return ordered


def _wanted(
    cfg: ModelConfig, layer: int | None, head: int | None, component: Named, all_heads: bool
) -> list[Cell]:
    """What shall be ablated: every head by itself, or some parts together."""
    parts = components_of(component)
    if all_heads:
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
    together = cell(*parts)
    check_cell(together, cfg)
    return [together]


def _peers(cfg: ModelConfig, wanted: Sequence[Cell]) -> list[Cell]:
    """The components among which the one asked for has its place.

    Raises:
        CircuitsError: when there is no other of its kind.
    """
    part = wanted[0][0].target
    kinds = {
        "head": components.all_heads(cfg),
        "mlp": components.all_mlps(cfg),
        "attn": [Component("attn", layer) for layer in range(cfg.n_layers)],
    }
    peers = kinds.get(part.kind, []) if len(wanted[0]) == 1 else []
    if not peers:
        raise CircuitsError(
            f"{name(wanted[0])} has no rank: name one head, MLP or attention layer, or leave rank "
            "out"
        )
    return [cell(replace(peer, slot=part.slot, position=part.position)) for peer in peers]


def _sweeps(model: HookedModel, ablation: _Ablation, batch: Batch) -> MakeSweep:
    """What is asked of each block of these prompts."""
    options, cells = ablation.options, ablation.cells

    def sweep(prompts: Prompts) -> Sweep:
        source, _ = reference(model, prompts, batch, ablation.method, options)
        metric = metric_of(prompts, options.metric)
        return Sweep(prompts, metric, cells, source, freeze=ablation.freeze)

    return sweep


def _frame(model: HookedModel, ablation: _Ablation, batch: Batch, moments: Moments) -> pd.DataFrame:
    """One row for each set of parts: its effect, and its place among its peers."""
    prompts, cells = batch.first, ablation.cells
    metric = metric_of(prompts, ablation.options.metric)
    sign = -1 if metric.higher_is_better else 1
    damage = {peer: sign * moments.effect[cells.index(peer)] for peer in ablation.peers}
    source, about = reference(model, prompts, batch, ablation.method, ablation.options)
    rows = []
    for parts in ablation.wanted:
        index = cells.index(parts)
        worse = sum(other > damage[parts] for other in damage.values()) if damage else None
        part = parts[0].target if len(parts) == 1 else None
        rows.append(
            {
                "task": prompts.task,
                "component": name(parts),
                "layer": part and part.layer,
                "head": part and part.head,
                "method": ablation.method,
                "reference": about,
                "metric": metric.name,
                "unit": metric.unit,
                "clean": moments.value[0].item(),
                "ablated": moments.value[index].item(),
                **effect(moments, index),
                **(_split(moments, cells, parts, metric) if ablation.straight else {}),
                "rank": None if worse is None else worse + 1,
                "ranked": len(damage) or None,
            }
        )
    numbers = dict.fromkeys(("layer", "head", "rank", "ranked"), "Int64")
    frame: pd.DataFrame = pd.DataFrame(rows).astype(numbers)
    if prompts.seed is None and len(prompts) == moments.n == 1 and model.tokenizer is not None:
        listed = (BASE, *ablation.wanted)
        sweep = Sweep(prompts, METRICS["kl"], listed, source, freeze=ablation.freeze)
        frame = frame.join(_changes(model, sweep))
    return frame


def _split(
    moments: Moments, cells: Sequence[Cell], parts: Cell, metric: Metric
) -> dict[str, float]:
    """Which part of the effect is direct, which indirect, which self-repair."""
    total, straight = cells.index(parts), _straight([parts])
    columns = {"total": moments.effect[total].item()}
    for held, way in zip(("", "_held"), straight, strict=True):
        direct = cells.index(way)
        by = {
            f"direct{held}": effect(moments, direct),
            f"indirect{held}": effect(moments, moments.at(total, direct)),
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


def _straight(wanted: Sequence[Cell]) -> list[Cell]:
    """The same parts, what they write reaching the logits and nothing else.

    Of each of them, and again with the final LayerNorm's scale as it is without the ablation.

    Raises:
        CircuitsError: for inputs and patterns of heads, which write nothing themselves.
    """
    logits = Component("logits")
    direct = [cell(*(Edge(write.target, logits) for write in parts)) for parts in wanted]
    held = [tuple(replace(write, scale_held=True) for write in parts) for parts in direct]
    return [*direct, *held]


def _changes(model: HookedModel, sweep: Sweep) -> pd.DataFrame:
    """The predictions after the only prompt that change most: a row for each cell but the first."""
    tokenizer = model.require_tokenizer()
    log_probs = {i: read[-1].double().log_softmax(-1) for i, _, read in logits(model, sweep)}
    before, rows = log_probs.pop(0), []
    for _, after in sorted(log_probs.items()):
        change = after.exp() - before.exp()
        row: dict[str, Any] = {"kl": float(divergence(before, after))}
        top = change.abs().topk(min(MOST_CHANGED, len(change))).indices.tolist()
        for place, token in enumerate(top, start=1):
            row[f"token_{place}"] = tokenizer.token_strings([token])[0]
            row[f"clean_{place}"] = float(before[token].exp())
            row[f"ablated_{place}"] = float(after[token].exp())
        rows.append(row)
    table: pd.DataFrame = pd.DataFrame(rows)
    return table
