"""Which circuit does it? Scores for every edge, and the edges that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from circuits.circuit import Circuit, Level, Origin, Part, Score
from circuits.components import Edge
from circuits.discovery import METHODS, Search
from circuits.discovery.checking import Checked, checked
from circuits.discovery.choosing import Choice
from circuits.discovery.patching import sweep_over
from circuits.discovery.search import Scored
from circuits.effects import planned, source_of
from circuits.effects.circuit_questions import Rest, asked_of_circuits, single_batch
from circuits.effects.measuring import metric_of
from circuits.errors import CircuitsError
from circuits.metrics import Metric
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import PairOptions, RunOptions, analysis
from circuits.result import Provenance, Result
from circuits.sweep.survey import How

MEANINGS = {
    "task": "which prompts",
    "part": "what is scored: an edge, head, MLP or neuron",
    "sender": "who writes what is left out",
    "receiver": "who reads it, of an edge",
    "position": "where it acts, where positions are told apart",
    "layer": "of the receiver of an edge, or of the part; empty for the logits",
    "metric": "what was measured",
    "unit": "of value, clean, corrupted and exact",
    "clean": "the metric of the prompts, mean over n",
    "corrupted": "the metric of the reference: of the corrupted twins, or of what stands for them",
    "value": "the score: what leaving out this part alone does to the metric (an estimate of it, "
    "unless the method is exact), mean over n",
    "rank": "place by size of value, or by what gets worse without it; 1 is first",
    "kept": "whether the circuit has it",
    "exact": "the effect of really leaving it out (only where it was checked)",
    "exact_low": "lower end of its 95 % interval",
    "exact_high": "upper end of its 95 % interval",
    "error": "the score minus the exact effect",
    "missed": "whether a checked part does at least 5 % of the whole effect, and has a score of "
    "less than a tenth of what it does",
    "pearson": "correlation of scores and exact effects, over the checked rows",
    "spearman": "correlation of their ranks",
    "same_sign": "share of the checked rows with an effect whose score has its sign",
    "n_checked": "how many rows were checked",
}


@analysis
def discover(
    model: HookedModel,
    *,
    method: str = "eap-ig",
    level: Level = "edges",
    keep: str | None = None,
    select: Literal["top", "greedy"] = "top",
    absolute: bool = True,
    positions: Literal["roles"] | None = None,
    reference: Rest = "resample",
    steps: int = 5,
    check: Literal["all"] | int = 0,
    prompts: PairOptions,
    how: RunOptions,
) -> Result:
    """Which circuit does it?

    Every edge gets a score, what leaving it out does to the metric, and the largest are kept, less
    those that no path from the embedding to the logits uses. High scores do not make a circuit:
    `evaluate` tests it, on other prompts.

    $ circuits discover --task ioi --save ioi.json
    $ circuits discover --task ioi --method eap --keep 5% --select greedy --check 50
    $ circuits discover --task ioi --level heads --method exact --html heads.html

    Args:
        method: How parts are scored: {discoveries}.
        level: What is scored: edges, heads, nodes (heads and MLPs), or neurons.
        keep: How many are kept (100), which share (5%), or from which score on (0.01); for acdc,
            how much worse the metric may get by an edge that is left out. Without it, 100.
        select: The largest (top), or grown from the logits (greedy).
        absolute: Rank by size; or by how much the metric gets worse without a part.
        positions: Tell edges apart by where they act, at the roles of the prompts.
        reference: What stands for what is left out: the twin (resample), zero, or a mean.
        steps: Points of the paths of eap-ig and eap-ig-activations.
        check: Really leave out so many of the largest and as many at random, or all.

    Raises:
        CircuitsError: for prompts of several tasks or without twins; when nothing has an effect.

    >>> from circuits.checkpoints import load
    >>> found = discover(load("compiled"), method="exact", task="compiled-ioi", n=4, keep="6")
    >>> sorted(found.frame.loc[found.frame["kept"], "part"])[:3]
    ['a0.h1->a1.h1<k>', 'a1.h1->a2.h0<q>', 'a2.h0->logits']
    """
    choice = Choice("100" if keep is None or method == "acdc" else keep, select, absolute)
    threshold = _threshold(keep) if method == "acdc" else 0.0
    asked = _Asked(method, level, choice, threshold, positions, reference, steps, check)
    return _discovered(model, asked, prompts, how)


@dataclass(frozen=True)
class _Asked:
    """How a circuit is looked for."""

    method: str
    level: Level
    choice: Choice
    threshold: float
    positions: str | None
    reference: str
    steps: int
    check: Literal["all"] | int

    def __post_init__(self) -> None:
        if self.check != "all" and (isinstance(self.check, str) or self.check < 0):
            raise CircuitsError(f"check={self.check}: check 0 or more of the scores, or all")
        if self.steps < 1:
            raise CircuitsError(f"steps={self.steps}: a path has at least 1 point")
        METHODS.require(self.method)


def _discovered(model: HookedModel, asked: _Asked, prompts: PairOptions, how: RunOptions) -> Result:
    """The scores, what is kept by them, and what came of checking them."""
    batch = single_batch(model, prompts, "a circuit")
    options = _with_metric(prompts, asked.method)
    if asked.method != "exact":
        _require_plain(how, asked.method)
    search = Search(
        model,
        batch.blocks,
        asked_of_circuits(model, batch, options, asked.reference),
        positions=_positions(asked.positions, batch.first),
        steps=asked.steps,
        level=asked.level,
        threshold=asked.threshold,
        seed=prompts.seed,
        how=_how(how),
    )
    if how.plan:
        return planned(model, "discover", [batch], lambda _: sweep_over(search, search.parts), how)
    scored = METHODS.require(asked.method).search(search)
    source = source_of(model, "discover", [batch], [scored.moments.n])
    metric = metric_of(batch.first, options.metric)
    origin = replace(_origin(source, metric), method=asked.method, reference=asked.reference)
    circuit = _circuit(search, scored, origin, asked.choice)
    frame = _frame(batch.first, metric, scored, circuit, search.parts)
    if asked.check:
        frame = _with_check(frame, checked(search, scored.moments.effect[2:], asked.check))
    ranks = {part: i for i, part in enumerate(_ranked(circuit, asked.choice), start=1)}
    frame["rank"] = [ranks[part] for part in search.parts]
    how_many = f"{len(circuit)} of {len(frame)} {asked.level}"
    return Result(
        frame.sort_values("rank", kind="stable"),
        unit=metric.unit,
        title=f"{how_many} of {source.model} for {batch.first.task}, by {asked.method}",
        provenance=source,
        axes=("part",),
        view="circuit",
        meanings=MEANINGS,
        circuit=circuit,
    )


def _require_plain(how: RunOptions, method: str) -> None:
    """Refuse what only a sweep has."""
    given = [name for name in ("plan", "parts", "resume") if getattr(how, name)]
    given += ["engine"] if how.engine != "local" else []
    if given:
        raise CircuitsError(
            f"{given[0]} is for a sweep, which the method exact is; {method} has none: leave "
            f"{given[0]} out, or choose --method exact"
        )


def _how(how: RunOptions) -> How:
    return How(
        memory=how.memory,
        engine=how.engine,
        parts=None if how.parts is None else Path(how.parts),
        resume=how.resume,
        progress=how.progress,
        draws=how.draws,
    )


def _ranked(circuit: Circuit, choice: Choice) -> list[Part]:
    return circuit.ranked(circuit.scores, signed=not choice.absolute)


def _origin(source: Provenance, metric: Metric) -> Origin:
    return Origin(
        model=source.model,
        checksum=source.checksum,
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        task=source.task,
        prompts=source.prompts,
        n=source.n_prompts,
        seed=source.seed,
    )


def _with_metric(prompts: PairOptions, method: str) -> PairOptions:
    """The options with acdc's usual metric, where none was asked for."""
    if method == "acdc" and prompts.metric is None:
        return replace(prompts, metric="kl")
    return prompts


