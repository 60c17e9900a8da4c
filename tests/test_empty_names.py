"""An empty name means nothing: not the default model, not the current folder, not the usual way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import circuits
from circuits.analyses.ablate import ablate
from circuits.analyses.fine_tune import fine_tune
from circuits.analyses.icl import icl
from circuits.analyses.neurons import neurons
from circuits.analyses.tune_lens import tune_lens
from circuits.architectures import HookedGPT2
from circuits.checkpoints import describe, hub, load, save
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.experiment import Bundle, conduct
from circuits.figures import save_figure
from circuits.pages import save_page
from circuits.prompts import from_file
from circuits.result import Result
from circuits.tokenizer import Tokenizer
from circuits.transformer_lens import HookedTransformer
from circuits.tuned_lens import TunedLens

PLACE, MODEL = "'' names no file and no folder", "'' names no model"
HEAD = {"component": "a2.h0", "task": "repeated", "n": 3}


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    return load("compiled")


@pytest.fixture(scope="module")
def answer(compiled: HookedGPT2) -> Result:
    return ablate(compiled, **HEAD)


# What is asked with an empty name, and what is said.
ASKED: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "load": (lambda model, answer: load(""), MODEL),
    "describe": (lambda model, answer: describe(""), MODEL),
    "describe nothing": (lambda model, answer: describe(None), "None names no model"),  # type: ignore[arg-type]
    "revision": (lambda model, answer: load("owner/name", revision=""), "revision='' names none"),
    "pull": (lambda model, answer: hub.pull(""), "'' is no model of the hub"),
    "pull a revision": (lambda model, answer: hub.pull("a/b", ""), "revision='' names none"),
    "dtype": (lambda model, answer: load("compiled", dtype=""), "dtype='' is no precision"),
    "device": (lambda model, answer: load("compiled", device=""), "device '' cannot be used"),
    "diff": (lambda model, answer: circuits.diff(model, ""), MODEL),
    "save": (lambda model, answer: save(model, ""), PLACE),
    "result": (lambda model, answer: answer.save(""), PLACE),
    "load a result": (lambda model, answer: Result.load(""), PLACE),
    "bundle": (lambda model, answer: Bundle.load(""), PLACE),
    "experiment": (lambda model, answer: conduct("ioi", out=""), PLACE),  # type: ignore[arg-type]
    "figure": (lambda model, answer: save_figure(answer.plot(), ""), PLACE),
    "page": (lambda model, answer: save_page("", ""), PLACE),
    "vocabulary": (lambda model, answer: Tokenizer.from_folder(""), PLACE),
    "save a vocabulary": (lambda model, answer: model.tokenizer.save(""), PLACE),
    "lens": (lambda model, answer: TunedLens.load("", model), PLACE),
    "train a lens": (lambda model, answer: tune_lens(model, ""), PLACE),
    "fine-tune": (lambda model, answer: fine_tune(model, "", task="ioi"), PLACE),
    "adapter": (lambda model, answer: load("sort-abc", adapter=""), PLACE),
    "prompts": (lambda model, answer: from_file(model, ""), PLACE),
    "file": (lambda model, answer: ablate(model, component="m0", file=""), PLACE),
    "text": (lambda model, answer: neurons(model, file=""), PLACE),
    "text of icl": (lambda model, answer: icl(model, file=""), PLACE),
    "parts": (lambda model, answer: ablate(model, **HEAD, parts=""), PLACE),
    "metric": (lambda model, answer: ablate(model, **HEAD, metric=""), "there is no metric ''"),
    "task": (lambda model, answer: ablate(model, component="m0", task=""), "there is no task ''"),
    "method": (lambda model, answer: ablate(model, **HEAD, method=""), "no ablation method ''"),
    "by": (lambda model, answer: ablate(model, **HEAD, by=""), "by='': the prompts of"),
    "cluster": (lambda model, answer: ablate(model, **HEAD, cluster=""), "cluster='': the prompts"),
    "memory": (lambda model, answer: ablate(model, **HEAD, memory=""), "memory='' is no amount"),
    "engine": (lambda model, answer: ablate(model, **HEAD, engine=""), "there is no engine ''"),
    "door": (lambda model, answer: HookedTransformer.from_pretrained(""), MODEL),
    "door, nothing": (
        lambda model, answer: HookedTransformer.from_pretrained(None),
        "model_name=None names no model; give a name",
    ),
    "door, raw": (
        lambda model, answer: HookedTransformer.from_pretrained_no_processing(None),
        "model_name=None names no model",
    ),
}


@pytest.mark.parametrize("case", ASKED)
def test_an_empty_name_is_refused(
    case: str,
    compiled: HookedGPT2,
    answer: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder that holds what each of them would have taken instead."""
    save(load("sort-abc"), tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    ask, said = ASKED[case]
    with pytest.raises(CircuitsError) as caught:
        ask(compiled, answer)
    assert said in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["info", "--model", ""], MODEL),
        (["info", ""], MODEL),
        (["pull", ""], "'' is no model of the hub"),
        (["pull", "--model", ""], "'' is no model of the hub"),
        (["logit-lens", "A", "--model", ""], MODEL),
        (["generate", "A", "--model", ""], MODEL),
        (["info", "a/b", "--revision", ""], "revision='' names none"),
        (["ov", "--save", ""], "names no file and no folder"),
        (["ov", "--figure", ""], "names no file and no folder"),
        (["ov", "--html", ""], "names no file and no folder"),
        (["run", "ioi", "--out", ""], "names no file and no folder"),
        (["run", "ioi", "--model", ""], MODEL),
    ],
)
def test_an_empty_option_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(load("sort-abc"), tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    asked = {"CIRCUITS_MODEL": "sort-abc", "COLUMNS": "200"}
    done = CliRunner().invoke(app, words, prog_name="circuits", env=asked)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert sorted(tmp_path.iterdir()) == before
