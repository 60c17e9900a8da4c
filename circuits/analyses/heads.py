"""What kind of head is each? A report card.

===================  ==============================================================================
``induction``        attention to i - n + 1 on BOS + r + r, r of n random tokens;
                     ``duplicate-token`` to i - n, ``previous-token`` to i - 1, ``current-token`` to
                     i, ``first-token`` (where heads rest) to 0
``prefix-matching``  induction on BOS + r + r + r + r, after Olsson et al. 2022, but summed over the
                     copies that a token looks back at, and with tokens however common
``copying``          by how much the direct path raises the attended token's logit, over that and
                     what it raises the logits of all tokens of the prompt, scaled from -1 to 1
                     (Olsson et al. 2022)
``ov-copying``       eigenvalues of W_E W_OV W_U: their sum over that of their moduli (Elhage et al.
                     2021). Layers after the first read the embedding as MLP 0 has left it, which
                     this score does not know
``name-copying``     share of names in the top 5 of what it would write of them after MLP 0 (Wang et
                     al. 2022); not one that others equal
``name-mover``       what it writes at END adds to logit IO - S, and what it moves there from IO
                     does, too (Wang et al. 2022)
``name-copier``      what it moves from IO and from S to END adds to the logits of these names, on
                     average over prompts, and of the two whichever is less: both are copied
``s-inhibition``     what it moves from S2 to END adds to the name movers' attention score IO - S1
``negative``         what it moves from IO and S1 to END takes from the logits of these names, and
                     all that it writes there takes from logit IO - S
``successor``        share of days, months, numbers, letters of which it would write the next (Gould
                     et al. 2023, arXiv 2312.09230)
===================  ==============================================================================

Controls: for repetitions, the same places in BOS + 2n (4n) random tokens without any; for places,
what a token gets on average, for it is random which one; for what is written, another, random
token; for name-mover and s-inhibition, the corrupted twins; for name-copier and negative, the
other name's logit; for successor, a random order.

Of draws (random tokens, prompts) the interval is Student's; of shares of names and items, which are
not drawn, Wilson's, as if each were a draw; one draw has none, and nothing is clear by it. The
eigenvalues of weights have no draws: ov-copying has to exceed what any of the heads reaches by
chance, with values that read in random directions.

Behaviors: the loss on the second copy (induction, previous-token and all others about random
tokens), the logit difference of ioi, and that of the next item of a series. Heads are ablated on
the prompts of the last two, and on the first quarter of the random draws (at least 5): each of them
tells the loss of a whole copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from circuits import components
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.effects import BASE, components_of, share_of_progress
from circuits.errors import CircuitsError
from circuits.head_kinds import (
    LEAST_PAIRS,
    NAMES,
    WRITING,
    Kind,
    Scores,
    ablated_on,
    attention_scores,
    check_ioi,
    chosen_kinds,
    copying,
    draw_tokens,
    eigenvalue_copying,
    judged,
    name_copying,
    name_of,
    name_scores,
    prefix_matching,
    series,
    series_prompts,
    successors,
)
from circuits.head_kinds.random_tokens import POSITIONAL, REPEATING
from circuits.metrics import METRICS
from circuits.model import HookedModel
from circuits.prompts import Prompts, make
from circuits.qk_ov import product_scales
from circuits.registry import MemoryOptions, analysis
from circuits.result import AVERAGED, Provenance, Result, mean_interval, provenance
from circuits.sweep import Source, Sweep, cell, plan, run

Method = Literal["zero", "mean"]
METHODS = get_args(Method)
Costs = Literal["clear", "all"]
COSTS = get_args(Costs)
BEHAVIORS = ("repeated", "ioi", "successor")
LEAST_TOKENS = 3  # of which two are not the first, where heads rest
MOST_BARS = 40  # scores up to which each is a bar
NO_WORDS = "the model has no tokenizer, so which tokens are words is unknown"
NO_LOOK = "the context is too short for a token that looks at others"
NO_WRITING = "a norm stands between heads and stream, so that no head's output is added as it is"
NO_SHIFT = (
    "positions turn queries and keys, or scores are capped or normalized, so that no plain product "
    "of the two is a score"
)
NO_SERIES = "the vocabulary has too few neighbors of a series (days, letters ...) as single tokens"
NUMBERS = (*AVERAGED, "control", "chance", "also", "also_low", "also_high", "excess")
COST = {name: f"cost_{name.removeprefix('ci_')}".replace("_value", "") for name in AVERAGED}
MEANINGS = {
    "component": "the head",
    "kind": "which kind of head this row is about",
    "name": "what the head is called: of all kinds that are clear, the first as the docstring says",
    "clear": "whether the score's interval exceeds the control, and 0 (but for copying, where 0 is "
    "above chance), by the kind's margin; never by a single draw, which has no interval",
    "value": "the score, mean over n draws of random tokens, prompts, names or items",
    "control": "the same score where what the kind is about is absent",
    "chance": "what the score has to exceed, too, where it has no interval (ov-copying): how high "
    "any head comes by chance, in 99 draws, with values that read in random directions; where no "
    "head's exceeds its control by enough, nothing is drawn",
    "also": "what has to be above 0 with its whole interval, too: for name-mover, what is moved "
    "from IO adds to logit IO - S; for negative, what all that is written takes from it",
    "also_low": "lower end of its 95 % interval",
    "also_high": "upper end of its 95 % interval",
    "unit": "of value and control",
    "behavior": "the prompts on which the head was ablated",
    "metric": "what was measured there",
    "cost": "by how much ablating the head makes the metric worse, mean over cost_n prompts; "
    "measured for heads that are clear on the behavior or named, or for all with costs=all",
    "cost_stderr": "its standard error",
    "cost_low": "lower end of its 95 % interval",
    "cost_high": "upper end of its 95 % interval",
    "cost_n": "number of prompts that were run without the head; of random tokens, read at many "
    "places each, the first quarter of the draws, or 5",
    "cost_unit": "of the cost",
    "note": "why there is no score",
}


@analysis
def heads(
    model: HookedModel,
    *,
    kind: str | Sequence[str] | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    n: int = 20,
    seed: int = 0,
    method: Method = "zero",
    costs: Costs = "clear",
    ioi: Prompts | None = None,
    how: MemoryOptions,
) -> Result:
    """What kind of head is each?

    A report card: every head gets a score for every kind, with a control and a 95 % interval over
    independent draws, and, if of the kind, the cost of ablating it on the kind's behavior.
    Attention on random tokens: induction, duplicate-token, previous-token, current-token,
    first-token, prefix-matching. What would be written: copying, ov-copying, name-copying,
    successor. Names (the task ioi): name-mover, name-copier, s-inhibition, negative.

    A head is of a kind if the lower end of the score's interval exceeds the control, and 0 (but for
    copying, where 0 is above chance), by the kind's margin: 0.25 of its unit, 0.5 for first-token
    and the three kinds of copying. One draw (-n 1) has no interval, so nothing is clear by it. A
    head's name is that of a kind that shows on any text (induction, duplicate-token,
    previous-token), else of names and series, else name-copier, else of where it looks, else of
    what it would write; among these, of the largest excess.

    $ circuits heads -n 50
    $ circuits heads --kind induction --kind previous-token --figure heads.png
    $ circuits heads --component a1.h0 --component a5.h3 --method mean
    $ circuits heads --costs all --csv

    Args:
        kind: Only this kind, one of those above. Repeat it for several.
        component: Only these heads: a5.h3. Repeat it for several.
        n: How many independent draws of random tokens (a quarter of them, at least 5, also run
            without each head), and prompts of each task.
        seed: The same seed draws the same random tokens and prompts.
        method: What to write instead of an ablated head: zero, or the mean over the prompts.
        costs: Of which heads: on each behavior those clear there or named by `component`; or all.
        ioi: Prompts with the roles IO, S1, S2 and END, and corrupted twins, in place of the task's.

    Raises:
        CircuitsError: for kinds and heads that do not exist, and prompts that lack a role.

    >>> from circuits.checkpoints import load
    >>> card = heads(load("compiled"), kind=["previous-token", "induction"], n=2).frame
    >>> card.loc[card["clear"], ["component", "name"]].values.tolist()
    [['a1.h0', 'induction'], ['a0.h0', 'previous-token']]
    """
    kinds, wanted = chosen_kinds(kind), _wanted(model.cfg, component)
    _check(n, method, costs)
    tasks = _Tasks(model, n, seed, ioi)
    with torch.inference_mode():
        scores = _scores(model, tasks, [each.name for each in kinds], how.memory)
    frame = pd.concat([_rows(each, scores[each.name], tasks, wanted, how.draws) for each in kinds])
    ablated = frame if costs == "all" or component is not None else frame[frame["clear"]]
    frame = _named(_with_costs(frame, _costs(tasks, ablated, method, how), tasks))
    return _card(frame, tasks, grids=component is None or len(frame) > MOST_BARS)


def _check(n: int, method: str, costs: str) -> None:
    if n < 1 or method not in METHODS or costs not in COSTS:
        allowed = f"ablate by {' or '.join(METHODS)}, costs of {' or '.join(COSTS)}"
        raise CircuitsError(f"{n=}, {method=}, {costs=}: draw at least 1, {allowed}")


def _card(frame: pd.DataFrame, tasks: _Tasks, *, grids: bool) -> Result:
    """The report card, as a picture of grids or of bars."""
    source = tasks.source()
    return Result(
        frame.astype({"layer": "Int64", "head": "Int64", "n": "Int64", "cost_n": "Int64"}),
        unit=", ".join(dict.fromkeys(frame["unit"])),
        title=f"What kind of head is each? ({source.model})",
        provenance=source,
        axes=("kind", "layer", "head") if grids else ("component", "kind"),
        view="heatmap" if grids else "bars",
        meanings=MEANINGS,
    )


def _wanted(
    cfg: ModelConfig, component: str | Component | Sequence[str | Component] | None
) -> list[Component]:
    """The heads that are asked for."""
    parts = components_of(component)
    for part in parts:
        components.check(part, cfg)
        if part.kind != "head" or part.slot is not None or part.position is not None:
            raise CircuitsError(f"{part} is no head; name heads, such as a5.h3")
    return list(dict.fromkeys(parts)) or components.all_heads(cfg)


@dataclass(frozen=True, eq=False)
class _Tasks:
    """The prompts of each behavior, drawn when they are first asked for; None if nothing suits."""

    model: HookedModel
    n: int
    seed: int
    ioi: Prompts | None  # in place of the task's
    drawn: dict[str, Prompts | None] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)  # why there are none

    def __getitem__(self, behavior: str) -> Prompts | None:
        if behavior not in self.drawn:
            self.drawn[behavior] = self._draw(behavior)
        return self.drawn[behavior]

    def _draw(self, behavior: str) -> Prompts | None:
        model = self.model
        if behavior == "ioi" and self.ioi is not None:
            return check_ioi(self.ioi)
        if model.tokenizer is None and behavior != "repeated":
            self.lacking[behavior] = NO_WORDS
            return None
        try:
            if behavior == "successor":
                return series_prompts(model, series(model), self.n, self.seed)
            return make(behavior, model, self.n, self.seed)
        except CircuitsError as error:  # the vocabulary or the context rules it out
            self.lacking[behavior] = str(error)
            return None

    def suited(self, behavior: str) -> Prompts:
        """The prompts of a behavior of which it is known that there are some."""
        prompts = self[behavior]
        assert prompts is not None
        return prompts

    def source(self) -> Provenance:
        """Where the scores and costs come from."""
        drawn = ((name, self.drawn.get(name)) for name in BEHAVIORS)
        used = {name: prompts for name, prompts in drawn if prompts is not None}
        return replace(
            provenance(self.model, "heads"),
            task=", ".join(used) or None,
            prompts=", ".join(prompts.checksum for prompts in used.values()) or None,
            n_prompts=sum(map(len, used.values())),
            seed=self.seed,
        )


def _scores(
    model: HookedModel, tasks: _Tasks, names: Sequence[str], memory: str | None
) -> dict[str, Scores | str]:
    """Each kind's scores, or why there are none."""
    n, seed = tasks.n, tasks.seed
    tokens = draw_tokens(model, n, seed)
    scores: dict[str, Scores | str] = {}
    if model.cfg.post_norms:
        scores = dict.fromkeys(WRITING, NO_WRITING)
        names = [name for name in names if name not in WRITING]
    if tokens.unrepeated.shape[1] < LEAST_TOKENS:
        scores |= dict.fromkeys((*POSITIONAL, *REPEATING, "copying"), NO_LOOK)
        names = [name for name in names if name not in scores]
    if {*names} & {*POSITIONAL, *REPEATING}:
        scores |= dict.fromkeys(REPEATING, tokens.lacking)
        scores |= attention_scores(model, tokens, memory)
    measures: dict[str, Callable[[], Scores | str]] = {
        "prefix-matching": lambda: prefix_matching(model, n, seed, memory),
        "copying": lambda: copying(model, tokens.unrepeated, memory),
        "ov-copying": lambda: eigenvalue_copying(model, seed, memory),
        "successor": lambda: _successors(model),
    }
    scores |= {name: measure() for name, measure in measures.items() if name in names}
    if {*names} & {*NAMES}:
        prompts = tasks["ioi"]
        if prompts is None:
            scores |= dict.fromkeys(NAMES, tasks.lacking["ioi"])
        else:
            if {*names} & {*NAMES[:-1]}:
                scores |= name_scores(model, prompts, memory)
            if NAMES[-1] in names:
                scores[NAMES[-1]] = name_copying(model, prompts, memory=memory)
    if "s-inhibition" in names and product_scales(model) is None:
        scores["s-inhibition"] = NO_SHIFT
    return scores


