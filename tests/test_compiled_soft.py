"""The compiled model with soft attention: closed forms, and every edge against plain hooks.

With a beta of 4 a match scores 4, BOS 2 and every other key 0, so each key gets its share. What the
five heads then say can be written down without a model: `Soft` does so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from ground_truth import RECIPES, every_edge
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.arrays import Floats
from circuits.checkpoints.compiled import BOS, END, LOGIT_GAIN, NAMES, Recipe, build
from circuits.circuit import graph
from circuits.components import Component, Edge
from circuits.hooks import HookPoint
from circuits.metrics import get_metric
from circuits.prompts import Prompts, make

BETAS = (2.0, 4.0, 7.0)
FEW = Recipe(
    d_vocab=17, n_ctx=12, d_head=30, n_heads=3, n_layers=3
)  # for all sentences of the task
TO = 5e-4  # LayerNorm scales by 1 - 1e-5, which these formulas leave out


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def softmax(scores: Floats) -> Floats:
    weights = np.exp(scores)
    return weights / weights.sum()


@dataclass(frozen=True)
class Soft:
    """What each head of the compiled model does on one prompt, in closed form.

    Attributes:
        beta: the score of a match.
        ids: the clean prompt's tokens [p]; END is the last.
    """

    beta: float
    ids: list[int]

    def previous(self, at: int) -> Floats:
        """Attention of the previous-token head from this position, [k]."""
        return softmax(np.array([self.beta * (k == at - 1) for k in range(at + 1)]))

    def duplicate(self, at: int, queries: list[int], keys: list[int]) -> Floats:
        """Attention of the duplicate-token head from this position, [k]."""
        same = np.array([queries[at] == keys[k] != BOS for k in range(at + 1)], float)
        rest = 0.5 * (np.array(keys[: at + 1]) == BOS)
        self_ = -2.0 * (np.arange(at + 1) == at)
        return softmax(self.beta * (same + rest + self_))

    def marks(self, queries: list[int], keys: list[int]) -> Floats:
        """How much of a repetition each position is, [p]: all attention that does not rest."""
        return np.array([1 - self.duplicate(at, queries, keys)[0] for at in range(len(queries))])

    def inhibition(self, marks: Floats) -> Floats:
        """Attention of the S-inhibition head from END, [k]."""
        rest = 0.5 * (np.arange(len(marks)) == 0)
        return softmax(self.beta * (marks + rest))

    def mover(self, avoid: dict[int, float], keys: list[int]) -> Floats:
        """Attention of the name mover from END, [k], told how much to avoid each token."""
        scores = [(1 - 2 * avoid[t]) if t in NAMES else 0.5 * (t == BOS) for t in keys]
        return softmax(self.beta * np.array(scores))

    def induction(self) -> Floats:
        """Attention of the induction head from END, [k]: END itself hears a little of END."""
        n = len(self.ids) - 1
        scores = np.zeros(n + 1)
        scores[0], scores[n] = 0.5, self.previous(n)[n]
        return softmax(self.beta * scores)

    def said(self, attention: Floats, values: list[int]) -> dict[int, float]:
        """How much of each token but BOS a head copies."""
        said = dict.fromkeys(range(1, max(*NAMES, *values) + 1), 0.0)
        for weight, token in zip(attention.tolist(), values, strict=True):
            if token != BOS:
                said[token] += weight
        return said

    def logit_diff(self, io: int, s: int, twin: list[int], corrupted: set[str]) -> float:
        """IO's logit less S's, where each of these edges carries what it does on the twin."""

        def read(edge: str) -> list[int]:
            return twin if edge in corrupted else self.ids

        marked = self.marks(read("embed->0.1.q"), read("embed->0.1.k"))
        if "0.1->1.1.k" in corrupted:
            marked = self.marks(twin, twin)
        avoid = self.said(self.inhibition(marked), read("embed->1.1.v"))
        other = replace(self, ids=twin)
        elsewhere = other.said(other.inhibition(self.marks(twin, twin)), twin)
        if "1.1->2.0.q" in corrupted:
            avoid = elsewhere
        out = self.said(self.mover(avoid, read("embed->2.0.k")), read("embed->2.0.v"))
        if "2.0->out" in corrupted:
            out = self.said(self.mover(elsewhere, twin), twin)
        repeats = self.said(self.induction(), read("embed->1.0.v"))
        if "1.0->out" in corrupted:
            repeats = self.said(self.induction(), twin)
        return LOGIT_GAIN * (out[io] + repeats[io] - out[s] - repeats[s])


# What an edge of `Soft` is called in a model that has its heads where the bundled one has.
EDGES = {
    "embed->0.1.q": "embed->a0.h1<q>",
    "embed->0.1.k": "embed->a0.h1<k>",
    "embed->1.1.v": "embed->a1.h1<v>",
    "0.1->1.1.k": "a0.h1->a1.h1<k>",
    "1.1->2.0.q": "a1.h1->a2.h0<q>",
    "embed->2.0.k": "embed->a2.h0<k>",
    "embed->2.0.v": "embed->a2.h0<v>",
    "embed->1.0.v": "embed->a1.h0<v>",
    "2.0->out": "a2.h0->logits",
    "1.0->out": "a1.h0->logits",
}


def rows(prompts: Prompts) -> Iterator[tuple[list[int], list[int], int, int]]:
    """Each prompt without padding, its twin, IO and S."""
    assert prompts.corrupted is not None
    assert prompts.answers is not None
    assert prompts.distractors is not None
    for row, real in enumerate(prompts.mask.sum(1).tolist()):
        pair = (prompts.tokens[row, :real].tolist(), prompts.corrupted[row, :real].tolist())
        yield (*pair, int(prompts.answers[row]), int(prompts.distractors[row]))


@pytest.mark.parametrize("beta", BETAS)
def test_attention_in_closed_form(beta: float) -> None:
    model = build(FEW, beta=beta)
    prompts = make("compiled-ioi", model, 8)
    for ids, _, _, _ in rows(prompts):
        soft, last = Soft(beta, ids), len(ids) - 1
        s2 = max(i for i, t in enumerate(ids) if ids.count(t) == 2)
        cache = model.run_with_cache(torch.tensor([ids]))[1]
        avoid = soft.said(soft.inhibition(soft.marks(ids, ids)), ids)
        expected = {
            (0, 0, last): soft.previous(last),
            (0, 1, s2): soft.duplicate(s2, ids, ids),
            (0, 1, last): soft.duplicate(last, ids, ids),
            (1, 0, last): soft.induction(),
            (1, 1, last): soft.inhibition(soft.marks(ids, ids)),
            (2, 0, last): soft.mover(avoid, ids),
        }
        for (layer, head, at), attention in expected.items():
            row = cache["pattern", layer][0, head, at, : at + 1].numpy()
            assert row == pytest.approx(attention, abs=TO), f"{layer}.{head} at {at}"


def test_a_match_gets_its_share() -> None:
    """The formula of the docstring, with the numbers that it gives."""
    soft = Soft(4.0, [BOS, 12, 2, 13, 3, 14, 15, 16, 3, 17, 18, END])
    e, s1, s2 = math.e, 4, 8
    attention = soft.duplicate(s2, soft.ids, soft.ids)
    # One match, BOS, itself, and six others.
    assert attention[s1] == pytest.approx(e**4 / (e**4 + e**2 + e**-4 + 6))
    assert attention[0] == pytest.approx(e**2 / (e**4 + e**2 + e**-4 + 6))
    assert attention[s2] < 1e-3
    assert e**4 / (e**4 + e**2 + 10) == pytest.approx(0.75, abs=0.01)
    assert Soft(30.0, soft.ids).duplicate(s2, soft.ids, soft.ids)[s1] > 1 - 1e-6


@pytest.mark.parametrize("beta", [*BETAS, 30.0])
def test_every_edge_that_matters_in_closed_form(beta: float) -> None:
    model = build(FEW, beta=beta)
    prompts = make("compiled-ioi", model, 8, seed=3)
    effects, clean = every_edge(model, prompts)
    named = {str(edge): effect for edge, effect in effects.items()}
    to = 10 * TO if beta == 30 else 2 * TO
    for row, (ids, twin, io, s) in enumerate(rows(prompts)):
        soft = Soft(beta, ids)
        base = soft.logit_diff(io, s, twin, set())
        assert clean[row] == pytest.approx(base, abs=to)
        for mine, edge in EDGES.items():
            expected = soft.logit_diff(io, s, twin, {mine}) - base
            assert named[edge][row] == pytest.approx(expected, abs=to), edge
    rest = [effect for edge, effect in named.items() if edge not in EDGES.values()]
    assert len(rest) == len(graph(model.cfg)) - len(EDGES)
    assert np.abs(rest).max() < 0.01  # positions hear of S2 by way of PREV, and END of them


@pytest.mark.slow
def test_six_edges_stand_out_at_beta_4_and_not_at_2() -> None:
    """What `Recipe.effects` says of soft models."""
    for beta, stand_out in ((4.0, True), (2.0, False)):
        recipe = replace(FEW, beta=beta)
        model = build(recipe)
        effects, clean = every_edge(model, make("compiled-ioi", model, 24))
        assert clean.std() > 0.1  # sentences differ, so that intervals have a width
        means = {edge: float(effect.mean()) for edge, effect in effects.items()}
        ranked = sorted(means, key=lambda edge: -abs(means[edge]))
        assert ({*ranked[:6]} == {*recipe.effects}) == stand_out
        if stand_out:
            assert all(-10.5 < means[edge] < -5.5 for edge in ranked[:6])
            assert all(np.abs(effects[edge]).max() < 1 for edge in ranked[6:])


# --- every edge by plain hooks --------------------------------------------------------------------


def outputs(model: HookedGPT2, tokens: Tensor) -> dict[Component, Tensor]:
    """What each writer adds to the stream, [b p d]."""
    names = ("hook_result", "hook_mlp_out", "blocks.0.hook_resid_pre")
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(names))
    out = {Component("embed"): cache["resid_pre", 0]}
    for layer in range(model.cfg.n_layers):
        out[Component("mlp", layer)] = cache["mlp_out", layer]
        for head in range(model.cfg.n_heads):
            out[Component("head", layer, head)] = cache["result", layer][:, :, head]
    return out


def input_site(model: HookedGPT2, to: Component) -> str:
    """Where the stream goes into this reader."""
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    return {"mlp": f"blocks.{to.layer}.hook_mlp_in", "logits": last}.get(to.kind, to.site)


def by_hook(model: HookedGPT2, prompts: Prompts, edge: Edge, delta: Tensor) -> Floats:
    """The logit difference [b] where this reader alone sees what the sender writes on the twin."""
    to = edge.receiver

    def hook(value: Tensor, hook: HookPoint) -> None:
        (value[:, :, to.head] if to.kind == "head" else value).add_(delta)

    hooks = [(input_site(model, to), hook)]
    logits = model.run_with_hooks(prompts.tokens, fwd_hooks=hooks)
    values: Floats = get_metric("logit_diff")(logits, prompts).double().numpy()
    return values


def check_by_hooks(recipe: Recipe) -> None:
    model = build(recipe)
    prompts = make("compiled-ioi", model, 4, seed=1)
    assert prompts.corrupted is not None
    before, after = outputs(model, prompts.tokens), outputs(model, prompts.corrupted)
    effects, clean = every_edge(model, prompts)
    assert len(effects) == len(graph(model.cfg))
    for edge, effect in effects.items():
        delta = after[edge.sender] - before[edge.sender]
        assert clean + effect == pytest.approx(by_hook(model, prompts, edge, delta), abs=2e-5), str(
            edge
        )
    assert sum(bool(np.abs(effect).max() > 0.1) for effect in effects.values()) > 6


SOFT: dict[str, Any] = {"beta": 4.0}


@pytest.mark.parametrize(
    "name",
    [
        "smallest",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("empty-layers", "permuted-heads", "one-head-a-layer")
        ),
    ],
)
def test_every_edge_of_a_soft_model_equals_plain_hooks(name: str) -> None:
    check_by_hooks(replace(RECIPES[name], **SOFT))


def first_order(model: HookedGPT2, prompts: Prompts) -> dict[Edge, float]:
    """Each edge's effect by the gradient at its reader in the clean run: d . dm/dx, the mean."""
    assert prompts.corrupted is not None
    before, after = outputs(model, prompts.tokens), outputs(model, prompts.corrupted)
    edges, at = graph(model.cfg).edges, {}
    sites = {input_site(model, edge.receiver) for edge in edges}

    def keep(grad: Tensor, hook: HookPoint) -> None:
        at[hook.name] = grad.clone()

    with torch.enable_grad(), model.hooks(bwd_hooks=[(site, keep) for site in sites]):
        get_metric("logit_diff")(model(prompts.tokens), prompts).mean().backward()
    model.zero_grad()
    estimates = {}
    for edge in edges:
        to, delta = edge.receiver, after[edge.sender] - before[edge.sender]
        grad = at[input_site(model, to)]
        grad = grad[:, :, to.head] if to.kind == "head" else grad
        estimates[edge] = float((delta * grad).sum())
    return estimates