def _threshold(keep: str | None) -> float:
    """How much worse the metric may get by an edge that acdc leaves out."""
    try:
        threshold = 0.01 if keep is None else float(keep)
    except ValueError:
        threshold = float("nan")
    if not 0 <= threshold < float("inf"):
        raise CircuitsError(
            f"keep={keep!r}: acdc keeps an edge where the metric gets worse by at least so much "
            "without it; give a number such as 0.01"
        )
    return threshold


def _positions(wanted: str | None, first: Prompts) -> tuple[str | int | None, ...]:
    if wanted is None:
        return (None,)
    if wanted != "roles":
        raise CircuitsError(
            f"positions={wanted!r}: edges can be told apart by roles, or not at all"
        )
    if not first.roles:
        raise CircuitsError(
            f"the prompts of {first.task!r} have no roles, so their positions mean nothing in "
            "common; leave positions out, or choose a task that has (ioi)"
        )
    return tuple(first.roles)


def _circuit(search: Search, scored: Scored, origin: Origin, choice: Choice) -> Circuit:
    """What is kept, with the scores of everything."""
    columns = scored.moments.interval()
    ends = zip(
        *(columns[name][2:].tolist() for name in ("value", "ci_low", "ci_high")), strict=True
    )
    parts = search.parts
    scores = {part: Score(*each) for part, each in zip(parts, ends, strict=True)}
    circuit = Circuit(search.graph, frozenset(), origin, scores, search.level)
    if scored.kept is None:
        chosen = choice.of(circuit)
        return replace(chosen, origin=replace(chosen.origin, selection=choice.words))
    kept = frozenset(part for part, keep in zip(parts, scored.kept, strict=True) if keep)
    words = f"threshold {search.threshold:g}; {scored.order}"
    return replace(circuit, parts=kept, origin=replace(origin, selection=words)).pruned()