def _successors(model: HookedModel) -> Scores | str:
    if model.tokenizer is None:
        return NO_WORDS
    runs = series(model)
    if sum(len(items) - 1 for items in runs) < LEAST_PAIRS:
        return NO_SERIES
    return successors(model, runs)


def _rows(
    kind: Kind, scores: Scores | str, tasks: _Tasks, wanted: Sequence[Component], draws: bool
) -> pd.DataFrame:
    """One kind's scores of all heads."""
    at = tuple(np.array([(head.layer, head.head) for head in wanted]).T)
    columns: dict[str, Any] = {name: np.full(len(wanted), np.nan) for name in NUMBERS} | {"n": 0}
    if isinstance(scores, Scores):
        columns |= {name: each[at] for name, each in judged(kind, scores, draws=draws).items()}
    excess, note = columns.pop("excess"), scores if isinstance(scores, str) else None
    frame: pd.DataFrame = pd.DataFrame(
        {
            "component": [str(head) for head in wanted],
            "layer": [head.layer for head in wanted],
            "head": [head.head for head in wanted],
            "kind": kind.name,
            "clear": excess > kind.margin,
            **columns,
            "unit": kind.unit,
            "behavior": kind.behavior if tasks[kind.behavior] is not None else None,
            "excess": excess,
            "note": note,
        }
    )
    return frame