def test_gradients_rank_the_six_first_at_beta_4_and_see_one_of_them_at_30() -> None:
    """What `Recipe` says of methods that follow gradients."""
    for beta in (4.0, 5.0, 30.0):
        recipe = replace(FEW, beta=beta)
        model = build(recipe)
        estimates = first_order(model, make("compiled-ioi", model, 16))
        ranked = sorted(estimates, key=lambda edge: -abs(estimates[edge]))
        assert ({*ranked[:6]} == {*recipe.effects}) == (beta == 4)
        if beta == 30:
            seen = {str(edge): x for edge, x in estimates.items() if abs(x) > 1e-3}
            assert seen == pytest.approx({"a2.h0->logits": -10.0}, abs=TO)


def test_renamed_heads_have_the_same_soft_numbers() -> None:
    """Where heads stand changes no number, at any beta."""
    moved = replace(RECIPES["permuted-heads"], **SOFT)
    plain = Recipe(moved.d_vocab, moved.n_ctx, moved.d_head, n_layers=3, beta=4.0)
    tables = []
    for recipe in (moved, plain):
        model = build(recipe)
        tables.append(every_edge(model, make("compiled-ioi", model, 6))[0])
    for here, there in zip(moved.effects, plain.effects, strict=True):
        assert tables[0][here] == pytest.approx(tables[1][there], abs=1e-5)