def _frame(
    first: Prompts, metric: Metric, scored: Scored, circuit: Circuit, parts: Sequence[Part]
) -> pd.DataFrame:
    """A row for each part, in the order of the search."""
    moments = scored.moments
    frame = pd.DataFrame(
        {
            "task": first.task,
            **_names(parts),
            "metric": metric.name,
            "unit": metric.unit,
            "clean": moments.value[0],
            "corrupted": moments.value[1],
            **{name: column[2:] for name, column in moments.interval().items()},
            "kept": [part in circuit.parts for part in parts],
        }
    )
    typed: pd.DataFrame = frame.astype({"layer": "Int64", "n": int})
    return typed


def _names(parts: Sequence[Part]) -> dict[str, list[Any]]:
    """What a table says of parts: their names, ends, positions and layers."""
    senders = [part.sender if isinstance(part, Edge) else part.at(None) for part in parts]
    receivers = [part.receiver if isinstance(part, Edge) else None for part in parts]
    ends = [part.receiver if isinstance(part, Edge) else part for part in parts]
    return {
        "part": [str(part) for part in parts],
        "sender": [str(sender) for sender in senders],
        "receiver": [None if each is None else str(each.at(None)) for each in receivers],
        "position": [None if end.position is None else str(end.position) for end in ends],
        "layer": [end.layer for end in ends],
    }


def _with_check(frame: pd.DataFrame, check: Checked) -> pd.DataFrame:
    """The table with the exact effects of some of its rows, and how the two agree."""
    more = {name: np.full(len(frame), np.nan) for name in ("exact", "exact_low", "exact_high")}
    for name, values in zip(more, (check.exact, check.low, check.high), strict=True):
        more[name][check.index] = values
    compared: pd.DataFrame = frame.assign(**more)
    compared["error"] = compared["value"] - compared["exact"]
    compared["missed"] = [i in {*check.missed} for i in range(len(frame))]
    agreement = {
        "pearson": check.pearson,
        "spearman": check.spearman,
        "same_sign": check.same_sign,
        "n_checked": len(check.index),
    }
    agreeing: pd.DataFrame = compared.assign(**agreement)
    return agreeing
