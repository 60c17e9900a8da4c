"""Sweeps of adapted models: the engine's numbers on a GPT-2, the slow twin's on other shapes."""

from __future__ import annotations

from functools import cache
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import slow_sweep
import torch
from hypothesis import assume, given, settings
from lens_models import SHAPES, lens_model
from lens_twin import IGNORE_DEPRECATION, lens_twin
from numpy.testing import assert_allclose, assert_array_equal
from quick import only
from random_models import TINY, randomized
from random_sweeps import models, random_prompts, sweeps

from circuits.adapter import AdaptedModel, adapt
from circuits.architectures import HookedGPT2
from circuits.components import Component, all_heads
from circuits.errors import CircuitsError
from circuits.interventions import METHODS
from circuits.metrics import METRICS
from circuits.sweep import Scores, Source, Sweep, cell, estimate, logits, plan, run
from circuits.sweep.gradient import attribute

pytest.importorskip("transformer_lens.HookedTransformer")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)
close = torch.testing.assert_close

PARTS = ["a0.h1", "a1.h2@END", "a1", "m0", "m1@END", "embed@MID", "resid_pre.1", "resid_post.1"]
PARTS += ["a1.h0<q>", "a0.h3<k>@0", "a1.h1<v>", "m0.n3", "m1.n0@-1", "a0.h1<pattern>@END"]
EDGES = ["a0.h1->a1.h2<q>", "embed->a0.h0<k>", "m0->logits", "m0.n3->a1.h2<v>@MID", "a0->a1"]
EDGES += ["a0.h2@MID->a1.h1", "a1->logits@END", "a0.h0->a1.h0@MID"]
MID = ["resid_mid.0", "a0->m1", "a0.h1->m0@END"]  # not where attention and MLP are parallel


@cache
def adapted(shape: str) -> AdaptedModel:
    return adapt(lens_model(shape, words=False))


def asked(model: HookedGPT2, *cells: Any, **options: Any) -> Sweep:
    prompts = random_prompts(model.cfg, (7, 5, 7, 5), seed=1, n_same=1)
    assert prompts.corrupted is not None
    source = Source(options.pop("method", "resample"), prompts.corrupted, prompts.mask)
    every = tuple(cell(*([names] if isinstance(names, str) else names)) for names in cells)
    return Sweep(prompts, METRICS[options.pop("metric", "loss")], ((), *every), source, **options)


def scores(model: HookedGPT2, sweep: Sweep) -> Scores:
    return run(model, plan(model, sweep))


def check(model: AdaptedModel, sweep: Sweep) -> None:
    found, expected = scores(model, sweep), slow_sweep.scores(model, sweep).numpy()
    assert_allclose(found.values, expected, rtol=1e-9, atol=1e-9)
    moved = (abs(expected - expected[0]) > 1e-9).any(1)
    assert found.changed[moved].all()
    still = found.values[~found.changed]
    assert_array_equal(still, np.broadcast_to(found.values[0], still.shape))


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_a_gpt_2_gives_what_the_engine_gives(data: st.DataObject) -> None:
    model = data.draw(models())
    assume(model.cfg.act_fn != "quick_gelu")  # which transformer_lens has not
    sweep = data.draw(sweeps(model.cfg))
    expected, found = scores(model, sweep), scores(adapt(lens_twin(model)), sweep)
    assert_allclose(found.values, expected.values, rtol=1e-8, atol=1e-8)
    assert (found.changed >= expected.changed).all()


WITH_MLPS = [shape for shape in SHAPES if shape != "attn-only"]


@pytest.mark.parametrize("shape", WITH_MLPS)
@pytest.mark.slow
def test_every_kind_of_cell_equals_a_plain_run_with_hooks(shape: str) -> None:
    model = adapted(shape)
    cells: list[Any] = [*PARTS, ("a0.h1", "m1", "a1.h1<q>")]
    edges = [edge for edge in EDGES if not (model.cfg.post_norms and ".n" in edge)]
    if model.cfg.post_norms:
        edges = [edge for edge in edges if ".h" not in edge.split("->")[0]]
    check(model, asked(model, *cells, *edges, *(() if model.cfg.parallel else MID[:2])))


@pytest.mark.parametrize("shape", only(("gemma2", "llama"), WITH_MLPS))
def test_paths_by_way_of_mlps_equal_plain_runs_with_heads_held(shape: str) -> None:
    model = adapted(shape)
    mid = () if model.cfg.parallel else ("a0->m1", "a0.h1->m0@END", "m0.n3->m1")
    several = ("a0.h1->a1.h2<q>", "m0->a1.h2<q>", "embed->logits", "a0.h2@END->logits")
    check(model, asked(model, *EDGES, *mid, several, hold="heads"))


def test_attention_layers_can_be_alone() -> None:
    model = adapted("attn-only")
    cells = [name for name in (*PARTS, *EDGES) if "m" not in name.lower().replace("mid", "")]
    assert len(cells) == 14
    check(model, asked(model, *cells))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", only(["llama"], ["llama", "gemma2"]))
def test_every_method_writes_what_a_plain_run_writes(shape: str, method: str) -> None:
    model = adapted(shape)
    cells = [part for part in PARTS if "pattern" not in part]
    check(model, asked(model, *cells, "m0->logits", method=method, metric="kl"))


@pytest.mark.parametrize("shape", ["llama", "gemma", "pythia"])
def test_patterns_can_be_held(shape: str) -> None:
    model = adapted(shape)
    cells = ("a0.h1", "m0", "resid_pre.1", "a1.h1<v>", "a0.h1->a1.h2<v>")
    check(model, asked(model, *cells, freeze="patterns"))


