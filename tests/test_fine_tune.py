"""Fine-tuning from its command to the folder: repeated, interrupted, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fine_tuning_files import answers, labels
from typer.testing import CliRunner

from circuits.analyses.ablate import ablate
from circuits.analyses.fine_tune import fine_tune
from circuits.checkpoints import checksum, load
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.training import CURVE, FIGURE
from circuits.training.run import STATE
from circuits.training.saving import ADAPTER, CARD

HEAD = "it is kept as model.readouts"
pytestmark = pytest.mark.filterwarnings(f"ignore:.*{HEAD}")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tuned(out: str, **options: Any) -> Any:
    """sort-abc, which learns to reverse instead."""
    given = {"file": answers(Path("answers.jsonl")), "steps": 40, "batch": 8} | options
    return fine_tune(load("sort-abc"), out, **given)


def test_it_learns_and_leaves_a_model_a_card_and_a_curve() -> None:
    model = load("sort-abc")
    before = checksum(model)
    found = tuned("new", steps=120, lr=0.003)
    assert checksum(model) == before
    held_out = found.frame[found.frame["which"] == "held out"].set_index("step")
    assert held_out.loc[0, "right"] < 0.3
    assert held_out.loc[120, "value"] < held_out.loc[0, "value"] / 2
    assert {path.name for path in Path("new").iterdir()} >= {CARD, CURVE, FIGURE, "config.json"}
    assert not (Path("new") / STATE).exists()
    card = (Path("new") / CARD).read_text()
    assert "circuits fine-tune new --file answers.jsonl --steps 120 --lr 0.003 --batch 8" in card
    assert f"`{checksum(load('new'))[:16]}`" in card
    row = held_out.loc[120]
    assert f"| held out | 120 | 6 | {row['value']:.4f} (" in card
    curve = pd.read_csv("new/curve.csv")
    assert len(curve) == len(found.frame) == 2 * 21


def test_the_same_seed_gives_the_same_weights() -> None:
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        tuned(name, seed=seed)
    a, b, c = (checksum(load(name)) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("method", ["full", "lora", "adapter"])
def test_what_is_resumed_ends_as_if_it_had_not_been_interrupted(method: str) -> None:
    whole = tuned("whole", method=method, patience=9)

    def interrupt(done: int, total: int) -> None:
        if done == 25:
            raise KeyboardInterrupt

    for resume in (False, True):  # twice: the second interruption comes at once
        with pytest.raises(KeyboardInterrupt):
            tuned("parted", method=method, patience=9, progress=interrupt, resume=resume)
        assert [path.name for path in Path("parted").iterdir()] == [STATE]
    found = tuned("parted", method=method, patience=9, resume=True)
    assert checksum(load("parted")) == checksum(load("whole"))
    assert found.frame.equals(whole.frame)
    for name in (CURVE, "model.safetensors"):
        assert (Path("parted") / name).read_bytes() == (Path("whole") / name).read_bytes()


def test_it_stops_early_and_keeps_the_best() -> None:
    found = tuned("early", steps=400, lr=0.05, patience=2)
    held_out = found.frame[found.frame["which"] == "held out"]
    assert held_out["step"].max() < 400
    best = held_out.loc[held_out["value"].idxmin()]
    assert best["kept"]
    assert best["step"] == held_out["step"].iloc[-3]
    again = fine_tune(load("early"), "again", file="answers.jsonl", steps=1, lr=1e-9)
    first = again.frame[again.frame["which"] == "held out"].iloc[0]
    assert first["value"] == pytest.approx(best["value"], rel=1e-4)


def test_a_readout_is_learned_saved_and_measured() -> None:
    file = labels(Path("labels.jsonl"), 81)
    model = load("sort-abc")
    found = fine_tune(model, "classes", file=file, steps=150, lr=0.003, held_out=0.3)
    last = found.frame.iloc[-1]
    assert last["which"] == "held out"
    assert last["right"] > 0.9
    assert not model.readouts, "the model that was given has none"
    after = load("classes")
    assert after.readouts["score"].labels == ("few", "many")
    row = ablate(after, component="a0", metric="readout:score", file=file).frame.iloc[0]
    assert row["ci_low"] < row["value"] < row["ci_high"] < 0, "without attention nothing is counted"
    saved = json.loads(Path("classes/config.json").read_text())
    assert saved["architectures"] == ["GPT2ForSequenceClassification"]


def test_only_the_readout_is_trained() -> None:
    file = labels(Path("labels.jsonl"))
    found = fine_tune(load("sort-abc"), "probe", file=file, what="readout", steps=20)
    assert int(found.frame["learned"].iloc[0]) == 2 * 48
    old, new = load("sort-abc"), dict(load("probe").named_parameters())
    assert all(torch.equal(new[name], each) for name, each in old.named_parameters())


def test_the_saved_classifier_is_transformers_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    file = labels(Path("labels.jsonl"))
    fine_tune(load("sort-abc"), "classes", file=file, steps=5)
    theirs = transformers.GPT2ForSequenceClassification.from_pretrained("classes").eval()
    ours, tokens = load("classes"), torch.tensor([[0, 1, 2, 1]])
    resid = ours(tokens, stop_at_layer=3)
    logits = ours.readouts["score"](ours.ln_final(resid))[:, -1]
    assert torch.allclose(theirs(tokens).logits, logits, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "sorting"}, "one of the two"),
        ({"n": 3}, "only a task's prompts are drawn"),
        ({"what": "readout"}, "no labels"),
        ({"what": "layers 99"}, "there is no layer 99"),
        ({"held_out": 1.5}, "between 0 and 1"),
        ({"held_out": "none.jsonl"}, "none.jsonl cannot be read"),
        ({"steps": 0}, "at least 1 step"),
        ({"patience": 0}, "patience=0"),
        ({"lr": 1e30}, "lr=1e\\+30 is too large"),
        ({"resume": True}, "holds no interrupted training"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(options: dict[str, Any], says: str) -> None:
    with pytest.raises(CircuitsError, match=says):
        tuned("new", **options)
    assert not Path("new").exists()


def test_a_folder_is_not_overwritten() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(CircuitsError, match="already holds files"):
        tuned("mine")
    assert Path("mine/notes.txt").read_text() == "mine"
    with pytest.raises(CircuitsError, match="cannot be written"):
        tuned("mine/notes.txt")
    with pytest.raises(CircuitsError, match="cannot be written"):
        tuned("mine/notes.txt/new")


def test_another_training_is_not_resumed() -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned("new", progress=interrupt)
    with pytest.raises(CircuitsError, match="holds an interrupted training; go on with it"):
        tuned("new")
    with pytest.raises(CircuitsError, match="another training: its lr differs"):
        tuned("new", lr=0.1, resume=True)
    (Path("new") / STATE).write_bytes(b"\0" * 30)
    with pytest.raises(CircuitsError, match="cannot be read"):
        tuned("new", resume=True)


def test_a_model_in_half_precision_is_refused() -> None:
    with pytest.raises(CircuitsError, match="load it in float32"):
        fine_tune(load("sort-abc", dtype="bfloat16"), "new", task="sorting", n=5)


def test_on_the_command_line() -> None:
    answers(Path("answers.jsonl"))
    words = "fine-tune new --model sort-abc --file answers.jsonl --steps 4 --method lora --rank 2"
    done = CliRunner().invoke(app, [*words.split(), "--what", "a0.h1, a1.h2"])
    assert done.exit_code == 0, done.output
    assert "circuits diff new --model sort-abc" in " ".join(done.output.split())
    assert (Path("new") / ADAPTER / "adapter_config.json").is_file()
    again = CliRunner().invoke(app, words.split())
    assert again.exit_code == 2
    assert "choose a new folder" in " ".join(again.output.split())
