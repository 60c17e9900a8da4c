"""Circuits alone: no edges are the reference, all edges the model, any others their slow twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import circuit_twin
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from lens_models import lens_model
from lens_twin import IGNORE_DEPRECATION
from numpy.testing import assert_allclose, assert_array_equal
from random_models import TINY, randomized, seeds
from random_sweeps import models, random_prompts
from test_another_architecture import Toy, toy  # noqa: F401

from circuits.architectures import HookedGPT2
from circuits.circuit import Circuit, Graph, graph
from circuits.components import Component, Edge
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.memory import peak_bytes
from circuits.metrics import METRICS, get_metric
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.sweep import CircuitSweep, Kept, Source, Sweep, cell, logits, plan, run
from circuits.sweep.circuit_sweep import CircuitCell
from circuits.sweep.survey import How, survey

METHODS = ("resample", "zero", "mean", "position-mean")
POSITIONS = (None, None, "END", "MID")


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return randomized(TINY)


def some_edges(whole: Graph, share: float, seed: int, positions: Sequence[Any]) -> list[Edge]:
    rng = np.random.default_rng(seed)
    mask = whole.exists & (rng.random(whole.exists.shape) < share)
    return [
        Edge(edge.sender, edge.receiver.at(positions[rng.integers(len(positions))]))
        for edge in whole.named(mask)
    ]


def asked(
    model: HookedModel, prompts: Prompts, cells: Sequence[CircuitCell], method: str, metric: str
) -> CircuitSweep:
    assert prompts.corrupted is not None
    source = Source(method, prompts.corrupted, prompts.mask)
    return CircuitSweep(prompts, get_metric(metric), tuple(cells), source)


def kept(model: HookedModel, edges: Sequence[Edge], name: str = "circuit") -> CircuitCell:
    return (Kept.of(Circuit.of(model, edges), name),)


def reference(model: HookedModel, prompts: Prompts, method: str) -> Mapping[str, torch.Tensor]:
    """What every writer writes in the reference, [b p d], taken plainly."""
    assert prompts.corrupted is not None
    other = circuit_twin.written(model, prompts.corrupted, prompts.mask)
    if method == "resample":
        return other
    if method == "zero":
        return {writer: torch.zeros_like(value) for writer, value in other.items()}
    real = prompts.mask[..., None]
    if method == "mean":
        return {
            writer: ((value * real).sum((0, 1)) / real.sum()).expand_as(value)
            for writer, value in other.items()
        }
    lengths = prompts.mask.sum(1)
    alike = (lengths[:, None] == lengths).to(torch.float64)
    means = alike / alike.sum(1, keepdim=True)
    return {
        writer: torch.einsum("a b, b p d -> a p d", means, value * real)
        for writer, value in other.items()
    }


def twin_values(
    model: HookedModel, sweep: CircuitSweep, edges: Sequence[Edge], method: str
) -> torch.Tensor:
    prompts = sweep.prompts
    writes = reference(model, prompts, method)
    given = circuit_twin.alone(model, prompts, writes, edges)
    with torch.no_grad():
        clean = model(prompts.tokens, attention_mask=prompts.mask)
    return sweep.metric(given, prompts, clean)


def check_any_edges(data: st.DataObject) -> None:
    """Circuits of edges that are drawn are, alone, what their slow twin says."""
    model = data.draw(models())
    lengths = data.draw(st.lists(st.integers(1, model.cfg.n_ctx), min_size=1, max_size=3))
    prompts = random_prompts(model.cfg, [*lengths, *lengths], data.draw(seeds))
    method = data.draw(st.sampled_from(METHODS))
    metric = data.draw(st.sampled_from(sorted(METRICS)))
    shares = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=3))
    whole, seed = graph(model.cfg), data.draw(seeds)
    subsets = [some_edges(whole, share, seed + i, POSITIONS) for i, share in enumerate(shares)]
    cells = [(), *(kept(model, edges) for edges in subsets)]
    sweep = asked(model, prompts, cells, method, metric)
    values = run(model, plan(model, sweep)).values
    for row, edges in zip(values[1:], subsets, strict=True):
        expected = twin_values(model, sweep, edges, method)
        assert_allclose(row, expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=6)
@given(data=st.data())
def test_any_edges_are_what_plain_hooks_give(data: st.DataObject) -> None:
    check_any_edges(data)


@pytest.mark.slow
@settings(max_examples=40)
@given(data=st.data())
def test_many_edges_are_what_plain_hooks_give(data: st.DataObject) -> None:
    check_any_edges(data)


@pytest.mark.parametrize("method", METHODS)
def test_no_edges_are_the_reference_and_all_edges_the_model(tiny: HookedGPT2, method: str) -> None:
    prompts = random_prompts(tiny.cfg, (7, 5, 7, 5), seed=1)
    whole = graph(tiny.cfg)
    cells = [(Kept.only(whole, whole.exists & False),), (Kept.only(whole, whole.exists),), ()]
    sweep = asked(tiny, prompts, cells, method, "logit_diff")
    given = {cell: read for cell, _, read in logits(tiny, sweep)}
    torch.testing.assert_close(given[1], given[2], rtol=1e-10, atol=1e-10)
    if method == "resample":
        assert prompts.corrupted is not None
        with torch.no_grad():
            other = tiny(prompts.corrupted, attention_mask=prompts.mask)
        expected = get_metric("logit_diff").read(other, prompts)
    else:
        writes = reference(tiny, prompts, method)
        expected = get_metric("logit_diff").read(
            circuit_twin.alone(tiny, prompts, writes, []), prompts
        )
    torch.testing.assert_close(given[0], expected, rtol=1e-10, atol=1e-10)


def test_all_edges_but_these_are_path_patching(tiny: HookedGPT2) -> None:
    prompts = random_prompts(tiny.cfg, (7, 6), seed=3)
    assert prompts.corrupted is not None
    whole = graph(tiny.cfg)
    source = Source("resample", prompts.corrupted, prompts.mask)
    paths = Sweep(prompts, get_metric("loss"), tuple(cell(edge) for edge in whole), source)
    without = [kept(tiny, [each for each in whole if each != edge]) for edge in whole]
    alone = asked(tiny, prompts, without, "resample", "loss")
    expected = run(tiny, plan(tiny, paths)).values
    assert_allclose(run(tiny, plan(tiny, alone)).values, expected, rtol=1e-9, atol=1e-9)


def test_neurons_kept_are_neurons_that_write_their_own(tiny: HookedGPT2) -> None:
    """All heads, and all neurons but some: as ablating these neurons in the whole model."""
    prompts = random_prompts(tiny.cfg, (7, 6), seed=4)
    assert prompts.corrupted is not None
    gone = [Component("neuron", 0, neuron=3), Component("neuron", 1, neuron=19)]
    every = [
        Component("neuron", layer, neuron=n)
        for layer in range(tiny.cfg.n_layers)
        for n in range(tiny.cfg.d_mlp)
    ]
    circuit = Circuit.of(tiny, [n for n in every if n not in gone], level="neurons")
    alone = asked(
        tiny, prompts, [(Kept.of(circuit, d_mlp=tiny.cfg.d_mlp),)], "resample", "logit_diff"
    )
    source = Source("resample", prompts.corrupted, prompts.mask)
    ablated = Sweep(prompts, get_metric("logit_diff"), (cell(*gone),), source)
    expected = run(tiny, plan(tiny, ablated)).values
    assert_allclose(run(tiny, plan(tiny, alone)).values, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
@pytest.mark.parametrize("shape", ["gpt2", "llama", "attn-only"])
def test_adapted_models_run_by_plain_passes(shape: str) -> None:
    pytest.importorskip("transformer_lens.HookedTransformer")
    from circuits.adapter import adapt

    model = adapt(lens_model(shape, words=False))
    prompts = random_prompts(model.cfg, (6, 4), seed=2)
    subsets = [some_edges(graph(model.cfg), share, 5, POSITIONS) for share in (0.3, 0.8)]
    sweep = asked(model, prompts, [kept(model, edges) for edges in subsets], "resample", "kl")
    values = run(model, plan(model, sweep)).values
    for row, edges in zip(values, subsets, strict=True):
        expected = twin_values(model, sweep, edges, "resample")
        assert_allclose(row, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
@pytest.mark.parametrize(
    ("shape", "said"),
    [("pythia", "no site blocks.0.hook_mlp_in"), ("gemma2", "normalizes what a layer writes")],
)
def test_what_cannot_run_alone_is_one_clear_error(shape: str, said: str) -> None:
    pytest.importorskip("transformer_lens.HookedTransformer")
    from circuits.adapter import adapt

    model = adapt(lens_model(shape, words=False))
    prompts = random_prompts(model.cfg, (6, 4), seed=2)
    edges = some_edges(graph(model.cfg), 0.5, 5, [None])
    with pytest.raises(CircuitsError, match=said):
        run(model, plan(model, asked(model, prompts, [kept(model, edges)], "resample", "kl")))


def test_another_architecture_runs_on_the_engine(toy: Toy) -> None:  # noqa: F811
    prompts = random_prompts(toy.cfg, (7, 5), seed=1)
    edges = some_edges(graph(toy.cfg), 0.4, 6, POSITIONS)
    sweep = asked(toy, prompts, [kept(toy, edges)], "resample", "loss")
    expected = twin_values(toy, sweep, edges, "resample")
    assert_allclose(run(toy, plan(toy, sweep)).values[0], expected, rtol=1e-9, atol=1e-9)


def test_memory_splits_the_work_and_changes_no_number(tiny: HookedGPT2) -> None:
    prompts = random_prompts(tiny.cfg, (7, 5, 6, 7, 4, 7), seed=1)
    cells = [kept(tiny, some_edges(graph(tiny.cfg), i / 12, i, POSITIONS)) for i in range(12)]
    sweep = asked(tiny, prompts, cells, "resample", "loss")
    whole = plan(tiny, sweep)
    with pytest.raises(CircuitsError, match=r"takes (\d+) bytes") as error:
        plan(tiny, sweep, memory=10)
    least = int(str(error.value).split("takes ")[1].split()[0])
    small = plan(tiny, sweep, memory=2 * least)
    assert len(small.tasks) > 12 > len(whole.tasks)
    assert small.bytes <= 2 * least
    assert_allclose(run(tiny, small).values, run(tiny, whole).values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_circuits", [1, 4, 30])
def test_a_plan_says_what_memory_it_takes(n_circuits: int) -> None:
    cfg = ModelConfig(n_layers=4, n_heads=8, d_model=128, n_ctx=32, d_vocab=50)
    model = HookedGPT2.random(cfg)
    prompts = random_prompts(cfg, (16, 16), seed=1)
    masks = [
        np.random.default_rng(i).random(graph(cfg).exists.shape) < 0.5 for i in range(n_circuits)
    ]
    cells: list[CircuitCell] = [(Kept.only(graph(cfg), mask),) for mask in masks]
    planned = plan(model, asked(model, prompts, cells, "resample", "loss"), memory="20M")
    assert 0.75 < peak_bytes(lambda: run(model, planned)) / planned.bytes <= 1


def test_work_is_that_of_the_readers_that_circuits_have(tiny: HookedGPT2) -> None:
    prompts, whole = random_prompts(tiny.cfg, (7, 5), seed=1), graph(tiny.cfg)
    few = np.arange(len(whole.readers)) >= len(whole.readers) * 3 // 4
    work = []
    for mask in (whole.exists & False, whole.exists & few[:, None], whole.exists):
        cells: list[CircuitCell] = [(Kept.only(whole, mask),)]
        planned = plan(tiny, asked(tiny, prompts, cells, "resample", "loss"))
        work.append(sum(task.work for task in planned.tasks))
    assert work[0] == 0
    assert work[1] == pytest.approx(work[2] * few.mean())


def test_a_survey_of_circuits_is_stored_and_goes_on(tiny: HookedGPT2, tmp_path: Path) -> None:
    blocks = [random_prompts(tiny.cfg, (7, 5, 6), seed=seed) for seed in (1, 2)]
    cells = [(), kept(tiny, some_edges(graph(tiny.cfg), 0.5, 1, [None]), "half")]

    def ask(prompts: Prompts) -> CircuitSweep:
        return asked(tiny, prompts, cells, "resample", "loss")

    plain = survey(tiny, blocks, ask)
    first = survey(tiny, blocks[:1], ask)
    stored = survey(tiny, blocks, ask, How(parts=tmp_path / "parts"))
    again = survey(tiny, blocks, ask, How(parts=tmp_path / "parts", resume=True))
    assert plain.n == 6
    assert first.n == 3
    assert_array_equal(plain.value, stored.value)
    assert_array_equal(plain.value, again.value)
    other = [(), kept(tiny, some_edges(graph(tiny.cfg), 0.5, 2, [None]), "half")]
    with pytest.raises(CircuitsError):
        survey(
            tiny,
            blocks,
            lambda prompts: asked(tiny, prompts, other, "resample", "loss"),
            How(parts=tmp_path / "parts", resume=True),
        )


def test_an_unknown_role_is_refused_before_anything_runs(tiny: HookedGPT2) -> None:
    prompts = random_prompts(tiny.cfg, (7, 5), seed=1)
    edge = Edge(Component("embed"), Component("head", 0, 0, slot="q", position="S7"))
    with pytest.raises(CircuitsError, match="S7"):
        asked(tiny, prompts, [kept(tiny, [edge])], "resample", "loss")