def _costs(
    tasks: _Tasks, ablated: pd.DataFrame, method: Method, how: MemoryOptions
) -> pd.DataFrame:
    """What ablating the heads of these rows costs on their behaviors: one sweep a behavior."""
    model, by_behavior = tasks.model, ablated.groupby("behavior", sort=False)
    heads = {str(name): list(dict.fromkeys(rows["component"])) for name, rows in by_behavior}
    run_on = {name: ablated_on(name, tasks.suited(name)) for name in heads}
    sizes = [len(heads[name]) * run_on[name].tokens.numel() for name in heads]
    costs = [pd.DataFrame(columns=["behavior", "component", *COST.values()])]
    for i, (name, prompts) in enumerate(run_on.items()):
        metric, suited = METRICS[prompts.metric], tasks.suited(name)
        source = Source(method, suited.tokens, suited.mask)
        cells = (BASE, *(cell(components.parse(head)) for head in heads[name]))
        planned = plan(model, Sweep(prompts, metric, cells, source), memory=how.memory)
        step = share_of_progress(how.progress, sum(sizes[:i]), sizes[i], sum(sizes))
        values = run(model, planned, progress=step).values
        worse = (values[1:] - values[0]) * (-1 if metric.higher_is_better else 1)
        columns = mean_interval(worse, scale=metric.scale.change)
        measured = {COST[column]: numbers for column, numbers in columns.items()}
        costs.append(pd.DataFrame({"behavior": name, "component": heads[name], **measured}))
    together: pd.DataFrame = pd.concat(costs[1:] or costs)
    return together


def _with_costs(frame: pd.DataFrame, costs: pd.DataFrame, tasks: _Tasks) -> pd.DataFrame:
    """The rows, each with its behavior's metric, and what its head costs there if measured."""
    behaviors = frame["behavior"].dropna().unique()
    metrics = {name: METRICS[tasks.suited(name).metric] for name in behaviors}
    frame["metric"] = frame["behavior"].map({name: each.name for name, each in metrics.items()})
    joined = frame.merge(costs, how="left", on=["behavior", "component"])
    joined["cost_unit"] = joined["behavior"].map(
        {name: each.unit for name, each in metrics.items()}
    )
    typed: pd.DataFrame = joined.astype(dict.fromkeys(COST.values(), float))
    return typed


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows, each with the name of its head."""
    names = {
        head: name_of(dict(zip(rows["kind"], rows["excess"], strict=True)))
        for head, rows in frame.groupby("component", sort=False)
    }
    frame.insert(4, "name", frame["component"].map(names))
    frame["note"] = frame.pop("note")  # last
    named: pd.DataFrame = frame.drop(columns="excess")
    return named
