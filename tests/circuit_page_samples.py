"""Small circuits for the tests of their pages, with what a page shows beside them."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from circuit_samples import random_circuit
from page_samples import attention

from circuits.circuit import Circuit, Graph, Score
from circuits.components import Component
from circuits.result import Result

SHAPE = Graph(3, 4)
CURVE = pd.DataFrame(
    {
        "ranking": "absolute",
        "kept": [2, 20, 60],
        "value": [0.1, 0.6, 1.0],
        "ci_low": [-0.1, 0.4, 0.9],
        "ci_high": [0.3, 0.8, 1.1],
    }
)


def scored(n_kept: int = 20, shape: Graph = SHAPE) -> Circuit:
    """Every edge has a score with an interval; the largest are kept."""
    circuit = random_circuit(shape)
    scores = {
        part: Score(score.value, score.value - 0.1, score.value + 0.1)
        for part, score in circuit.scores.items()
    }
    return replace(
        circuit,
        parts=frozenset(circuit.ranked(scores)[:n_kept]),
        scores=scores,
        origin=replace(circuit.origin, metric="logit_diff", unit="logits", method="exact"),
        classes={
            Component("head", 0, 1): "early",
            Component("mlp", 2): "late",
            Component("head", 2, 0): "late",
        },
    )


def patterns() -> list[Result]:
    """Attention of the heads of layers 0 and 1 on two prompts."""
    return [attention(n_heads=4), attention(("One", " two"), n_heads=4)]
