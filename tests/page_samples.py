"""Small results, made by hand, for the tests of their pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from circuits.result import Provenance, Result, mean_interval

ABOUT = Provenance(
    analysis="ablate",
    model="mini",
    checksum="0123456789abcdef",
    source="bundled",
    device="cpu",
    dtype="float32",
    arguments={"components": ("a0.h0",)},
    command="circuits ablate --all-heads --model mini",
    versions={"torch": "2.13.0"},
    seed=0,
)
TOKENS = ("The", " cat", " sat", " down")


def effects(n_layers: int = 2, n_heads: int = 2) -> Result:
    """A grid of effects with intervals."""
    places = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    draws = np.random.default_rng(0).normal(0, 1, (len(places), 5))
    frame = pd.DataFrame(
        {
            "component": [f"a{layer}.h{head}" for layer, head in places],
            "layer": [layer for layer, _ in places],
            "head": [head for _, head in places],
            **mean_interval(draws + np.arange(len(places))[:, None]),
            "sure": [i % 2 == 0 for i in range(len(places))],
        }
    )
    return Result(
        frame,
        unit="logits",
        title="Zero ablation of heads",
        provenance=ABOUT,
        axes=("layer", "head"),
        view="heatmap",
        meanings={"component": "what was ablated"},
    )


def attention(tokens: tuple[str, ...] = TOKENS, n_layers: int = 2, n_heads: int = 2) -> Result:
    """Patterns of every head, without the weights below one percent."""
    rng = np.random.default_rng(0)
    rows = []
    for layer in range(n_layers):
        for head in range(n_heads):
            for query in range(len(tokens)):
                for key, weight in enumerate(rng.dirichlet(np.full(query + 1, 0.5))):
                    if weight > 0.01:
                        name = f"a{layer}.h{head}"
                        texts = (tokens[query], tokens[key])
                        rows.append((name, layer, head, query, key, *texts, weight))
    columns = ["component", "layer", "head", "query", "key", "query_token", "key_token", "value"]
    return Result(
        pd.DataFrame(rows, columns=columns).assign(entropy_share=0.5),
        unit="share",
        title="Attention of mini",
        provenance=replace(ABOUT, analysis="attention", command="circuits attention 'The cat'"),
        axes=("component", "query", "key"),
        view="patterns",
        meanings={"query": "index of the token that looks"},
    )


def lens(tokens: tuple[str, ...] = TOKENS) -> Result:
    """A logit lens over five stages."""
    rng = np.random.default_rng(0)
    stages = ("embed", "a0", "m0", "a1", "m1")
    rows = []
    for position, after in enumerate(tokens):
        for i, stage in enumerate(stages):
            best = rng.uniform(0.3, 0.6)
            rows.append(
                {
                    "position": position,
                    "after": after,
                    "stage": stage,
                    "answer": " on",
                    "answer_rank": 5 - i,
                    "answer_probability": (i + 1) / 10,
                    "entropy": rng.uniform(0, 3),
                    "kl": (4 - i) / 2,
                    "takes_over": i == 4,
                    "token": after if i < 3 else " on",
                    "probability": best,
                    "token_2": " of",
                    "probability_2": best / 2,
                }
            )
    return Result(
        pd.DataFrame(rows),
        unit="probability",
        title="Logit lens on mini",
        provenance=replace(ABOUT, analysis="logit_lens", command="circuits logit-lens 'The cat'"),
        axes=("stage", "position"),
        view="lens",
    )


def heads() -> Result:
    """A report card: four heads, two kinds, one of them without scores."""
    frame = effects().frame.drop(columns="sure")
    scored = frame.assign(
        kind="induction",
        name=["none", "induction", "none", "induction"],
        clear=[False, True, False, True],
        control=0.1,
        unit="share of attention",
        behavior="repeated",
        metric="loss",
        cost=[0.0, 1.5, -0.2, 0.7],
        cost_low=[-0.1, 1.2, -0.4, 0.5],
        cost_high=[0.1, 1.8, 0.1, 0.9],
        cost_unit="nats per token",
        note=None,
    )
    averaged = ["value", "stderr", "ci_low", "ci_high", "control"]
    empty = scored.assign(kind="successor", clear=False, note="no series of single tokens")
    empty[[*averaged, "cost", "cost_low", "cost_high"]] = np.nan
    return Result(
        pd.concat([scored, empty]),
        unit="share of attention",
        title="Heads of mini",
        provenance=replace(ABOUT, analysis="heads", command="circuits heads"),
        axes=("kind", "layer", "head"),
        view="heatmap",
    )


def saying(result: Result, text: str) -> Result:
    """The same result with this text wherever a text from outside can stand."""
    frame = result.frame.copy()
    for name in ("query_token", "key_token"):
        if name in frame:
            index = frame[name.removesuffix("_token")]
            frame[name] = frame[name].where(index != 1, text)
    for name in ("after", "token", "token_2", "answer", "name", "note"):
        if name in frame:
            frame[name] = text
    about = replace(
        result.provenance,
        model=text,
        source=text,
        command=f"circuits x {text}",
        arguments={"prompt": text},
    )
    return replace(
        result,
        frame=frame,
        title=text,
        provenance=about,
        meanings={str(result.frame.columns[0]): text},
    )
