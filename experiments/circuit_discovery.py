"""Which method finds the circuit that patching every edge finds, and how large must it be?

The reference is exact patching: each of mini's 6,637 edges alone reads what its sender writes in
the corrupted twin, and the metric's change is the edge's score. Gradients estimate all scores at
once: at the prompts' own run (`eap`), also at the twin's (`clean-corrupted`), or at five points
between (`eap-ig` along the input, `eap-ig-activations` along what each writer writes). Each method
sees the same few prompts, drawn several times, of three tasks.

- *Agreement*: which share of the edges with the largest scores, by size, has exact patching among
  as many? How alike are the ranks? Exact patching on other prompts says how much of the
  disagreement comes from the prompts.
- *Faithfulness*: the largest edges by the mean of a method's scores, pruned, run alone on prompts
  that no method has seen: F = (m(circuit) - m(no edges)) / (m(model) - m(no edges)).
- *Controls*: random scores; and a circuit of exact patching whose edges keep their receivers, and
  get random senders. An untrained model of mini's shape: what is found there, and what is it worth?

Against the claim would speak: circuits of exact patching that do more than those of EAP-IG of the
same size, a tenth of the edges that does little, EAP's scores as close as EAP-IG's, or random
circuits that do it, too. `acdc` is left out: it decides on edges one after another, so that its
scores are of other things.

    circuits run circuit_discovery
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from circuits import discover
from circuits.agreement import spearman
from circuits.architectures import HookedGPT2
from circuits.arrays import Floats
from circuits.circuit import Circuit, Score, graph
from circuits.cli.experiments import as_command
from circuits.discovery.choosing import sized
from circuits.experiment import Check, Finding, check, table
from circuits.metrics import get_metric
from circuits.prompts import make
from circuits.result import Result
from circuits.sweep import CircuitSweep, Kept, Source, plan
from circuits.sweep import run as run_sweep
from circuits.sweep.moments import Moments, moments

CLAIM = (
    "The largest edges by EAP-IG do as much alone as the largest by exact patching, on prompts "
    "that neither has seen: a tenth of all edges does most of each task. EAP, by one gradient, "
    "ranks all edges like exact patching, and is further off in the few that do most."
)
MODEL = "mini"
NAME = "circuit_discovery"
TASKS = {"ioi": 6, "repeated": 3, "greater-than": 6}  # prompts in each draw
QUICK_TASKS = {"ioi": 1, "greater-than": 2}
DRAWS, QUICK_DRAWS = 3, 2  # of prompts to search on
N, QUICK_N = 24, 8  # prompts to run circuits on
UNSEEN = 1000  # added to the seed: other prompts than those that were searched on
EXACT, BY_GRADIENT = "exact", ("eap", "clean-corrupted", "eap-ig", "eap-ig-activations")
CHANCE, AGAIN, REWIRED = "random", "exact, other prompts", "exact, other senders"
SIZES = (0.5, 1, 2, 5, 10, 20)  # percent of all edges
SHUFFLES = 2  # of senders
SHOWN = 150  # edges in a picture
OF_EFFECT, OF_EDGES = "share of the effect", "share of the edges"
KINDS = {
    "method": f"how edges were scored; {AGAIN!r}: exact patching on one draw of prompts, compared "
    f"with that on another; {REWIRED!r}: the circuit of exact patching, with random senders",
    "edges": "how many are taken, the largest scores first, in percent of all",
}


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Score all edges by all methods, and run what they find on other prompts."""
    tasks, draws, n = (QUICK_TASKS, QUICK_DRAWS, QUICK_N) if quick else (TASKS, DRAWS, N)
    untrained = HookedGPT2.random(model.cfg, seed=seed, tokenizer=model.tokenizer)
    tables: dict[str, Result] = {}
    ranks, worth = [], []
    for task, few in tasks.items():
        searches = {
            method: [searched(model, method, task, few, seed + i) for i in range(draws)]
            for method in (EXACT, *BY_GRADIENT, CHANCE)
        }
        tables |= task_tables(model, task, searches, n, seed)
        ranks.append(ranked(searches).assign(task=task))
        worth += [
            {"task": task, "weights": weights, **nothing_learned(each, task, few, n, seed)}
            for weights, each in {"trained": model, "untrained": untrained}.items()
        ]
    tables["ranks"] = table(
        model,
        NAME,
        pd.concat(ranks),
        "rank correlation",
        "All edges: how alike are scores and exact effects?",
        axes=("task", "method"),
        view="heatmap",
        meanings={"method": KINDS["method"], "pearson": "correlation of the scores themselves"},
    )
    tables["untrained"] = table(
        model,
        NAME,
        pd.DataFrame(worth),
        "unit of the task's metric",
        "What is there to be found, with and without training?",
        axes=("task", "weights"),
        meanings={
            "value": "metric of the prompts minus metric of their twins",
            "shared": "of the largest 1 % by eap-ig, how many are so by eap",
            "share": "F of the largest 1 % by eap-ig, on other prompts",
        },
    )
    return Finding(tuple(verdict(tables, tasks)), tables)


