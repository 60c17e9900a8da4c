"""Heads for classes as metrics: what transformers says, and the same on every engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lens_twin import IGNORE_DEPRECATION, lens_twin
from torch import Tensor
from typer.testing import CliRunner
from word_model import TOKENS, word_model

import circuits
from circuits.adapter import adapt
from circuits.analyses.ablate import ablate
from circuits.analyses.approximate import approximate
from circuits.analyses.attribute import attribute
from circuits.analyses.patch import patch
from circuits.analyses.paths import paths
from circuits.architectures import HookedGPT2
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.metrics import get_metric, readout_metric
from circuits.model import Readout
from circuits.prompts import PromptFile, Prompts, from_file, from_texts
from circuits.sweep import Source, Sweep, cell, plan, run

LABELS = ("bad", "good", "so")
LINES = [
    {"prompt": "x and", "corrupted": "y and", "answer": "good", "distractor": "so"},
    {"prompt": "y the z", "corrupted": "y to z", "answer": "0", "distractor": "good"},
    {"prompt": "z", "corrupted": "x", "answer": "so", "distractor": "bad"},
]
RIGHT, WRONG = [1, 0, 2], [2, 1, 0]
SCORE = "readout:score"

pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)


def with_head(labels: Sequence[str]) -> HookedGPT2:
    beginnings = dict.fromkeys(word[:n] for word in TOKENS for n in range(2, len(word) + 1))
    model = word_model(list(beginnings), n_ctx=24)  # which a merges.txt can express
    random = torch.Generator().manual_seed(len(labels))
    W = torch.randn(model.cfg.d_model, len(labels), generator=random)
    model.readouts["score"] = Readout(W, labels=labels)
    return model


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return with_head(LABELS)


def write(folder: Path, lines: Sequence[Mapping[str, Any]] = LINES) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def without(*names: str) -> list[dict[str, Any]]:
    return [{name: line[name] for name in line if name not in names} for line in LINES]


def says(model: Any, prompts: Prompts, **edits: Any) -> Tensor:
    """The head's logits [b classes] at each prompt's last token, by a plain pass."""
    with torch.inference_mode(), model.hooks(**edits):
        resid = model(prompts.tokens, attention_mask=prompts.mask, stop_at_layer=model.cfg.n_layers)
        at = prompts.mask.sum(1) - 1
        logits: Tensor = model.readouts["score"](model.ln_final(resid[range(len(at)), at]))
    return logits


def cut(written: Tensor, hook: HookPoint) -> Tensor:
    return torch.zeros_like(written)


def difference(logits: Tensor) -> float:
    rows = range(len(logits))
    return float((logits[rows, RIGHT] - logits[rows, WRONG]).mean())


@pytest.mark.slow
def test_the_logits_are_those_of_transformers(model: HookedGPT2, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    circuits.save(model, tmp_path / "model")
    theirs = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with pytest.warns(UserWarning, match="kept as model.readouts"):
        loaded = circuits.load(tmp_path / "model")
    prompts = from_file(loaded, write(tmp_path, without("answer", "distractor")))
    with torch.no_grad():
        logits = torch.stack(
            [
                theirs(row[real][None]).logits[0]
                for row, real in zip(prompts.tokens, prompts.mask, strict=True)
            ]
        )
    file = write(tmp_path)
    row = ablate(loaded, component="m0", file=file, metric=SCORE).frame.iloc[0]
    assert row["clean"] == pytest.approx(difference(logits), abs=1e-4)
    assert (row["metric"], row["unit"]) == (SCORE, "logits")
    write(tmp_path, without("distractor"))
    row = ablate(loaded, component="m0", file=file, metric=SCORE).frame.iloc[0]
    assert row["clean"] == pytest.approx(float(logits[range(3), RIGHT].mean()), abs=1e-4)


def test_every_head_as_by_a_plain_pass(model: HookedGPT2, tmp_path: Path) -> None:
    pytest.importorskip("transformer_lens")
    prompts = next(iter(PromptFile(model, write(tmp_path), classes=True)))
    adapted = adapt(lens_twin(model))
    adapted.readouts["score"] = model.readouts["score"]
    for which in (model, adapted):
        answer = ablate(which, all_heads=True, task=prompts, metric=SCORE, method="mean")
        mine = ablate(model, all_heads=True, task=prompts, metric=SCORE, method="mean")
        columns = ["clean", "ablated", "value", "ci_low"]
        np.testing.assert_allclose(answer.frame[columns], mine.frame[columns], atol=1e-4)
        row = ablate(which, component="m1", task=prompts, metric=SCORE).frame.iloc[0]
        edited = says(model, prompts, fwd_hooks=[("blocks.1.hook_mlp_out", cut)])
        assert row["clean"] == pytest.approx(difference(says(model, prompts)), abs=1e-4)
        assert row["ablated"] == pytest.approx(difference(edited), abs=1e-4)
    patched = [patch(which, what="head", task=prompts, metric=SCORE) for which in (model, adapted)]
    np.testing.assert_allclose(patched[0].frame["value"], patched[1].frame["value"], atol=1e-4)
    whole = paths(model, to="logits", task=prompts, metric=SCORE).frame
    assert whole["value"].notna().all()


def test_estimates_are_by_its_gradient(model: HookedGPT2, tmp_path: Path) -> None:
    file, name = write(tmp_path), "blocks.0.hook_mlp_out"
    prompts = next(iter(PromptFile(model, file, classes=True)))
    kept: dict[str, Tensor] = {}

    def keep(written: Tensor, hook: HookPoint) -> Tensor:
        kept["now"] = written.detach().requires_grad_()
        return kept["now"]

    assert prompts.corrupted is not None
    at, rows = prompts.mask.sum(1) - 1, range(3)
    for tokens in (prompts.tokens, prompts.corrupted):
        kept["other"] = kept.get("now", torch.zeros(()))
        with model.hooks(fwd_hooks=[(name, keep)]):
            resid = model(tokens, attention_mask=prompts.mask, stop_at_layer=2)
        logits = model.readouts["score"](model.ln_final(resid[rows, at]))
    value = (logits[rows, RIGHT] - logits[rows, WRONG]).sum()  # of the corrupted run
    gradient = torch.autograd.grad(value, kept["now"])[0]
    change = (kept["other"] - kept["now"]).detach() * gradient * prompts.mask[..., None]
    answer = approximate(model, component="m0", file=file, metric=SCORE, check="all").frame
    assert answer["value"].iloc[0] == pytest.approx(float(change.sum()) / 3, abs=1e-5)
    real = patch(model, component="m0", file=file, metric=SCORE).frame
    assert answer["exact"].iloc[0] == pytest.approx(real["value"].iloc[0], abs=1e-5)


def test_parts_and_their_resumption(
    model: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(PromptFile.__init__, "__defaults__", (2, None))
    file, run = write(tmp_path), tmp_path / "run"
    asked: dict[str, Any] = {"component": "m0", "metric": SCORE, "parts": run}
    first = ablate(model, file=file, **asked).frame
    table = parquet.read_table(sorted(run.glob("*.parquet"))[0])
    assert table["answer"].to_pylist()[:2] == ["good", "0"]
    assert "distractor" in table.column_names
    assert ablate(model, file=file, resume=True, **asked).frame.equals(first)
    assert first["n"].tolist() == [3]
    write(tmp_path, [{**LINES[0], "answer": "bad"}, *LINES[1:]])
    with pytest.raises(CircuitsError, match="another question: first_block was"):
        ablate(model, file=file, resume=True, **asked)


@pytest.mark.parametrize(
    ("labels", "columns", "expected"),
    [
        (["out"], {"label": "3.5"}, lambda y: y[:, 0]),
        (["out"], {}, lambda y: y[:, 0]),
        (["no", "yes"], {}, lambda y: y[:, 1] - y[:, 0]),
        (["no", "yes"], {"label": "no"}, lambda y: y[:, 0]),
        (["no", "yes"], {"answer": "yes"}, lambda y: y[:, 1]),
        (["no", "yes"], {"answer": "0", "distractor": "yes"}, lambda y: y[:, 0] - y[:, 1]),
        (["no", "yes"], {"label": "no", "answer": "yes"}, lambda y: y[:, 1]),
        (["1", "0"], {"label": "1"}, lambda y: y[:, 0]),  # a name comes before a number
    ],
)
def test_which_class_is_meant(
    tmp_path: Path, labels: list[str], columns: dict[str, str], expected: Any
) -> None:
    model = with_head(labels)
    file = write(tmp_path, [{**line, **columns} for line in without("answer", "distractor")])
    logits = says(model, from_texts(model, [line["prompt"] for line in LINES]))
    row = ablate(model, component="m0", file=file, metric=SCORE).frame.iloc[0]
    assert row["clean"] == pytest.approx(float(expected(logits).mean()), abs=1e-5)
    assert row["unit"] == ("output" if len(labels) == 1 else "logits")


def test_tokens_are_no_classes() -> None:
    """A task's answers say nothing of classes; of two classes none need be named."""
    model = with_head(["no", "yes"])
    frame = ablate(model, all_heads=True, task="repeated", n=3, metric=SCORE).frame
    assert frame["clean"].notna().all()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (without("answer", "distractor"), "name no class, and the readout has 3 .bad, good, so"),
        ([{**LINES[0], "answer": "god"}], "answer is 'god' in prompt 0 .* did you mean 'good'"),
        ([{**LINES[0], "answer": "3"}], r"classes are bad, good, so \(or their numbers"),
        ([{**LINES[0], "distractor": "1"}], r"are the same class \(good\) in prompt 0"),
        ([{**LINES[0], "answer": ["bad", "so"]}], "line 1 of a.jsonl has a list of answers .* one"),
        ([LINES[0], *without("answer")[1:]], "has no answer, line 1 of a.jsonl has one"),
        (
            [{"clean": "x", "label": "so"}, {"clean": "y", "label": None}],
            "label is None in prompt 1",
        ),
    ],
)
def test_classes_that_are_refused(
    model: HookedGPT2, tmp_path: Path, lines: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        ablate(model, component="m0", file=write(tmp_path, lines), metric=SCORE)


def test_readouts_that_there_are_not(model: HookedGPT2, tmp_path: Path) -> None:
    file = write(tmp_path)
    with pytest.raises(CircuitsError, match=r"no readout 'scor'; it has score; did you mean"):
        ablate(model, component="m0", file=file, metric="readout:scor")
    with pytest.raises(CircuitsError, match="no readout 'score'; it has none, for its checkpoint"):
        ablate(word_model(), component="m0", file=file, metric=SCORE)
    with pytest.raises(CircuitsError, match=r"give readout_metric\(model, 'score'\)"):
        get_metric(SCORE)


def test_a_sweep_takes_the_metric_itself(model: HookedGPT2, tmp_path: Path) -> None:
    file = write(tmp_path, [{"clean": line["prompt"], "label": line["answer"]} for line in LINES])
    with pytest.warns(UserWarning, match="label"):
        prompts = from_file(model, file)
    metric, source = readout_metric(model, "score"), Source("zero", prompts.tokens, prompts.mask)
    sweep = Sweep(prompts, metric, (cell(), cell("m0")), source)
    values = run(model, plan(model, sweep)).values
    expected = says(model, prompts)[range(3), RIGHT]
    np.testing.assert_allclose(values[0], expected, atol=1e-5)
    at_all = model.readouts["score"](model.ln_final(model(prompts.tokens, stop_at_layer=2)))
    torch.testing.assert_close(metric(at_all, prompts), expected)
    # What is attributed to parts are logits of tokens.
    assert attribute(model, task=prompts).frame["unit"].iloc[0] != "output"


@pytest.mark.filterwarnings("ignore:.* is fine-tuned for classes")
def test_the_command_line(model: HookedGPT2, tmp_path: Path) -> None:
    words = ["ablate", "--all-heads", "--metric", SCORE, "--prompt", "x and", "--json"]
    circuits.save(model, tmp_path / "model")
    words += ["--answer", "good", "--model", str(tmp_path / "model")]
    done = CliRunner().invoke(app, words, prog_name="circuits")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["provenance"]["arguments"]["metric"] == SCORE
    assert f"--metric {SCORE}" in answer["provenance"]["command"]
