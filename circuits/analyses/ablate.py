"""What breaks without a part of the model?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits import components
from circuits.analyses._prompts import chosen
from circuits.analyses._sweep import Parts, Reference, ablation_runs
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.interventions import get_method, partners
from circuits.metrics import METRICS, Metric, get_metric
from circuits.model import HookedGPT2
from circuits.prompts import TASKS, Prompts, make
from circuits.registry import Progress, analysis, asked
from circuits.result import Result, mean_interval, provenance

MOST_CHANGED = 5  # tokens listed for a prompt
CLEAN: Parts = ()
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
    "rank": "place among all components of this kind by damage; 1 hurts most",
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
    task: str | Prompts | None = None,
    prompt: str | Sequence[str] | None = None,
    file: str | Path | None = None,
    answer: str | None = None,
    distractor: str | None = None,
    metric: str | None = None,
    n: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """What breaks without this head, layer or MLP?

    The effect is the metric after ablation minus before, prompt by prompt, averaged with a 95 %
    interval. A head, attention layer or MLP is ranked among its kind by the damage its ablation
    does. For a single prompt of your own, the predictions that change most are listed.

    $ circuits ablate --layer 5 --head 3
    $ circuits ablate --all-heads --task ioi --json
    $ circuits ablate --component m7 --component a5.h3 --method mean
    $ circuits ablate --layer 5 --head 3 --prompt "The cat sat on the mat. The cat sat on the"

    Args:
        layer: Layer of the head, counted from 0.
        head: The head in that layer, counted from 0.
        component: What to ablate, by name: a5.h3, a5 (attention layer), m7 (MLP), embed, pos,
            resid_pre.6; a5.h3@END at one position. Repeat it to ablate several together.
        all_heads: Ablate every head, one at a time.
        method: What to write instead: zero, mean (over the reference prompts' tokens), resample
            (what the component writes in another prompt).

    Raises:
        CircuitsError: for parts, prompts and metrics that do not exist or do not fit together, and
            for an ablation that writes just what was there.
    """
    given = dict(locals())
    wanted = _wanted(model.cfg, given)
    get_method(method)
    return _ablate(model, wanted, chosen(model, given), given)


@dataclass(frozen=True)
class _Score:
    """The metric for each prompt [n], and whether the ablation wrote anything new."""

    values: NDArray[np.float64]
    changed: bool


def _ablate(
    model: HookedGPT2,
    wanted: Sequence[Parts],
    batches: Sequence[Prompts],
    given: Mapping[str, Any],
) -> Result:
    ranked = _ranked(model.cfg, wanted)
    runs = [CLEAN, *dict.fromkeys([*wanted, *ranked])]
    step = _counter(given["progress"], len(runs) * len(batches))
    frames = []
    for prompts in batches:
        metric = get_metric(given["metric"] or prompts.metric)
        metric.check(prompts, clean=True)
        reference, about = _reference(model, prompts, given)
        scores = _scores(model, prompts, metric, runs, reference, step)
        if not given["all_heads"]:
            _require_change(scores, wanted, given["method"])
        labels = {"task": prompts.task, "method": given["method"], "reference": about}
        frame = _table(scores, wanted, ranked, metric).assign(**labels)
        if prompts.seed is None and len(prompts) == 1 and model.tokenizer is not None:
            frame = frame.join(_changes(model, prompts, wanted, reference))
        frames.append(frame)
    frame = pd.concat(frames)
    first = ["task", "component", "layer", "head", "method", "reference", "metric", "unit"]
    frame = frame[[*first, *(column for column in frame.columns if column not in first)]]
    return _result(model, frame, batches, given)


def _wanted(cfg: ModelConfig, given: Mapping[str, Any]) -> list[Parts]:
    """What shall be ablated: every head by itself, or some parts together?"""
    layer, head, component = given["layer"], given["head"], given["component"]
    named = [component] if isinstance(component, str | Component) else list(component or ())
    parts = [c if isinstance(c, Component) else components.parse(c) for c in named]
    if given["all_heads"]:
        if parts or layer is not None or head is not None:
            raise CircuitsError(
                "all_heads takes every head in turn; leave out layer, head and component"
            )
        return [(part,) for part in components.all_heads(cfg)]
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
    return [tuple(dict.fromkeys(components.check(part, cfg) for part in parts))]


def _ranked(cfg: ModelConfig, wanted: Sequence[Parts]) -> list[Parts]:
    """Among which components does the one asked for have its place?"""
    if len(wanted[0]) > 1:
        return []
    one = wanted[0][0]
    kinds = {
        "head": components.all_heads(cfg),
        "mlp": components.all_mlps(cfg),
        "attn": [Component("attn", layer) for layer in range(cfg.n_layers)],
    }
    return [
        (replace(peer, slot=one.slot, position=one.position),) for peer in kinds.get(one.kind, [])
    ]


def _reference(
    model: HookedGPT2, prompts: Prompts, given: Mapping[str, Any]
) -> tuple[Reference, str]:
    """Where do the values come from that are written instead? Also in words."""
    method, seed = given["method"], prompts.seed
    drawn = seed is not None and prompts.task in TASKS and given["task"] is not prompts
    if method == "zero":
        return Reference(method, prompts.tokens[:1, :1], prompts.mask[:1, :1]), "zeros"
    if method == "mean":
        n_tokens = int(prompts.mask.sum())
        return (
            Reference(method, prompts.tokens, prompts.mask),
            f"the mean over the {n_tokens} tokens of these {len(prompts)} prompts",
        )
    if drawn and seed is not None:
        others = make(prompts.task, model, len(prompts), seed + 1)
        if others.mask.equal(prompts.mask):
            words = f"{len(prompts)} other {prompts.task} prompts (seed {seed + 1})"
            return Reference(method, others.tokens, others.mask), words
    rows = partners(prompts.mask, given["seed"])
    words = f"another of these {len(prompts)} prompts (seed {given['seed']})"
    return Reference(method, prompts.tokens[rows], prompts.mask[rows]), words


def _scores(
    model: HookedGPT2,
    prompts: Prompts,
    metric: Metric,
    runs: Sequence[Parts],
    reference: Reference,
    step: Callable[[], None],
) -> Mapping[Parts, _Score]:
    """The metric for the clean run, which comes first, and after each ablation."""
    scores: dict[Parts, _Score] = {}
    clean = None
    for run in ablation_runs(model, prompts, metric, runs, reference):
        clean = run.logits if clean is None else clean
        values = metric.score(run.logits, prompts, clean).double().cpu().numpy()
        scores[runs[run.index]] = _Score(values, run.changed)
        step()
    return scores


def _require_change(scores: Mapping[Parts, _Score], wanted: Iterable[Parts], method: str) -> None:
    for parts in wanted:
        if not scores[parts].changed:
            raise CircuitsError(
                f"{method} ablation of {_name(parts)} changed nothing: it writes just that already "
                "on these prompts, so there is no effect to measure; choose another component, "
                "method or task"
            )


def _table(
    scores: Mapping[Parts, _Score], wanted: Sequence[Parts], ranked: Sequence[Parts], metric: Metric
) -> pd.DataFrame:
    """One row for each set of parts: its effect, and its place among `ranked`."""
    clean = scores[CLEAN].values
    sign = -1 if metric.higher_is_better else 1
    damage = {parts: sign * float((scores[parts].values - clean).mean()) for parts in ranked}
    rows = []
    for parts in wanted:
        one = parts[0] if len(parts) == 1 else None
        worse = sum(other > damage[parts] for other in damage.values()) if ranked else None
        after = scores[parts].values
        rows.append(
            {
                "component": _name(parts),
                "layer": one and one.layer,
                "head": one and one.head,
                "metric": metric.name,
                "unit": metric.unit,
                "clean": clean.mean(),
                "ablated": after.mean(),
                **{name: x.item() for name, x in mean_interval(after - clean).items()},
                "rank": None if worse is None else worse + 1,
                "ranked": len(ranked) or None,
            }
        )
    whole = dict.fromkeys(("layer", "head", "rank", "ranked"), "Int64")
    table: pd.DataFrame = pd.DataFrame(rows).astype(whole)
    return table


def _changes(
    model: HookedGPT2, prompts: Prompts, wanted: Sequence[Parts], reference: Reference
) -> pd.DataFrame:
    """Which predictions after the only prompt change most, row by row as in `wanted`?"""
    tokenizer = model.require_tokenizer()
    found: dict[int, dict[str, Any]] = {}
    before = None
    runs = [CLEAN, *wanted]
    for run in ablation_runs(model, prompts, METRICS["kl"], runs, reference):
        after = run.logits[-1].double().log_softmax(-1)
        before = after if before is None else before
        change = after.exp() - before.exp()
        row: dict[str, Any] = {"kl": float((before.exp() * (before - after)).sum())}
        top = change.abs().topk(min(MOST_CHANGED, len(change))).indices.tolist()
        for place, token in enumerate(top, start=1):
            row[f"token_{place}"] = tokenizer.token_strings([token])[0]
            row[f"clean_{place}"] = float(before[token].exp())
            row[f"ablated_{place}"] = float(after[token].exp())
        found[run.index] = row
    rows: pd.DataFrame = pd.DataFrame([found[index] for index in range(1, len(runs))])
    return rows


def _result(
    model: HookedGPT2, frame: pd.DataFrame, batches: Sequence[Prompts], given: Mapping[str, Any]
) -> Result:
    source = provenance(model, "ablate", **asked("ablate", given), prompts=batches[0])
    if len(batches) > 1:
        source = replace(
            source,
            task=", ".join(prompts.task for prompts in batches),
            prompts=", ".join(prompts.checksum for prompts in batches),
            n_prompts=sum(map(len, batches)),
        )
    units = frame.drop_duplicates("task")
    several = len(batches) > 1 and units["unit"].nunique() > 1
    unit = ", ".join(f"{u} ({t})" for u, t in zip(units["unit"], units["task"], strict=True))
    what = "each head" if given["all_heads"] else frame["component"].iloc[0]
    one_grid = ("layer", "head")
    grids = one_grid if len(batches) == 1 else ("task", *one_grid)
    return Result(
        frame,
        unit=unit if several else frame["unit"].iloc[0],
        title=f"What breaks without {what}? ({given['method']} ablation, {source.model})",
        provenance=source,
        axes=grids if given["all_heads"] else ("task",),
        view="heatmap" if given["all_heads"] else "bars",
        meanings=MEANINGS,
    )


def _name(parts: Parts) -> str:
    return "+".join(map(str, parts))


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return step
