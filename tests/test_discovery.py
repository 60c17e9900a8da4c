"""Scores of edges: estimates equal their formulas, and what is exact equals patching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import circuit_twin
import eap_twin
import numpy as np
import pytest
import torch
from lens_models import lens_model
from lens_twin import IGNORE_DEPRECATION
from numpy.testing import assert_allclose
from random_models import TINY, randomized
from random_sweeps import random_prompts
from test_another_architecture import Toy, toy  # noqa: F401
from test_circuit_runs import reference

from circuits.architectures import HookedGPT2
from circuits.circuit import graph
from circuits.components import Edge
from circuits.discovery import METHODS, Search
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.sweep import CircuitSweep, Source, Sweep, cell, plan, run
from circuits.sweep.survey import How

LENGTHS = (7, 5, 7, 5)


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return randomized(TINY)


def search(
    model: HookedModel, prompts: Prompts, metric: str, source: str = "resample", **options: Any
) -> Search:
    def ask(block: Prompts) -> CircuitSweep:
        assert block.corrupted is not None
        other = Source(source, block.corrupted, block.mask)
        return CircuitSweep(block, get_metric(metric), ((),), other)

    return Search(model, [prompts], ask, **options)


def draws(model: HookedModel, asked: Search, method: str) -> Any:
    """Each edge's score in each prompt, [e b]: by asking about each prompt by itself."""
    (prompts,) = asked.blocks
    columns = []
    for row in range(len(prompts)):
        one_prompt = Search(
            model,
            [prompts.subset(slice(row, row + 1))],
            asked.ask,
            steps=asked.steps,
            positions=asked.positions,
        )
        columns.append(METHODS[method].search(one_prompt).moments.effect[2:])
    return np.stack(columns, 1)


POINTS = {
    "eap": [1.0],
    "eap-ig": [1 / 3, 2 / 3, 1.0],
    "clean-corrupted": [0.0, 1.0],
}


@pytest.mark.parametrize("source", ["resample", "zero", "mean"])
@pytest.mark.parametrize("metric", ["logit_diff", "loss", "prob", "kl"])
@pytest.mark.parametrize("method", POINTS)
def test_estimates_are_their_formulas(
    tiny: HookedGPT2, method: str, metric: str, source: str
) -> None:
    prompts = random_prompts(tiny.cfg, LENGTHS, seed=3)
    if (method, metric) == ("eap", "kl"):
        return
    asked = search(tiny, prompts, metric, source, steps=3)
    writes = reference(tiny, prompts, source)
    expected = eap_twin.scores(tiny, prompts, writes, get_metric(metric), POINTS[method])
    scores = METHODS[method].search(asked).moments
    assert_allclose(scores.effect[2:], expected.mean(1), rtol=1e-8, atol=1e-10)
    assert scores.n == len(prompts)


def test_each_prompt_has_its_own_score(tiny: HookedGPT2) -> None:
    prompts = random_prompts(tiny.cfg, LENGTHS, seed=3)
    asked = search(tiny, prompts, "loss")
    writes = reference(tiny, prompts, "resample")
    expected = eap_twin.scores(tiny, prompts, writes, get_metric("loss"), [1.0])
    assert_allclose(draws(tiny, asked, "eap"), expected, rtol=1e-8, atol=1e-10)
    moments = METHODS["eap"].search(asked).moments
    assert_allclose(moments.squares[2:], expected.var(1, correction=0) * 4, rtol=1e-7, atol=1e-12)


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
@pytest.mark.parametrize("shape", ["gpt2", "attn-only"])
def test_estimates_of_adapted_models(shape: str) -> None:
    pytest.importorskip("transformer_lens.HookedTransformer")
    from circuits.adapter import adapt

    model = adapt(lens_model(shape, words=False))
    prompts = random_prompts(model.cfg, LENGTHS, seed=3)
    writes = reference(model, prompts, "resample")
    expected = eap_twin.scores(model, prompts, writes, get_metric("loss"), POINTS["eap-ig"])
    asked = search(model, prompts, "loss", steps=3)
    scores = METHODS["eap-ig"].search(asked).moments
    assert_allclose(scores.effect[2:], expected.mean(1), rtol=1e-8, atol=1e-10)