def verdict(tables: Mapping[str, Result], tasks: Mapping[str, int]) -> Iterator[Check]:
    """What the claim stands or falls with."""
    ranks = tables["ranks"].frame.set_index(["task", "method"])
    effects = tables["untrained"].frame.set_index(["task", "weights"])["value"]
    for task in tasks:
        shares = tables[f"shared_{task}"].frame.set_index(["method", "edges"])["value"]
        rows = tables[f"faithfulness_{task}"].frame.set_index(["method", "edges"])
        alone_, pearson = rows["value"], ranks["pearson"].loc[task]
        most = (alone_[EXACT] - alone_["eap-ig"]).max()
        ahead = pearson["eap-ig"] - pearson["eap"]
        yield check(
            f"{task}: F of 10 % by eap-ig", rows.loc[("eap-ig", "10")], OF_EFFECT, above=0.75
        )
        yield Check(f"{task}: F by exact minus by eap-ig, the most", most, OF_EFFECT, below=0.1)
        yield Check(f"{task}: correlation, eap-ig minus eap", ahead, above=0)
        yield Check(f"{task}: rank correlation of eap", ranks["value"][task, "eap"], above=0.9)
        chance = shares[CHANCE, "5"]
        yield Check(f"{task}: 5 % by chance", chance, OF_EDGES, below=0.1, control=True)
        other = alone_[REWIRED, "10"]
        yield Check(f"{task}: F of 10 %, {REWIRED}", other, OF_EFFECT, below=0.2, control=True)
        left = abs(effects[task, "untrained"] / effects[task, "trained"])
        yield Check(f"{task}: effect untrained, of trained", left, below=0.05, control=True)


def searched(model: HookedGPT2, method: str, task: str, n: int, seed: int) -> Circuit:
    """The scores of all edges by this method, on these prompts."""
    circuit = discover(model, method=method, keep="100%", task=task, n=n, seed=seed).circuit
    assert circuit is not None
    return circuit


def scores(circuit: Circuit) -> Floats:
    """The score of every edge, in the order of the graph."""
    return np.array([circuit.scores[edge].value for edge in circuit.graph])


def overlap(first: Floats, second: Floats, count: int) -> float:
    """Which share of the `count` largest by size have both in common?"""
    best = [
        {*np.argsort(-np.abs(each), kind="stable")[:count].tolist()} for each in (first, second)
    ]
    return len(best[0] & best[1]) / count


def counts(model: HookedGPT2) -> dict[str, int]:
    """How many edges each size is, at least one."""
    return {f"{size:g}": max(1, int(size / 100 * len(graph(model.cfg)))) for size in SIZES}


def task_tables(
    model: HookedGPT2, task: str, searches: Mapping[str, Sequence[Circuit]], n: int, seed: int
) -> dict[str, Result]:
    """What is found for one task: how well methods agree, and what their circuits do."""
    axes = ("method", "edges")
    tables = {
        f"shared_{task}": table(
            model,
            NAME,
            shared(model, searches),
            OF_EDGES,
            f"{task}: which of the largest edges are so by exact patching?",
            axes=axes,
            view="curves",
            meanings={
                "draws": "of prompts",
                "least": "of the draws",
                "most": "of the draws",
                **KINDS,
            },
        ),
        f"faithfulness_{task}": table(
            model,
            NAME,
            faithfulness(model, task, searches, n, seed),
            OF_EFFECT,
            f"{task}: what does the circuit do alone, on other prompts?",
            axes=axes,
            view="curves",
            meanings={"kept": "edges that are left after pruning", **KINDS},
        ),
    }
    exact = means(searches[EXACT])
    largest = np.argsort(-np.abs(scores(exact)), kind="stable")[:SHOWN]
    names = [str(exact.graph.edges[i]) for i in largest]
    unit = str(exact.origin.unit)
    for method in BY_GRADIENT[::2]:
        points = {
            "value": scores(means(searches[method]))[largest],
            "exact": scores(exact)[largest],
        }
        tables[f"scores_{method}_{task}"] = table(
            model,
            NAME,
            pd.DataFrame({"edge": names, **points}),
            unit,
            f"{task}: {method} and exact patching, the {SHOWN} largest edges",
            axes=("edge", "value", "exact"),
            view="scatter",
        )
    return tables


def shared(model: HookedGPT2, searches: Mapping[str, Sequence[Circuit]]) -> pd.DataFrame:
    """Which share of the largest edges has exact patching, too, on the same prompts?"""
    known = {method: [*map(scores, circuits)] for method, circuits in searches.items()}
    exact = known.pop(EXACT)
    known[AGAIN] = [*exact[1:], exact[0]]
    return pd.DataFrame(
        {
            "method": method,
            "edges": size,
            **drawn([overlap(*pair, count) for pair in zip(values, exact, strict=True)]),
        }
        for method, values in known.items()
        for size, count in counts(model).items()
    )


def drawn(values: Sequence[float]) -> dict[str, float]:
    """A row's mean over draws of prompts; of so few, their ends say more than an interval."""
    ends = {"least": min(values), "most": max(values)}
    return {"value": float(np.mean(values)), **ends, "draws": len(values)}


