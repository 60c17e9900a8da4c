"""Which circuits pass `evaluate`: on a model whose circuit is known, that one and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from judged_circuits import FEW, RECIPE, exact, overall, verdicts
from quick import only

from circuits.analyses.evaluate import evaluate
from circuits.architectures import HookedGPT2
from circuits.checkpoints.compiled import build
from circuits.circuit import Circuit, compiled_circuit, graph
from circuits.components import Edge, parse_edge
from circuits.config import ModelConfig
from circuits.evaluation import Subject
from circuits.metrics import get_metric
from circuits.model import HookedModel
from circuits.prompts import Prompts, make
from circuits.result import Result
from circuits.sweep import CircuitSweep, Kept, Source, Sweep, cell, plan, run

# --- who passes


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    """In double precision: saturated attention makes the noise of single precision large."""
    return build(RECIPE).double()


@pytest.fixture(scope="module")
def six() -> Circuit:
    return compiled_circuit(RECIPE)


@pytest.fixture(scope="module")
def judged(compiled: HookedGPT2, six: Circuit) -> Result:
    return evaluate(compiled, six, **FEW)


def test_the_six_edges_of_the_compiled_model_pass_every_test(judged: Result) -> None:
    tests = ["task", "faithfulness", "completeness", "minimality", "independence", "sufficiency"]
    tests += ["necessity", "untrained", "part", "all"]
    assert verdicts(judged) == {test: {"yes"} for test in tests}
    rows = judged.frame.set_index("what")
    assert rows.loc["F, ratio of means", "value"] == pytest.approx(1, abs=1e-3)
    assert rows.loc["F, mean of ratios", "value"] == pytest.approx(1, abs=1e-3)
    assert rows.loc["a2.h0->logits", "value"] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("gone", sorted(map(str, RECIPE.effects)))
def test_without_any_of_the_six_it_fails(compiled: HookedGPT2, six: Circuit, gone: str) -> None:
    result = evaluate(compiled, six.without(gone), **FEW)
    assert overall(result) == "no"
    assert verdicts(result)["faithfulness"] == {"no"}


def test_more_than_the_six_edges_are_not_minimal(compiled: HookedGPT2, six: Circuit) -> None:
    more = replace(six, parts=six.parts | {parse_edge("embed->a0.h2<q>")})
    result = evaluate(compiled, more, **FEW)
    assert overall(result) == "no"
    said = verdicts(result)
    assert said["minimality"] == {"no"}
    assert said["faithfulness"] == {"yes"}
    parts = result.frame[result.frame["test"] == "part"].set_index("what")["verdict"]
    assert parts[parts == "no"].index.tolist() == ["embed->a0.h2<q>"]


SMALL = ModelConfig(n_layers=2, n_heads=4, d_model=32, n_ctx=12, d_vocab=16)


@pytest.mark.parametrize("seed", only([11], [11, 12, 13]))
def test_on_untrained_models_no_circuit_passes(compiled: HookedGPT2, seed: int) -> None:
    """Not even the one that is found in them."""
    model = HookedGPT2.random(SMALL, seed=seed, tokenizer=compiled.tokenizer)
    circuit = exact(model, make("compiled-ioi", model, 20), 30)
    result = evaluate(model, circuit, **FEW)
    assert overall(result) == "no"
    assert verdicts(result)["untrained"] == {"no"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_on_untrained_models_of_minis_shape_no_circuit_passes(mini: HookedGPT2, seed: int) -> None:
    model = HookedGPT2.random(mini.cfg, seed=seed, tokenizer=mini.tokenizer)
    circuit = exact(model, make("ioi", model, 4), 60)
    result = evaluate(model, circuit, **{**FEW, "n": 8})
    assert overall(result) == "no"
    assert verdicts(result)["untrained"] == {"no"}


@pytest.mark.slow
def test_a_random_circuit_of_mini_fails(mini: HookedGPT2) -> None:
    whole = graph(mini.cfg)
    drawn = np.random.default_rng(0).choice(len(whole), 60, replace=False)
    circuit = Circuit.of(mini, [whole.edges[i] for i in drawn])
    result = evaluate(mini, circuit, task="ioi", **{**FEW, "n": 8})
    said = verdicts(result)
    assert overall(result) == "no"
    assert said["task"] == {"yes"}
    assert said["sufficiency"] == said["faithfulness"] == said["completeness"] == {"no"}


# --- the numbers, once more and plainly


def plain(model: HookedModel, prompts: Prompts, kept: Sequence[Edge]) -> np.ndarray:
    assert prompts.corrupted is not None
    source = Source("resample", prompts.corrupted, prompts.mask)
    cells = (Kept.of(Circuit.of(model, kept)),)
    sweep = CircuitSweep(prompts, get_metric("logit_diff"), (cells,), source)
    return run(model, plan(model, sweep)).values[0]


def test_faithfulness_is_what_three_runs_say(compiled: HookedGPT2, six: Circuit) -> None:
    some = [edge for edge in six.edges if str(edge) != "embed->a2.h0<k>"]
    few = {**FEW, "n": 8}
    result = evaluate(compiled, Circuit.of(compiled, some), task="compiled-ioi", seed=5, **few)
    prompts = make("compiled-ioi", compiled, 8, 5)
    with torch.no_grad():
        whole = get_metric("logit_diff")(compiled(prompts.tokens), prompts)
    circuit, nothing = plain(compiled, prompts, some), plain(compiled, prompts, [])
    rows = result.frame.set_index("what")["value"]
    whole_ = np.asarray(whole)
    expected = (circuit.mean() - nothing.mean()) / (whole_.mean() - nothing.mean())
    assert rows["F, ratio of means"] == pytest.approx(expected, abs=1e-5)
    ratios = (circuit - nothing) / (whole_ - nothing)
    assert rows["F, mean of ratios"] == pytest.approx(ratios.mean(), abs=1e-5)
    assert rows["what the whole model does: m(M) - m(nothing)"] == pytest.approx(
        (whole_ - nothing).mean(), abs=1e-4
    )
    gone = plain(compiled, prompts, [e for e in some if str(e) != "a2.h0->logits"])
    lost = (circuit - gone).mean() / (whole_ - nothing).mean()
    assert rows["a2.h0->logits"] == pytest.approx(lost, abs=1e-5)


@pytest.mark.slow
def test_the_curve_is_made_of_the_best_edges(compiled: HookedGPT2, six: Circuit) -> None:
    result = evaluate(compiled, six, curve=True, n=8)
    prompts = make("compiled-ioi", compiled, 8)
    frame = result.frame[result.frame["ranking"] == "signed"]
    assert frame["kept"].tolist() == [int(size * len(six.graph)) for size in frame["size"]]
    n = frame["kept"].iloc[3]
    best = plain(compiled, prompts, six.ranked(six.graph, signed=True)[:n])  # type: ignore[arg-type]
    nothing = plain(compiled, prompts, [])
    whole = plain(compiled, prompts, graph(compiled.cfg).edges)
    expected = (best - nothing).mean() / (whole - nothing).mean()
    assert frame["value"].iloc[3] == pytest.approx(expected, abs=1e-5)
    assert frame["value"].iloc[-1] == 1
    assert result.view == "curves"
    assert result.plot().axes
    areas = evaluate(compiled, six, **{**FEW, "n": 8}).frame.set_index("what")["value"]
    cpr = np.trapezoid(frame["value"], frame["size"])
    assert areas["CPR, by signed score (high is good)"] == pytest.approx(cpr, abs=1e-6)


def test_the_same_seed_draws_the_same(compiled: HookedGPT2, six: Circuit, judged: Result) -> None:
    assert evaluate(compiled, six, **FEW).to_json() == judged.to_json()


def test_memory_and_blocks_change_nothing(
    compiled: HookedGPT2, six: Circuit, judged: Result, tmp_path: Path
) -> None:
    parts = evaluate(compiled, six, **FEW, memory="40M", parts=tmp_path / "parts")
    pd.testing.assert_frame_equal(parts.frame, judged.frame, atol=1e-4)


def test_each_template_has_a_verdict_of_its_own(compiled: HookedGPT2, six: Circuit) -> None:
    result = evaluate(compiled, six, by="template", **FEW)
    assert list(result.frame)[:2] == ["task", "template"]
    last = result.frame[result.frame["test"] == "all"]
    assert len(last) == len(set(make("compiled-ioi", compiled).templates or ())) == 5
    assert {*last["verdict"]} == {"yes"}


def test_intervals_over_templates_are_others(words: HookedGPT2) -> None:
    circuit = Circuit.of(words, ["a0.h0", "a1.h1"], level="heads")
    asked: dict[str, Any] = {"task": "ioi", **FEW, "n": 12}
    over, within = (
        evaluate(words, circuit, **asked, **more).frame.set_index("what").loc["F, ratio of means"]
        for more in ({"cluster": "template"}, {})
    )
    assert over["value"] == pytest.approx(within["value"])
    assert over["stderr"] != pytest.approx(within["stderr"])


def test_a_file_of_ones_own_prompts_is_asked(
    compiled: HookedGPT2, six: Circuit, tmp_path: Path
) -> None:
    prompts = make("compiled-ioi", compiled, 8, 7)
    assert prompts.corrupted is not None
    known = compiled.require_tokenizer()
    twins = [
        known.decode(row[1:length].tolist())
        for row, length in zip(prompts.corrupted, prompts.mask.sum(1), strict=True)
    ]
    letters = [known.decode([t]) for t in prompts.answers.tolist()]  # type: ignore[union-attr]
    others = [known.decode([t]) for t in prompts.distractors.tolist()]  # type: ignore[union-attr]
    rows = zip(prompts.texts, twins, letters, others, strict=True)
    path = tmp_path / "own.csv"
    lines = ["clean,corrupted,answer,distractor", *map(",".join, rows)]
    path.write_text("\n".join(lines) + "\n")
    result = evaluate(compiled, six, file=path, **{**FEW, "n": None})
    drawn = evaluate(compiled, six, task=prompts, **{**FEW, "n": None})
    assert overall(result) == "yes"
    values = [each.frame.set_index("what")["value"] for each in (result, drawn)]
    name = "F, ratio of means"
    assert values[0][name] == pytest.approx(values[1][name], abs=1e-5)


@pytest.mark.parametrize("reference", ["zero", "mean"])
def test_other_references_are_read_instead(
    compiled: HookedGPT2, six: Circuit, reference: Any
) -> None:
    result = evaluate(compiled, six, reference=reference, curve=True, n=8)
    assert result.frame["value"].iloc[-1] == pytest.approx(1)
    assert f"--reference {reference}" in result.provenance.command
    _, used = result.frame["value"], evaluate(compiled, six, curve=True, n=8).frame["value"]
    assert not np.allclose(result.frame["value"], used)


@pytest.mark.parametrize("level", ["heads", "nodes", "neurons"])
def test_circuits_of_nodes_and_neurons_are_judged(words: HookedGPT2, level: Any) -> None:
    names = {
        "heads": ["a0.h1"],
        "nodes": ["a0.h1", "m0", "a1.h0"],
        "neurons": ["m0.n1", "m1.n3"],
    }
    circuit = Circuit.of(words, names[level], level=level)
    few = {**FEW, "n": 6, "untrained": 0}
    result = evaluate(words, circuit, task="ioi", **few)
    assert {"all", "part", "necessity"} <= {*result.frame["test"]}
    untrained = result.frame[result.frame["test"] == "untrained"]
    assert untrained["verdict"].tolist() == ["–"]


def test_the_model_without_edges_at_positions_is_path_patching(compiled: HookedGPT2) -> None:
    """Each edge reads the twin at its positions alone, also where one has several."""
    names = ["embed->a1.h1<v>@S2", "embed->a1.h1<v>@S1", "a1.h1->a2.h0<q>@END", "a2.h0->logits"]
    edges = [parse_edge(name) for name in names]
    prompts = make("compiled-ioi", compiled, 6)
    assert prompts.corrupted is not None
    source, metric = Source("resample", prompts.corrupted, prompts.mask), get_metric("logit_diff")
    for some in ([0], [0, 1], [1, 2], [0, 1, 2], [3]):
        parts = [edges[i] for i in some]
        kept = Subject(Circuit.of(compiled, parts), compiled.cfg.d_mlp).without(parts, "x")
        alone = CircuitSweep(prompts, metric, ((kept,),), source)
        patched = Sweep(prompts, metric, (cell(*parts),), source)
        expected = run(compiled, plan(compiled, patched)).values
        np.testing.assert_allclose(run(compiled, plan(compiled, alone)).values, expected, atol=1e-4)


@pytest.mark.slow
def test_the_six_edges_pass_at_their_positions(compiled: HookedGPT2, six: Circuit) -> None:
    at = {"a0.h1<q>": "S2", "a1.h1<k>": "S2", "a1.h1<v>": "S2", "a2.h0<q>": "END", "logits": "END"}
    parts = frozenset(
        Edge(edge.sender, edge.receiver.at(at.get(str(edge.receiver)))) for edge in six.edges
    )
    circuit = replace(six, parts=parts, scores={})
    result = evaluate(compiled, circuit, **FEW)
    assert overall(result) == "yes"
    assert "embed->a0.h1<q>@S2" in {*result.frame["what"]}
    wrong = replace(
        six,
        scores={},
        parts=frozenset(
            Edge(e.sender, e.receiver.at("IO" if str(e.receiver) == "a1.h1<v>" else None))
            for e in six.edges
        ),
    )
    assert verdicts(evaluate(compiled, wrong, **FEW))["faithfulness"] == {"no"}


def test_heads_at_positions_are_judged(words: HookedGPT2) -> None:
    circuit = Circuit.of(words, ["a0.h1@S2", "a1.h0@END"], level="heads")
    result = evaluate(words, circuit, task="ioi", **{**FEW, "n": 6, "untrained": 0})
    assert {"all", "part", "necessity"} <= {*result.frame["test"]}