def test_estimates_of_another_architecture(toy: Toy) -> None:  # noqa: F811
    prompts = random_prompts(toy.cfg, LENGTHS, seed=3)
    writes = reference(toy, prompts, "resample")
    expected = eap_twin.scores(toy, prompts, writes, get_metric("loss"), [1.0])
    scores = METHODS["eap"].search(search(toy, prompts, "loss")).moments
    assert_allclose(scores.effect[2:], expected.mean(1), rtol=1e-8, atol=1e-10)


def test_with_many_steps_the_edges_of_the_embedding_add_up(tiny: HookedGPT2) -> None:
    prompts = random_prompts(tiny.cfg, LENGTHS, seed=3)
    moments = METHODS["eap-ig"].search(search(tiny, prompts, "loss", steps=800)).moments
    from_embed = [i for i, edge in enumerate(graph(tiny.cfg), 2) if str(edge.sender) == "embed"]
    whole = moments.effect[1]
    assert_allclose(moments.effect[from_embed].sum(), whole, rtol=2e-3)


@pytest.mark.parametrize("source", ["resample", "zero", "mean"])
def test_exact_is_path_patching(tiny: HookedGPT2, source: str) -> None:
    prompts = random_prompts(tiny.cfg, LENGTHS, seed=3)
    scores = METHODS["exact"].search(search(tiny, prompts, "loss", source)).moments
    assert prompts.corrupted is not None
    if source == "resample":
        cells = ((), *(cell(edge) for edge in graph(tiny.cfg)))
        other = Source("resample", prompts.corrupted, prompts.mask)
        sweep = Sweep(prompts, get_metric("loss"), cells, other)
        values = run(tiny, plan(tiny, sweep)).values
        assert_allclose(scores.effect[2:], (values[1:] - values[0]).mean(1), atol=1e-10)
    else:  # all edges but one, run alone, is another way to leave one out
        writes = reference(tiny, prompts, source)
        base = _alone(tiny, prompts, writes, list(graph(tiny.cfg)))
        for index in (0, 3, 30, len(graph(tiny.cfg)) - 1):
            rest = [edge for i, edge in enumerate(graph(tiny.cfg)) if i != index]
            change = (_alone(tiny, prompts, writes, rest) - base).mean()
            assert_allclose(scores.effect[2 + index], change, atol=1e-9)


def _alone(model: HookedModel, prompts: Prompts, writes: Any, edges: list[Edge]) -> Any:
    logits = circuit_twin.alone(model, prompts, writes, edges)
    return get_metric("loss")(logits, prompts).numpy()


@pytest.mark.parametrize("method", ["eap", "exact"])
def test_positions_tell_edges_apart(tiny: HookedGPT2, method: str) -> None:
    """Of a linear estimate, the scores at all positions add up to the edge's own."""
    prompts = random_prompts(tiny.cfg, (5, 5), seed=4)
    places: Sequence[int] = range(5)
    asked = search(tiny, prompts, "loss", positions=tuple(places))
    n = len(graph(tiny.cfg))
    by_position = METHODS[method].search(asked).moments.effect[2:].reshape(5, n)
    everywhere = METHODS[method].search(search(tiny, prompts, "loss")).moments.effect[2:]
    if method == "eap":
        assert_allclose(by_position.sum(0), everywhere, rtol=1e-8, atol=1e-10)
    at_embed = [i for i, e in enumerate(graph(tiny.cfg)) if str(e.receiver) == "logits"]
    assert abs(by_position[4, at_embed]).max() > 0
    edge = asked.parts[n]
    assert isinstance(edge, Edge)
    assert edge.receiver.position == 1