def ranked(searches: Mapping[str, Sequence[Circuit]]) -> pd.DataFrame:
    """How alike are all scores, and their ranks, to those of exact patching?"""
    known = {method: [*map(scores, circuits)] for method, circuits in searches.items()}
    exact = known.pop(EXACT)
    known[AGAIN] = [*exact[1:], exact[0]]
    rows = []
    for method, values in known.items():
        pairs = [*zip(values, exact, strict=True)]
        pearson = np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])
        alike = drawn([spearman(*pair) for pair in pairs])
        rows.append({"method": method, "pearson": pearson, **alike})
    return pd.DataFrame(rows)


def means(circuits: Sequence[Circuit]) -> Circuit:
    """The mean of the scores over draws of prompts."""
    every = np.mean([*map(scores, circuits)], axis=0).tolist()
    edges = circuits[0].graph.edges
    known = {edge: Score(value) for edge, value in zip(edges, every, strict=True)}
    return replace(circuits[0], scores=known)


def rewired(circuit: Circuit, rng: np.random.Generator) -> Kept:
    """As many edges into each reader, from random senders that come before it."""
    whole = circuit.graph
    mask = np.zeros_like(whole.exists)
    for reader, count in enumerate(whole.mask(circuit.edges).sum(1).tolist()):
        mask[reader, rng.choice(int(whole.n_before[reader]), count, replace=False)] = True
    return Kept.only(whole, mask, REWIRED)


class Trial(NamedTuple):
    """A circuit of one method and size, to be run alone."""

    method: str
    edges: str
    kept: Kept


def faithfulness(
    model: HookedGPT2, task: str, searches: Mapping[str, Sequence[Circuit]], n: int, seed: int
) -> pd.DataFrame:
    """What do circuits of each method and size do alone, on prompts that no method has seen?"""
    rng, sizes = np.random.default_rng(seed), counts(model)
    trials = []
    for method, circuits in searches.items():
        for size, circuit in zip(sizes, sized(means(circuits), [*sizes.values()]), strict=True):
            trials.append(Trial(method, size, Kept.of(circuit, method)))
            if method == EXACT:
                trials += [Trial(REWIRED, size, rewired(circuit, rng)) for _ in range(SHUFFLES)]
    seen = {circuit.origin.seed: circuit.origin.n or 0 for circuit in searches[EXACT]}
    ratio = alone(model, task, [trial.kept for trial in trials], n, seed, seen).ratio()
    rows = []
    for i, trial in enumerate(trials, start=2):
        share = {name: column[i] for name, column in ratio.items()}
        about = {"method": trial.method, "edges": trial.edges}
        rows.append({**about, "kept": int(trial.kept.anywhere.sum()), **share})
    frame = pd.DataFrame(rows)
    by_size = frame[frame["method"] == REWIRED].groupby("edges", sort=False)
    others = [
        {
            "method": REWIRED,
            "edges": size,
            "kept": some["kept"].iloc[0],
            "value": some["value"].mean(),
        }
        for size, some in by_size
    ]
    return pd.concat([frame[frame["method"] != REWIRED], pd.DataFrame(others)], ignore_index=True)


def alone(
    model: HookedGPT2, task: str, kept: Sequence[Kept], n: int, seed: int, seen: Mapping[int, int]
) -> Moments:
    """The metric of no edges, of all, and of these circuits, on prompts that are not in `seen`.

    `seen` says how many prompts were searched on, by their seeds.
    """
    prompts = make(task, model, n, seed + UNSEEN)
    assert prompts.corrupted is not None
    known = {
        tuple(row)
        for each, count in seen.items()
        for row in make(task, model, count, each).tokens.tolist()
    }
    fresh = np.array([tuple(row) not in known for row in prompts.tokens.tolist()])
    whole = graph(model.cfg)
    nothing = Kept.only(whole, whole.exists & False, "nothing")
    cells = ((nothing,), (), *((each,) for each in kept))
    source = Source("resample", prompts.corrupted, prompts.mask)
    sweep = CircuitSweep(prompts, get_metric(prompts.metric), cells, source)
    values = run_sweep(model, plan(model, sweep)).values[:, fresh]
    return moments(values, np.ones(len(values), dtype=bool), full=1)


def nothing_learned(model: HookedGPT2, task: str, few: int, n: int, seed: int) -> dict[str, float]:
    """How much is there to be found, how alike are two estimates, and what is a circuit worth?"""
    estimate, other = (searched(model, method, task, few, seed) for method in ("eap-ig", "eap"))
    count = counts(model)["1"]
    (circuit,) = sized(estimate, [count])
    run_alone = alone(model, task, [Kept.of(circuit)], n, seed, {seed: few})
    effect = {name: float(column[1]) for name, column in run_alone.interval().items()}
    share = {name: float(column[2]) for name, column in run_alone.ratio().items()}
    return {
        **effect,
        "shared": overlap(scores(estimate), scores(other), count),
        "share": share["value"],
        "share_low": share["ci_low"],
        "share_high": share["ci_high"],
    }


if __name__ == "__main__":
    as_command(__file__)
