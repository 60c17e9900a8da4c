"""A small compiled model, its circuit, and what `evaluate` says of circuits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from circuits.checkpoints.compiled import Recipe
from circuits.circuit import Circuit, Score, graph
from circuits.metrics import get_metric
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.result import Result
from circuits.sweep import Source, Sweep, cell, plan, run

RECIPE = Recipe(n_layers=3, n_heads=3, d_head=30, d_vocab=16, n_ctx=12)  # a small one
FEW: dict[str, Any] = {"n": 16, "subsets": 12, "controls": 50, "untrained": 3}


def verdicts(result: Result) -> dict[str, set[str]]:
    rows = result.frame[result.frame["verdict"] != "–"]
    return {str(test): {*part["verdict"]} for test, part in rows.groupby("test", sort=False)}


def overall(result: Result) -> str:
    return str(result.frame[result.frame["test"] == "all"]["verdict"].iloc[0])


def exact(model: HookedModel, prompts: Prompts, keep: int) -> Circuit:
    """The circuit of the edges that matter most when each alone is corrupted."""
    assert prompts.corrupted is not None
    edges = graph(model.cfg).edges
    source = Source("resample", prompts.corrupted, prompts.mask)
    cells = ((), *(cell(edge) for edge in edges))
    values = run(model, plan(model, Sweep(prompts, get_metric("logit_diff"), cells, source))).values
    changes = (values[1:] - values[0]).mean(1)
    order = np.argsort(-np.abs(changes), kind="stable")[:keep]
    circuit = Circuit.of(model, [edges[i] for i in order])
    origin = replace(
        circuit.origin,
        method="exact",
        metric="logit_diff",
        task=prompts.task,
        seed=prompts.seed,
        n=len(prompts),
        prompts=prompts.checksum,
    )
    scores = {edge: Score(float(x)) for edge, x in zip(edges, changes, strict=True)}
    return replace(circuit, origin=origin, scores=scores)
