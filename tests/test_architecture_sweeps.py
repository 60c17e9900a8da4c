"""The fast engine on every architecture, against one plain forward with hooks for each cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import slow_sweep
import torch
from decoder_models import SHAPES, decoder, decoder_config
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal
from random_models import seeds
from random_sweeps import random_prompts, sweeps
from test_circuit_runs import asked as of_circuits
from test_circuit_runs import kept, some_edges, twin_values
from word_model import word_tokenizer

import circuits
from circuits.architectures import Decoder, DecoderConfig, Rotary
from circuits.circuit import graph
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.sweep import Cell, Source, Sweep, cell, plan, run
from circuits.sweep.cells import check_cell
from circuits.sweep.engine import runner_of
from circuits.sweep.flow_runner import FlowRunner
from circuits.sweep.gradient import attribute
from circuits.sweep.hooked import HookedRunner

FAST = [shape for shape in SHAPES if shape not in ("gemma2", "shortformer")]
CELLS = ["a0.h1", "a1.h2@END", "a1", "m0", "m1@END", "embed@MID", "resid_pre.1", "resid_post.0"]
CELLS += ["a1.h0<q>", "a0.h3<k>@0", "a1.h1<v>", "m0.n3", "m1.n0@-1", "a0.h1<pattern>@END"]
EDGES = ["a0.h1->a1.h2<q>", "embed->a0.h0<k>", "m0->logits", "m0.n3->a1.h2<v>@MID", "a0->a1"]
EDGES += ["a0.h2@MID->a1.h1", "a1->logits@END", "a0.h0->m1", "a0->m1", "embed->m1@END"]


def asked(model: Decoder, *cells: str, **options: Any) -> Sweep:
    prompts = random_prompts(model.cfg, (7, 9, 7, 9), seed=1, n_same=1)
    assert prompts.corrupted is not None
    source = Source("resample", prompts.corrupted, prompts.mask)
    return Sweep(prompts, get_metric("loss"), ((), *map(cell, cells)), source, **options)


def assert_equals_its_slow_twin(model: Decoder, sweep: Sweep, *, least: float = 0.0) -> None:
    scores, expected = run(model, plan(model, sweep)), slow_sweep.scores(model, sweep).numpy()
    assert_allclose(scores.values, expected, rtol=1e-8, atol=1e-8)
    moved = (abs(expected - expected[0]) > 1e-8).any(1)
    assert moved.mean() >= least
    assert scores.changed[moved & (np.array([*map(len, sweep.cells)]) > 0)].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_which_architectures_run_fast(shape: str) -> None:
    fast = runner_of(decoder(shape))
    assert fast is (FlowRunner if shape in FAST else HookedRunner)


@pytest.mark.parametrize("options", [{}, {"hold": "heads"}, {"freeze": "patterns"}], ids=str)
@pytest.mark.parametrize("shape", FAST)
def test_every_kind_of_cell_equals_a_plain_run_with_hooks(shape: str, options: Any) -> None:
    model, cells = decoder(shape), [*CELLS, *EDGES]
    if "freeze" in options:
        cells = [name for name in cells if not any(f"<{slot}" in name for slot in ("q", "k", "pa"))]
    if model.cfg.attn_only:
        cells = [name for name in cells if "m" not in name]
    sweep = asked(model, *cells, **options)
    assert_equals_its_slow_twin(model, sweep, least=0.8)
    base = run(model, plan(model, sweep))
    still = base.values[~base.changed]
    assert_array_equal(still, np.broadcast_to(base.values[0], still.shape))


def test_gemma2_answers_what_its_norms_leave_to_be_asked() -> None:
    model = decoder("gemma2")
    whole = [name for name in CELLS if ".n" not in name]
    assert_equals_its_slow_twin(model, asked(model, *whole, "a0->a1", "m0->logits"), least=0.8)
    with pytest.raises(CircuitsError, match="normalizes what a layer writes"):
        run(model, plan(model, asked(model, "a0.h1->a1.h0<q>")))


def exists(asked: Cell, cfg: DecoderConfig) -> bool:
    """Whether the model has what is written: positions in the stream, a stream in the middle."""
    try:
        check_cell(asked, cfg)
    except CircuitsError as error:
        missing = (
            "there is no 'pos'",
            "attention layers only",
            "no stream between",
            "are parallel",
        )
        return not any(reason in str(error) for reason in missing)
    return True


def test_shortformers_run_plainly() -> None:
    model = decoder("shortformer")
    cells = [name for name in [*CELLS, *EDGES] if "m" not in name]
    assert_equals_its_slow_twin(model, asked(model, *cells), least=0.8)


@st.composite
def questions(draw: st.DrawFn) -> tuple[Decoder, Sweep]:
    """A model of any shape that runs fast, and any question that it can be asked."""
    shape, d_head = draw(st.sampled_from(FAST)), 2 * draw(st.integers(1, 3))
    n_heads, n_groups = draw(st.sampled_from([(4, 2), (4, 1), (2, None), (3, None)]))
    n_layers = draw(st.integers(1, 3))
    types = draw(st.sampled_from([None, ("local",) * n_layers]))
    sizes = {
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_key_value_heads": n_groups,
        "d_head": d_head,
        "rotary": Rotary(d_head),
        "attn_types": types,
        "window_size": 3 if types else None,
        "n_ctx": draw(st.integers(2, 9)),
    }
    cfg = decoder_config(shape, **sizes)
    model, sweep = decoder(shape, seed=draw(seeds), **sizes), draw(sweeps(cfg))
    cells = tuple(each for each in sweep.cells if exists(each, cfg))
    return model, replace(sweep, cells=(*cells, ()))


@pytest.mark.slow
@given(questions())
def test_random_questions(question: tuple[Decoder, Sweep]) -> None:
    model, sweep = question
    expected = slow_sweep.scores(model, sweep).numpy()
    assert_allclose(run(model, plan(model, sweep)).values, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape", ["pythia", "qwen2", "gemma2"])
def test_estimates_are_the_slope_of_a_small_patch(shape: str) -> None:
    model, step = decoder(shape), 1e-6
    sweep = asked(model, "a0", "m1", "embed@MID", "resid_post.0")
    estimates = attribute(model, sweep)
    prompts, mask = sweep.prompts, sweep.prompts.mask
    _, base = model.run_with_cache(prompts.tokens, attention_mask=mask)
    _, other = model.run_with_cache(sweep.source.tokens, attention_mask=mask)
    change = step * (other["mlp_out", 1] - base["mlp_out", 1])
    moved = model.run_with_hooks(
        prompts.tokens,
        fwd_hooks=[("blocks.1.hook_mlp_out", lambda value, hook: value + change)],
        attention_mask=mask,
    )
    slope = (sweep.metric(moved, prompts).detach().numpy() - estimates.base) / step
    assert_allclose(estimates.effects[2], slope, rtol=1e-3, atol=1e-4)


def test_a_parallel_block_has_nothing_between_attention_and_mlp() -> None:
    model = decoder("pythia")
    with pytest.raises(CircuitsError, match="no stream between attention and MLP"):
        plan(model, asked(model, "resid_mid.0"))
    with pytest.raises(CircuitsError, match=r"a0.h1->m0 is no edge.*parallel"):
        plan(model, asked(model, "a0.h1->m0"))


@pytest.mark.parametrize("method", ["resample", "mean"])
@pytest.mark.parametrize("shape", FAST)
def test_a_circuit_alone_is_what_plain_hooks_give(shape: str, method: str) -> None:
    model = decoder(shape)
    prompts, whole = random_prompts(model.cfg, (7, 9, 7, 9), seed=1), graph(model.cfg)
    subsets = [some_edges(whole, share, 1, (None, "END")) for share in (0.3, 0.8, 1.0)]
    cells = [(), *(kept(model, edges) for edges in subsets)]
    sweep = of_circuits(model, prompts, cells, method, "loss")
    values = run(model, plan(model, sweep)).values
    for row, edges in zip(values[1:], subsets, strict=True):
        assert_allclose(row, twin_values(model, sweep, edges, method), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "acdc"])
@pytest.mark.parametrize("shape", ["pythia", "qwen2"])
def test_discovery_finds_edges_that_count(shape: str, method: str) -> None:
    model = decoder(shape, tokenizer=word_tokenizer(), dtype=torch.float32)
    asks: Any = {"method": method, "task": "ioi", "n": 4}
    keep: Any = {} if method == "acdc" else {"keep": "40"}
    frame = circuits.discover(model, **asks, **keep).frame
    assert len(frame)
    parallel = frame["edge"].str.fullmatch(r"a(\d+)\.h\d+->m\1") if "edge" in frame else None
    assert parallel is None or not (model.cfg.parallel and parallel.any())
