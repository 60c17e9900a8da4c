"""Which circuits pass `evaluate`: on a model whose circuit is known, that one and no other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from quick import only
from typer.testing import CliRunner

from circuits.analyses.evaluate import evaluate
from circuits.checkpoints import checksum, save
from circuits.checkpoints.compiled import Recipe, build
from circuits.circuit import Circuit, Score, compiled_circuit, graph
from circuits.cli import app
from circuits.components import Edge, parse_edge
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.model import HookedGPT2, HookedModel
from circuits.prompts import Prompts, make
from circuits.registry import with_draws
from circuits.result import Result
from circuits.sweep import CircuitSweep, Kept, Source, Sweep, cell, plan, run

RECIPE = Recipe(n_layers=3, n_heads=3, d_head=30, d_vocab=16, n_ctx=12)  # a small one
FEW: dict[str, Any] = {"n": 16, "subsets": 12, "controls": 50, "untrained": 3}


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    return build(RECIPE)


@pytest.fixture(scope="module")
def six() -> Circuit:
    return compiled_circuit(RECIPE)


@pytest.fixture(scope="module")
def judged(compiled: HookedGPT2, six: Circuit) -> Result:
    return evaluate(compiled, six, **FEW)


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


# --- who passes


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


# --- what it says


def test_nothing_is_left_on_the_model(compiled: HookedGPT2, six: Circuit) -> None:
    before = checksum(compiled)
    evaluate(compiled, six, curve=True, n=4)
    assert checksum(compiled) == before
    assert not any(hook.watched for hook in compiled.hook_dict.values())


def test_numbers_behind_means_are_not_in_the_result(compiled: HookedGPT2, six: Circuit) -> None:
    asked = with_draws(evaluate)(compiled, six, curve=True, n=4)
    assert asked.draws is None


def test_every_column_is_explained_and_survives_a_file(judged: Result, tmp_path: Path) -> None:
    assert {*judged.frame} - {"spread"} <= {*judged.meanings}
    again = Result.load(judged.save(tmp_path / "saved"))
    assert again.to_json() == judged.to_json()
    content = json.loads(judged.to_json())
    assert all(column["meaning"] for column in content["columns"].values())


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, [*words], prog_name="circuits", env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_prints_the_table_and_the_verdict(six: Circuit, tmp_path: Path) -> None:
    path = six.save(tmp_path / "six.json")
    model = save(build(RECIPE), tmp_path / "compiled")
    line = f"evaluate {path} --model {model} -n 8 --subsets 10 --controls 45"
    text = shown(*shlex.split(line))
    assert "The circuit passes (9 of 9: passes every test)" in text
    assert all(word in text for word in ("faithfulness", "F, mean of ratios", "embed->a2.h0<k>"))
    five = six.without("a2.h0->logits").save(tmp_path / "five.json")
    text = shown(*shlex.split(line.replace(str(path), str(five))))
    assert "The circuit does not pass (" in text
    assert "sufficiency: distance of F from 1; better than 0 of 45 circuits" in text
    curve = shown(*shlex.split(f"evaluate {path} --model {model} -n 4 --curve"))
    assert "100.0%" in curve
    assert "absolute scores" in curve


def test_a_plan_runs_nothing(tmp_path: Path) -> None:
    path = compiled_circuit().save(tmp_path / "six.json")
    text = shown("evaluate", str(path), "--model", "compiled", "--plan")
    assert "Nothing was run" in text


# --- what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parts": frozenset()}, "the circuit is empty"),
        ({"seed": 3, "task": "compiled-ioi", "asked": 3}, "seed=3 drew the prompts"),
        ({"task": None}, "does not say which task it is for"),
        ({"task": "my prompts"}, "found on 'my prompts', which is no task"),
        ({"checksum": "0" * 64}, "found in compiled with the weights 000000000000"),
    ],
)
def test_what_cannot_be_tested_is_one_sentence(
    compiled: HookedGPT2, six: Circuit, change: dict[str, Any], said: str
) -> None:
    parts, seed = change.pop("parts", six.parts), change.pop("asked", None)
    circuit = replace(six, parts=parts, origin=replace(six.origin, **change))
    with pytest.raises(CircuitsError, match=said) as error:
        evaluate(compiled, circuit, seed=seed, **FEW)
    assert "\n" not in str(error.value)


def test_prompts_of_discovery_are_refused_however_they_are_given(
    compiled: HookedGPT2, six: Circuit
) -> None:
    prompts = make("compiled-ioi", compiled, 8, 4)
    seen = replace(six, origin=replace(six.origin, prompts=prompts.checksum, n=8))
    with pytest.raises(CircuitsError, match="are those on which the circuit was found"):
        evaluate(compiled, seen, task=prompts)


def test_another_seed_is_taken_and_what_was_seen_is_counted(
    compiled: HookedGPT2, six: Circuit
) -> None:
    found = replace(six, origin=replace(six.origin, seed=3, n=8))
    result = evaluate(compiled, found, **FEW)
    assert result.provenance.seed == 4
    row = result.frame.iloc[0]
    assert row["what"] == "share that discovery has seen, too"
    texts = {make("compiled-ioi", compiled, n, s).texts for n, s in ((8, 3), (16, 4))}
    first, second = sorted(texts, key=len)
    assert row["value"] == pytest.approx(sum(text in first for text in second) / 16)


def test_a_model_of_another_shape_and_prompts_without_twins(
    compiled: HookedGPT2, mini: HookedGPT2, six: Circuit
) -> None:
    with pytest.raises(CircuitsError, match="with 3 layers of 3 heads, and mini has 8 of 8"):
        evaluate(mini, six)
    own = {"prompt": "aAbBcdeBf.", "answer": "A", "distractor": "B"}
    with pytest.raises(CircuitsError, match="have no corrupted twins"):
        evaluate(compiled, six, **own)


@pytest.mark.parametrize(
    "asked", [{"subsets": 3}, {"controls": 10}, {"untrained": 1}, {"tolerance": 0.0}]
)
def test_too_few_draws_are_refused(
    compiled: HookedGPT2, six: Circuit, asked: dict[str, Any]
) -> None:
    with pytest.raises(CircuitsError, match=f"{next(iter(asked))}="):
        evaluate(compiled, six, **asked)


def test_a_curve_needs_scores(compiled: HookedGPT2, six: Circuit) -> None:
    with pytest.raises(CircuitsError, match="no scores"):
        evaluate(compiled, replace(six, scores={}), curve=True)
