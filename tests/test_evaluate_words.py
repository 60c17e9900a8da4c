"""What `evaluate` says, in tables, files and a terminal, and what it refuses."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judged_circuits import FEW, RECIPE
from typer.testing import CliRunner

from circuits.analyses.evaluate import evaluate
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, save
from circuits.checkpoints.compiled import build
from circuits.circuit import Circuit, compiled_circuit
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.prompts import make
from circuits.registry import with_draws
from circuits.result import Result


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    return build(RECIPE)


@pytest.fixture(scope="module")
def six() -> Circuit:
    return compiled_circuit(RECIPE)


@pytest.fixture(scope="module")
def judged(compiled: HookedGPT2, six: Circuit) -> Result:
    return evaluate(compiled, six, **FEW)


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


def test_the_figure_shows_what_is_a_share_with_its_verdict(judged: Result) -> None:
    axes = judged.plot().axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "yes: F, ratio of means"
    assert "yes: a2.h0->logits" in labels
    assert not any("HSIC" in label or "tests passed" in label for label in labels)
    assert len(axes.patches) == len(labels)


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
    assert "sufficiency: |1 - F|, against as many random edges; better than 0 of 45" in text
    curve = shown(*shlex.split(f"evaluate {path} --model {model} -n 4 --curve"))
    assert "100.0%" in curve
    assert "absolute scores" in curve


def test_a_plan_runs_nothing(tmp_path: Path) -> None:
    path = compiled_circuit().save(tmp_path / "six.json")
    text = shown("evaluate", str(path), "--model", "compiled", "--plan")
    assert "Nothing was run" in " ".join(text.split())


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