def test_a_head_by_hand() -> None:
    """Zero ablation, with transformer_lens alone."""
    for shape in SHAPES:
        model, theirs = adapted(shape), lens_model(shape, words=False)
        sweep = asked(model, "a1.h2", method="zero", metric="logit_diff")
        prompts = sweep.prompts

        def zero(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value[:, :, 2] = 0
            return value

        given = theirs.run_with_hooks(
            prompts.tokens,
            fwd_hooks=[("blocks.1.attn.hook_z", zero)],
            attention_mask=prompts.mask.long(),
        )
        rows, ends = torch.arange(4), prompts.roles["END"]
        end = given[rows, ends]
        expected = end[rows, prompts.answers] - end[rows, prompts.distractors]
        assert_allclose(scores(model, sweep).values[1], expected.detach().numpy(), atol=1e-9)


def test_edges_to_and_from_all_heads_of_an_attention_layer_add_up_to_it() -> None:
    model = adapted("llama")
    heads = [head for head in all_heads(model.cfg) if head.layer == 0]
    whole, split = (cell(*(f"{sender}->m1" for sender in senders)) for senders in (["a0"], heads))
    sweep = asked(model)
    sweep = Sweep(sweep.prompts, sweep.metric, (whole, split), sweep.source)
    found = scores(model, sweep).values
    assert_allclose(found[0], found[1], rtol=1e-10)


def test_what_cannot_be_written_is_one_clear_error() -> None:
    for shape, part, message in (
        ("llama", "pos", "rotary positions.*no 'pos'"),
        ("llama", "pos->m0", "no 'pos'"),
        ("llama", "a0.h9", "no head 9"),
        ("llama", "a99", "no layer 99"),
        ("llama", "m0.n99", "no neuron 99"),
        ("attn-only", "m0", "there is no m0: tiny-attn-only has attention layers only"),
        ("pythia", "resid_mid.0", "no stream between attention and MLP"),
        ("pythia", "a0->m0", "a0->m0 is no edge"),
        ("pythia", "a0->m1", "no site 'blocks.1.hook_mlp_in'"),
        ("gemma2", "a0.h1->m1", "normalizes what.*start the path at a0"),
        ("gemma2", "m0.n1->m1", "normalizes what.*start the path at m0"),
    ):
        model = adapted(shape)
        with pytest.raises(CircuitsError, match=message):
            scores(model, asked(model, part))


def test_a_plan_counts_whole_runs() -> None:
    model = adapted("llama")
    sweep = asked(model, "a0", "a1", "m1", "a0->m1")
    found = plan(model, sweep)
    assert found.forwards == 5 * 4
    # Two runs of the base and the source, one for each cell, one for the path's receiver; the
    # vocabulary is only read where the metric reads it.
    assert 1.5 * 4 < found.work <= 7 * 4
    assert estimate(model, found) > 0
    assert found.bytes > 0
    small = plan(model, sweep, memory=found.bytes // 2)
    assert len(small.tasks) >= len(found.tasks)
    assert_allclose(run(model, small).values, run(model, found).values, rtol=1e-9)
    with pytest.raises(CircuitsError, match="too little"):
        plan(model, sweep, memory=10)


def test_logits_of_each_cell_come_with_their_soft_cap() -> None:
    model = adapted("gemma2")
    sweep = asked(model, "a1", metric="logit_diff", method="zero")
    base = model(sweep.prompts.tokens, attention_mask=sweep.prompts.mask)
    for index, rows, found in logits(model, sweep):
        assert found.abs().max() < model.cfg.logits_soft_cap
        if index == 0:
            ends = base[torch.arange(4), sweep.prompts.roles["END"]][rows]
            pair = torch.stack([sweep.prompts.answers, sweep.prompts.distractors], 1)[rows]
            close(found, ends.gather(1, pair))


@pytest.mark.parametrize("metric", ["logit_diff", "loss", "prob"])
def test_gradients_of_a_gpt_2_are_the_engine_s(metric: str) -> None:
    model = randomized(TINY)
    cells = ["a0.h1", "a1.h2@END", "a1", "m0", "embed@MID", "resid_mid.1", "resid_post.1", "pos"]
    sweep = asked(model, *cells, metric=metric)
    expected, found = attribute(model, sweep), attribute(adapt(lens_twin(model)), sweep)
    for what in ("effects", "base", "source"):
        assert_allclose(getattr(found, what), getattr(expected, what), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", WITH_MLPS)
def test_gradients_are_the_slope_of_a_small_patch(shape: str) -> None:
    """A millionth of the way from the base run to the source's."""
    model = adapted(shape)
    sweep = asked(model, "m1", "resid_post.1", "a1.h1", metric="logit_diff")
    found = attribute(model, sweep)
    _, base = model.run_with_cache(sweep.prompts.tokens, attention_mask=sweep.prompts.mask)
    _, other = model.run_with_cache(sweep.source.tokens, attention_mask=sweep.prompts.mask)
    step = 1e-6
    for index, part in enumerate((Component("mlp", 1), Component("resid_post", 1)), start=1):
        change = step * (other[part.site] - base[part.site])
        moved = model.run_with_hooks(
            sweep.prompts.tokens,
            fwd_hooks=[(part.site, lambda value, hook, change=change: value + change)],
            attention_mask=sweep.prompts.mask,
        )
        slope = (sweep.metric(moved, sweep.prompts) - torch.as_tensor(found.base)) / step
        assert_allclose(found.effects[index], slope.detach().numpy(), rtol=1e-3, atol=1e-3)
    assert all(weight.requires_grad for weight in model.theirs.parameters())
    assert all(weight.grad is None for weight in model.theirs.parameters())