@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-ig-activations"])
def test_memory_changes_no_score(tiny: HookedGPT2, method: str) -> None:
    prompts = random_prompts(tiny.cfg, LENGTHS, seed=3)
    plain = METHODS[method].search(search(tiny, prompts, "loss")).moments
    with pytest.raises(CircuitsError, match=r"take (\d+) bytes") as error:
        METHODS[method].search(search(tiny, prompts, "loss", how=How(memory=10)))
    least = int(str(error.value).split("take ")[1].split()[0])
    small = METHODS[method].search(search(tiny, prompts, "loss", how=How(memory=least))).moments
    assert_allclose(small.effect, plain.effect, rtol=1e-9, atol=1e-12)


def test_paths_of_activations_end_at_the_gradient_of_the_run(tiny: HookedGPT2) -> None:
    """With one step the path is its end, the prompts' own run: the scores of eap."""
    prompts = random_prompts(tiny.cfg, LENGTHS, seed=3)
    single = METHODS["eap-ig-activations"].search(search(tiny, prompts, "loss", steps=1)).moments
    plain = METHODS["eap"].search(search(tiny, prompts, "loss")).moments
    assert_allclose(single.effect, plain.effect, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_paths_of_activations_add_up_to_what_patching_a_stage_does(tiny: HookedGPT2) -> None:
    """The edges that leave a stage, over many steps: the metric's change along its path."""
    prompts = random_prompts(tiny.cfg, (6, 4), seed=5)
    asked = search(tiny, prompts, "loss", steps=800)
    scores = METHODS["eap-ig-activations"].search(asked).moments.effect[2:]
    assert prompts.corrupted is not None
    for layer, what in ((0, "a0"), (1, "m1")):
        source = Source("resample", prompts.corrupted, prompts.mask)
        sweep = Sweep(prompts, get_metric("loss"), ((), cell(what)), source)
        values = run(tiny, plan(tiny, sweep)).values
        leaving = [
            i
            for i, edge in enumerate(graph(tiny.cfg))
            if edge.sender.layer == layer
            and edge.sender.kind == ("head" if what[0] == "a" else "mlp")
        ]
        assert_allclose(scores[leaving].sum(), (values[1] - values[0]).mean(), rtol=3e-3, atol=1e-4)


def test_a_metric_without_gradient_is_refused(tiny: HookedGPT2) -> None:
    prompts = random_prompts(tiny.cfg, LENGTHS, seed=3)
    with pytest.raises(CircuitsError, match="has no gradient"):
        METHODS["eap"].search(search(tiny, prompts, "accuracy"))
    with pytest.raises(CircuitsError, match="no gradient at the very run"):
        METHODS["eap"].search(search(tiny, prompts, "kl"))


def test_the_model_is_left_as_it_was(tiny: HookedGPT2) -> None:
    before = [weight.clone() for weight in tiny.parameters()]
    METHODS["eap-ig"].search(search(tiny, random_prompts(tiny.cfg, LENGTHS, seed=3), "loss"))
    assert all(torch.equal(a, b) for a, b in zip(before, tiny.parameters(), strict=True))
    assert all(weight.requires_grad and weight.grad is None for weight in tiny.parameters())


@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-ig-activations", "clean-corrupted"])
def test_where_everything_is_linear_estimates_are_exact(method: str) -> None:
    """Patterns that no token changes, neurons above their bend, norms whose scale is their eps."""
    model = randomized(replace(TINY, act_fn="relu", eps=1e18))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_QKV[:, : 2 * TINY.n_heads * TINY.d_head] = 0
            block.mlp.b_in += 1000
            for norm in (block.ln1, block.ln2):
                norm.w *= 1e9
        model.ln_final.w *= 1e9
    prompts = random_prompts(model.cfg, LENGTHS, seed=3)
    asked = search(model, prompts, "logit_diff")
    exact = METHODS["exact"].search(asked).moments.effect[2:]
    given = METHODS[method].search(asked).moments.effect[2:]
    assert abs(exact).max() > 0.1
    assert_allclose(given, exact, atol=1e-9)
