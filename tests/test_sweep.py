"""The sweep engine equals one plain forward per cell, whatever is asked of whatever model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import slow_sweep
import torch
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from quick import only
from random_models import randomized
from random_sweeps import models, random_prompts, sweeps
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.errors import CircuitsError
from circuits.interventions import METHODS
from circuits.metrics import METRICS
from circuits.sweep import Executor, Source, Sweep, cell, estimate, logits, name, plan, run

EVERY_KIND = ["a0.h1", "a1.h2", "a1", "m0", "m1@END", "embed", "pos@MID", "resid_mid.0@-1"]
EVERY_KIND += ["a1.h0<q>", "a0.h3<k>@0", "a1.h1<v>", "resid_pre.1", "resid_post.1", "a1.h3@END"]
EVERY_KIND += ["m0.n3", "m1.n0@END", "m0.n19@MID"]
PATTERNS = ["a0.h1<pattern>", "a1.h2<pattern>@END", "a0.h0<pattern>@MID"]
EDGES = ["a0.h1->a1.h2<q>", "embed->a0.h0<k>", "m0->logits", "a0->m1", "pos->a1", "a1.h0->m1@END"]
EDGES += ["a0.h2@MID->a1.h1<v>", "a1->logits@END", "a0.h0->a1.h0", "a0.h1->a1.h0@MID"]
EDGES += ["m0.n3->a1.h2<k>", "m1.n1->logits", "m0.n2@MID->m1"]
SEVERAL = ("a0.h1", "m1", "a0.h2->a1.h1<q>", "m0->logits")
CROWDED = ("a0.h1", "m0.n3", "m0.n3@MID", "m0.n4", "m1.n0", "a1.h1<v>", "a1.h1@0", "a0.h0->m0")


def asked(model: HookedGPT2, *cells: Any, **options: Any) -> Sweep:
    """A sweep over prompts of several lengths; a name is a cell, and so is a tuple of names."""
    lengths = options.pop("lengths", (7, 5, 7))
    prompts = random_prompts(model.cfg, lengths, seed=1, n_same=options.pop("n_same", 0))
    assert prompts.corrupted is not None
    source = options.pop("source", Source("resample", prompts.corrupted, prompts.mask))
    metric = METRICS[options.pop("metric", "loss")]
    every = tuple(cell(*([names] if isinstance(names, str) else names)) for names in cells)
    return Sweep(prompts, metric, every, source, **options)


def values(model: HookedGPT2, sweep: Sweep, **options: Any) -> NDArray[np.float64]:
    return run(model, plan(model, sweep, **options)).values


def whole_run(model: HookedGPT2, sweep: Sweep, tokens: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        given = model(tokens, attention_mask=sweep.prompts.mask)
    return sweep.metric(given, sweep.prompts).double().numpy()


def check(model: HookedGPT2, sweep: Sweep, tolerance: float = 1e-9, memory: Any = None) -> None:
    expected = slow_sweep.scores(model, replace(sweep, cells=((), *sweep.cells))).numpy()
    found = run(model, plan(model, replace(sweep, cells=((), *sweep.cells)), memory=memory))
    assert found.values.dtype == np.float64
    about = f"{sweep.source.method}: {list(map(name, sweep.cells))}"
    assert_allclose(found.values, expected, rtol=tolerance, atol=tolerance, err_msg=about)
    moved = (abs(expected - expected[0]) > tolerance).any(1)
    assert found.changed[moved].all(), about
    still = found.values[~found.changed]
    assert_array_equal(still, np.broadcast_to(found.values[0], still.shape), err_msg=about)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150)
def test_equals_one_plain_forward_per_cell(data: st.DataObject) -> None:
    model = data.draw(models())
    check(model, data.draw(sweeps(model.cfg)))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=40)
def test_equals_it_in_single_precision(data: st.DataObject) -> None:
    model = data.draw(models(dtype=torch.float32))
    # A tie that rounding breaks would be worth a whole unit of accuracy.
    metric = data.draw(st.sampled_from(sorted(set(METRICS) - {"accuracy"})))
    sweep = data.draw(sweeps(model.cfg, metric))
    check(model, sweep, 1e-4)


@pytest.mark.slow
@given(st.data(), st.sampled_from(["100K", "200K", "1M"]))
@settings(max_examples=40)
def test_any_memory_budget_gives_the_same(data: st.DataObject, memory: str) -> None:
    model = data.draw(models())
    check(model, data.draw(sweeps(model.cfg)), memory=memory)


@pytest.mark.parametrize("metric", only(("logit_diff", "loss"), METRICS))
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_cell(tiny: HookedGPT2, method: str, metric: str) -> None:
    cells = [*EVERY_KIND, *EDGES, SEVERAL, CROWDED, ()]
    if method in ("resample", "position-mean"):
        cells += [*PATTERNS, (*PATTERNS, "a0.h1", "m0"), ("a0.h1<pattern>", "a0.h1<pattern>@0")]
        cells += [("a1.h2<pattern>", "a1.h2<v>@0", "a0.h3"), ("a1.h2<pattern>", "a1.h2<q>")]
    # Two prompts of each length, so that there is a mean by position.
    sweep = asked(tiny, *cells, metric=metric, lengths=(7, 5, 7, 5))
    check(tiny, replace(sweep, source=replace(sweep.source, method=method)))


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_cell_with_patterns_held(tiny: HookedGPT2, method: str) -> None:
    able = [part for part in EVERY_KIND if not part.startswith(("a1.h0<q>", "a0.h3<k>"))]
    cells = [*able, "a0->a1.h0<v>", "a0.h1->a1.h2", "a0.h2@MID->a1.h0@END", "embed->a1", CROWDED]
    sweep = asked(tiny, *cells, lengths=(7, 5, 7, 5), freeze="patterns")
    check(tiny, replace(sweep, source=replace(sweep.source, method=method)))


def test_held_patterns_are_those_of_the_base_run(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, "resid_pre.0", lengths=(7, 7), metric="logit_diff")
    held = [f"a{layer}.h{head}<pattern>" for layer in (0, 1) for head in range(4)]
    # All patterns of the base run in the source's run: the same from the other side.
    turned = replace(sweep.prompts, tokens=sweep.source.tokens, corrupted=sweep.prompts.tokens)
    source = Source("resample", sweep.prompts.tokens, turned.mask)
    other = Sweep(turned, sweep.metric, (cell(*held),), source)
    assert_allclose(values(tiny, replace(sweep, freeze="patterns")), values(tiny, other))
    assert abs(values(tiny, sweep) - values(tiny, other)).max() > 0.01


def test_noise_is_the_same_however_it_is_computed(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, "a0.h1", "m0", "m1.n2")
    loud = replace(sweep, source=replace(sweep.source, method="noise", seed=1))
    expected = values(tiny, loud)
    assert_allclose(values(tiny, loud, memory="100K"), expected)
    for seed, same in ((1, True), (2, False)):
        other = replace(loud, source=replace(loud.source, seed=seed))
        assert np.array_equal(values(tiny, other), expected) is same


def test_a_small_budget_makes_many_tasks(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, *EVERY_KIND, *EDGES)
    n_tasks = [len(plan(tiny, sweep, memory=memory).tasks) for memory in ("200K", "1G")]
    assert n_tasks[0] > n_tasks[1]
    check(tiny, sweep, memory="200K")


def test_a_run_patched_into_itself_stays_what_it_is_bit_for_bit(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, (), *EVERY_KIND, *EDGES, SEVERAL)
    own = Source("resample", sweep.prompts.tokens, sweep.prompts.mask)
    found = run(tiny, plan(tiny, replace(sweep, source=own)))
    assert_array_equal(found.values, np.broadcast_to(found.values[0], found.values.shape))
    assert not found.changed.any()


def test_what_comes_before_the_first_other_token_cannot_matter(tiny: HookedGPT2) -> None:
    early = ["resid_pre.1@0", "a0.h1@1", "m0@1", "a1.h0<k>@0", "embed@1->a1.h1<v>", "a0->logits@0"]
    found = run(tiny, plan(tiny, asked(tiny, (), *early, n_same=2)))
    assert_array_equal(found.values, np.broadcast_to(found.values[0], found.values.shape))
    assert not found.changed.any()


def test_nothing_patched_is_the_base_run(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, (), "a1.h0")
    assert_allclose(values(tiny, sweep)[0], whole_run(tiny, sweep, sweep.prompts.tokens))


@pytest.mark.parametrize(
    "everything",
    [
        ("resid_pre.0",),
        ("embed",),
        ("resid_post.1",),
        ("resid_mid.0", "resid_pre.1"),
        tuple(f"resid_pre.1@{i}" for i in range(5)),
        ("embed->logits", "a0->logits", "m0->logits", "a1->logits", "m1->logits"),
    ],
    ids="+".join,
)
def test_everything_patched_is_the_other_run(tiny: HookedGPT2, everything: tuple[str, ...]) -> None:
    sweep = asked(tiny, everything, lengths=(5, 5))
    assert_allclose(values(tiny, sweep)[0], whole_run(tiny, sweep, sweep.source.tokens))


@pytest.mark.parametrize("method", ["zero", "mean", "resample", "position-mean"])
@pytest.mark.parametrize("layer", [0, 1])
def test_all_heads_patched_are_the_attention_layer_patched(
    tiny: HookedGPT2, layer: int, method: str
) -> None:
    names = [f"a{layer}.h{head}" for head in range(4)]
    sweep = asked(tiny, names, f"a{layer}", lengths=(5, 7, 5, 7))
    sweep = replace(sweep, source=replace(sweep.source, method=method))
    heads, attention = values(tiny, sweep)
    if method == "zero":  # the output's bias is the layer's, and no head's
        tiny.blocks[layer].attn.b_O.data.zero_()
        heads, attention = values(tiny, sweep)
    assert_allclose(heads, attention)


def test_all_neurons_written_are_the_mlp_written(tiny: HookedGPT2) -> None:
    neurons = [f"m1.n{i}" for i in range(tiny.cfg.d_mlp)]
    edges = [f"m0.n{i}->a1.h0<k>" for i in range(tiny.cfg.d_mlp)]
    both = values(tiny, asked(tiny, neurons, "m1", edges, "m0->a1.h0<k>"))
    assert_allclose(both[0], both[1])
    assert_allclose(both[2], both[3])


def test_pattern_and_value_patched_are_the_head_patched(tiny: HookedGPT2) -> None:
    parts = [(f"a{layer}.h2<pattern>", f"a{layer}.h2<v>") for layer in (0, 1)]
    both = values(tiny, asked(tiny, *parts, "a0.h2", "a1.h2"))
    assert_allclose(both[:2], both[2:])
    queries = values(tiny, asked(tiny, ("a1.h2<q>", "a1.h2<k>"), "a1.h2<pattern>"))
    assert_allclose(queries[0], queries[1])


def test_paths_to_all_three_inputs_are_the_path_to_the_head(tiny: HookedGPT2) -> None:
    split = [f"a0.h1->a1.h2<{slot}>" for slot in "qkv"]
    whole, parts = values(tiny, asked(tiny, "a0.h1->a1.h2", split))
    assert_allclose(whole, parts)


def test_the_logits_are_those_that_the_metric_reads(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, *EVERY_KIND, *EDGES, (), metric="logit_diff")
    found = {index: read for index, _, read in logits(tiny, sweep)}
    assert sorted(found) == list(range(len(sweep.cells)))
    scored = [sweep.metric.score(found[i], sweep.prompts, None) for i in sorted(found)]
    assert_allclose(torch.stack(scored).numpy(), values(tiny, sweep))


def test_the_plan_holds_every_cell_of_every_prompt_once(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, *EVERY_KIND, *EDGES, SEVERAL, ())
    for memory in (None, "200K"):
        made = plan(tiny, sweep, memory=memory)
        count = np.zeros((len(sweep.cells), len(sweep.prompts)), dtype=int)
        for task in made.tasks:
            rows = np.arange(len(sweep.prompts))[task.prompts]
            count[np.ix_(list(task.cells), rows)] += 1
        assert (count == 1).all()
        assert (made.n_cells, made.n_prompts) == count.shape
        assert made.forwards == count.size
        assert 0 < made.work < made.forwards
        assert made.bytes > 0
        assert estimate(tiny, made) > 0


def test_a_task_is_small_and_gives_the_same_again(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, *EVERY_KIND, *EDGES)
    made = plan(tiny, sweep, memory="200K")
    assert max(len(repr(task)) for task in made.tasks) < 1000
    execute = Executor(tiny, made)
    for task in made.tasks[:3]:
        assert_array_equal(execute(task).values, Executor(tiny, made)(task).values)


def test_progress_ends_at_the_whole(tiny: HookedGPT2) -> None:
    seen: list[tuple[int, int]] = []
    made = plan(tiny, asked(tiny, *EVERY_KIND), memory="200K")
    run(tiny, made, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({total for _, total in seen}) == 1


def test_the_model_is_left_as_it_was() -> None:
    model = randomized()
    before = checksum(model)
    values(model, asked(model, *EVERY_KIND, *EDGES))
    assert checksum(model) == before
    assert not [name for name, hook in model.hook_dict.items() if hook.watched]
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_model_with_hooks_is_refused(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, "a1.h0")
    with tiny.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda value, hook: value * 2)]):
        tiny(sweep.prompts.tokens)  # a hook that never fires would be another error
        with pytest.raises(CircuitsError, match="hook"):
            values(tiny, sweep)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a9.h0"], "there is no layer 9"),
        (["a0.h9->m1"], "there is no head 9"),
        (["logits"], "the logits are what is measured"),
        (["m0->resid_pre.1"], "cannot receive an edge"),
        (["a1.h0@SUBJECT"], "no position 'SUBJECT'"),
        (["a0.h0->m1@99"], "there is no position 99"),
        (["m0.n20"], "there is no neuron 20: gpt2 has neurons 0 to 19 in each layer"),
        (["m0->m1.n2"], "cannot receive an edge"),
    ],
    ids=str,
)
def test_what_cannot_be_written(tiny: HookedGPT2, names: list[str], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        values(tiny, asked(tiny, names))


@pytest.mark.parametrize(
    ("names", "method", "options", "message"),
    [
        (["m0"], "position-mean", {}, "of 5 tokens the reference set has 1 prompts"),
        (["a0.h1<pattern>"], "zero", {}, "has no 'zero': a pattern can come from another run"),
        (["a0.h1<pattern>"], "noise", {}, "or ablate what the head writes, a0.h1$"),
        (["a0.h1<k>"], "zero", {"freeze": "patterns"}, "all patterns are held .*take .* value <v>"),
        (["m0->a1.h1<q>"], "zero", {"freeze": "patterns"}, "acts through the head's pattern"),
        (["m0"], "zero", {"freeze": "pattern"}, "did you mean 'patterns'"),
    ],
    ids=str,
)
def test_what_a_method_cannot_write(
    tiny: HookedGPT2, names: list[str], method: str, options: Any, message: str
) -> None:
    sweep = asked(tiny, *names)
    with pytest.raises(CircuitsError, match=message):
        replace(sweep, source=replace(sweep.source, method=method), **options)
