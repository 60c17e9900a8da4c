"""What lies between two models: on the line of their weights, and part by part."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fine_tuning_files import labels
from typer.testing import CliRunner

from circuits.analyses.diff import diff
from circuits.analyses.fine_tune import fine_tune
from circuits.architectures import HookedGPT2
from circuits.checkpoints import load
from circuits.cli import app
from circuits.comparison.along import alike
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import make

IOI: dict[str, Any] = {"task": "ioi", "n": 6}
pytestmark = pytest.mark.filterwarnings("ignore:.*it is kept as model.readouts")


@pytest.fixture
def other(words: HookedGPT2) -> HookedGPT2:
    """The same model with another head 1.0 and another MLP 0."""
    model, draw = copy.deepcopy(words), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (model.blocks[1].attn.W_O[0], model.blocks[0].mlp.W_out):
            noise = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
            weight.add_(noise * weight.std())
    return model


def logit_diff(model: HookedGPT2) -> np.ndarray:
    prompts = make("ioi", model, 6, 0)
    with torch.no_grad():
        return get_metric("logit_diff")(model(prompts.tokens), prompts).numpy()


def test_the_line_ends_at_both_models(words: HookedGPT2, other: HookedGPT2) -> None:
    frame = diff(words, other, along="weights", points=3, **IOI).frame
    assert frame["at"].tolist() == [0, 0.5, 1]
    assert frame["value"].iloc[0] == pytest.approx(logit_diff(words).mean(), abs=1e-12)
    assert frame["value"].iloc[2] == pytest.approx(logit_diff(other).mean(), abs=1e-12)
    middle = copy.deepcopy(words)
    with torch.no_grad():
        for weight, end in zip(middle.parameters(), other.parameters(), strict=True):
            weight.copy_((weight + end) / 2)
    assert frame["value"].iloc[1] == pytest.approx(logit_diff(middle).mean(), abs=1e-9)
    assert frame["line"].iloc[1] == pytest.approx(frame["value"].iloc[[0, 2]].mean())
    assert (frame["ci_low"] < frame["value"]).all()


def test_only_what_differs_carries_a_change(words: HookedGPT2, other: HookedGPT2) -> None:
    frame = diff(words, other, along="parts", **IOI).frame.set_index("component")
    assert set(frame.index) == {"a1.h0", "m0"}
    without_head = copy.deepcopy(other)
    with torch.no_grad():
        without_head.blocks[1].attn.W_O_flat.copy_(words.blocks[1].attn.W_O_flat)
    mlp = logit_diff(without_head) - logit_diff(words)  # the model with the other's MLP
    row = frame.loc["m0"]
    assert row["value"] == pytest.approx(mlp.mean(), abs=1e-9)
    assert row["stderr"] == pytest.approx(mlp.std(ddof=1) / 6**0.5, abs=1e-9)
    back = logit_diff(without_head) - logit_diff(other)  # the other with the model's head
    assert frame.loc["a1.h0", "back"] == pytest.approx(back.mean(), abs=1e-9)
    whole = (logit_diff(other) - logit_diff(words)).mean()
    assert row["share"] == pytest.approx(row["value"] / whole)
    assert frame["whole"].tolist() == [pytest.approx(whole)] * 2


def test_the_models_stay_as_they_are(words: HookedGPT2, other: HookedGPT2) -> None:
    before = [weight.clone() for weight in words.parameters()]
    diff(words, other, along="parts", **IOI)
    assert all(torch.equal(a, b) for a, b in zip(before, words.parameters(), strict=True))


def test_a_readout_that_one_of_them_has_asks_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, model = labels(Path("labels.jsonl")), load("sort-abc")
    fine_tune(model, "tuned", file=file, steps=60, lr=0.003, method="adapter", width=3)
    asked: dict[str, Any] = {"file": file, "metric": "readout:score"}
    parts = diff(model, "tuned", along="parts", **asked).frame
    assert set(parts["component"]) == {"m0", "m1", "m2"}, "the readout is none of the change"
    assert parts["whole"].iloc[0] > 0
    words = "diff tuned --model sort-abc --along weights --points 3 --set metric=readout:score"
    done = CliRunner().invoke(app, [*words.split(), "--set", "file=labels.jsonl"])
    assert done.exit_code == 0, done.output
    assert "0.50" in done.output
    weights = diff(model, "tuned").frame.set_index("component")
    assert weights.loc["m1", "value"] == 0
    assert weights.loc["m1[192:195]", "value_b"] > 0


def test_circuits_say_what_was_gained_and_lost(words: HookedGPT2, other: HookedGPT2) -> None:
    asked: dict[str, Any] = {"analysis": "discover", "method": "eap", "keep": "10", **IOI}
    frame = diff(words, other, **asked).frame
    counts = frame["circuit"].value_counts()
    assert 0 < counts["both"] <= 10
    assert counts["gained"] > 0
    same = diff(words, words, **asked).frame["circuit"]
    assert set(same.dropna()) == {"both"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"along": "nothing"}, "choose weights or parts"),
        ({"along": "weights", "points": 1}, "points=1"),
        ({"along": "weights", "set_": ["layer=3"]}, "along has no option 'layer'"),
        ({"along": "weights", "head": 3}, "head is no option of along"),
        ({"along": "parts", "analysis": "heads"}, "leave analysis and column out"),
        ({"along": "parts", "metric": "readout:score"}, "no readout"),
    ],
)
def test_what_cannot_be_asked(
    words: HookedGPT2, other: HookedGPT2, options: dict[str, Any], says: str
) -> None:
    asked = IOI if "along" in options and "analysis" not in options else {}
    with pytest.raises(CircuitsError, match=says):
        diff(words, other, **{**asked, **options})


def test_models_without_a_line_between_them(words: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match="has the shapes"):
        alike(words, HookedGPT2.random(ModelConfig(2, 2, d_model=8, n_ctx=16, d_vocab=9)))
    with pytest.raises(CircuitsError, match="are the same"):
        diff(words, words, along="parts", **IOI)
