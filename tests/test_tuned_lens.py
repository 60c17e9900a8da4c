"""A tuned lens starts as the logit lens, comes closer to the end, and belongs to one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens, randomized
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner
from word_model import letter_model, word_model

from circuits.analyses.logit_lens import logit_lens
from circuits.analyses.tune_lens import tune_lens
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.tuned_lens import TunedLens, divergence, lens_logits, stages, train_tuned_lens

TOKENS = random_tokens(TINY, batch=40, pos=12)
QUICK: dict[str, Any] = {"n": 20, "context": 12, "steps": 8, "lr": 0.01}


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return randomized()


@pytest.fixture(scope="module")
def lens(model: HookedGPT2) -> TunedLens:
    return train_tuned_lens(model, TOKENS[:30], steps=60, lr=0.02)


def maps(lens: TunedLens) -> list[Tensor]:
    return [one for pair in lens.maps.values() for one in pair]


# --- the lens -------------------------------------------------------------------------------------


def test_the_divergence_is_what_it_says(model: HookedGPT2, lens: TunedLens) -> None:
    tokens = TOKENS[30:33]
    found = divergence(model, tokens, lens)
    assert found.shape == (2 * TINY.n_layers + 1, 3)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        final = logits.log_softmax(-1)
        for row, stage in zip(found, stages(model), strict=True):
            stream = cache[stage.site]
            if stage.site in lens.maps:
                A, b = lens.maps[stage.site]
                stream = stream + stream @ A + b
            said = model.unembed(model.ln_final(stream)).log_softmax(-1)
            kl = (final.exp() * (final - said)).sum(-1).mean(-1)
            torch.testing.assert_close(row, kl, atol=1e-10, rtol=0)


def test_training_comes_closer_on_held_out_tokens(model: HookedGPT2, lens: TunedLens) -> None:
    before = divergence(model, TOKENS[30:], TunedLens.untrained(model)).mean(1)
    after = divergence(model, TOKENS[30:], lens).mean(1)
    assert (after[:-1] < 0.8 * before[:-1]).all()
    assert after[-1] == before[-1] == 0


def test_the_last_stage_is_the_model(model: HookedGPT2, lens: TunedLens) -> None:
    last = stages(model)[-1].site
    assert last not in lens.maps
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS[:2])
        stream = cache[last]
        torch.testing.assert_close(lens_logits(model, lens(last, stream)), logits)


def test_a_seed_makes_a_lens(model: HookedGPT2) -> None:
    def train(seed: int) -> list[Tensor]:
        return maps(train_tuned_lens(model, TOKENS, steps=3, seed=seed))

    first, again, other = train(1), train(1), train(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_training_leaves_the_model_alone() -> None:
    model = randomized()
    before = checksum(model)
    seen: list[tuple[int, int]] = []
    lens = train_tuned_lens(model, TOKENS, steps=3, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert checksum(model) == before
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    assert not [name for name, hook in model.hook_dict.items() if hook.watched]
    assert not any(one.requires_grad or one.grad is not None for one in maps(lens))


def test_half_precision_is_trained_in_single() -> None:
    model = word_model().to(torch.bfloat16)
    tokens = random_tokens(model.cfg, 20, 12)
    lens = train_tuned_lens(model, tokens[:16], steps=20, lr=0.02)
    assert {one.dtype for one in maps(lens)} == {torch.float32}
    before = divergence(model, tokens[16:], TunedLens.untrained(model)).mean()
    assert divergence(model, tokens[16:], lens).mean() < before
    assert logit_lens(model, "When", lens=lens).frame["kl"].iloc[-1] == 0


# --- its file -------------------------------------------------------------------------------------


def test_a_saved_lens_is_the_same(model: HookedGPT2, lens: TunedLens, tmp_path: Path) -> None:
    path = lens.save(tmp_path / "lens.safetensors")
    loaded = TunedLens.load(path, model)
    assert set(loaded.maps) == set(lens.maps)
    assert all(
        torch.equal(one, other)
        for site in lens.maps
        for one, other in zip(lens.maps[site], loaded.maps[site], strict=True)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["lens.safetensors"]


def test_files_that_are_no_lens_of_this_model(
    model: HookedGPT2, lens: TunedLens, tmp_path: Path
) -> None:
    path = lens.save(tmp_path / "lens.safetensors")
    with pytest.raises(CircuitsError, match="trained for 'gpt2'.*and this is 'gpt2'"):
        TunedLens.load(path, randomized(seed=1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CircuitsError, match="cannot read a lens from"):
        TunedLens.load(path, model)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CircuitsError, match="is no tuned lens"):
        TunedLens.load(path, model)
    save_file({"x": torch.zeros(2)}, path, metadata={"about": "{"})
    with pytest.raises(CircuitsError, match="cannot read a lens from"):
        TunedLens.load(path, model)
    with pytest.raises(CircuitsError, match="cannot be written"):
        lens.save(tmp_path / "nowhere" / "lens.safetensors")


def test_a_lens_of_numbers_that_are_none(
    model: HookedGPT2, lens: TunedLens, tmp_path: Path
) -> None:
    (A, b), *_ = lens.maps.values()
    spoiled = {**lens.maps, next(iter(lens.maps)): (A * torch.nan, b)}
    path = TunedLens(spoiled, lens.model, lens.checksum).save(tmp_path / "lens.safetensors")
    with pytest.raises(CircuitsError, match="not finite"):
        TunedLens.load(path, model)


def test_a_training_that_fails_leaves_the_earlier_lens(tmp_path: Path) -> None:
    words, path = word_model(), tmp_path / "lens.safetensors"
    tune_lens(words, path, **QUICK)
    before = path.read_bytes()
    with pytest.raises(CircuitsError, match="finite"):
        tune_lens(words, path, **QUICK | {"lr": 1e30})
    assert path.read_bytes() == before
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_only_a_lens_is_replaced(lens: TunedLens, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    before = path.read_bytes()
    with pytest.raises(CircuitsError, match="something else than a tuned lens"):
        lens.save(path)
    assert path.read_bytes() == before
    assert lens.save(lens.save(tmp_path / "lens.safetensors")).is_file()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (TOKENS, {"steps": 0}, "steps=0"),
        (TOKENS, {"lr": 0.0}, "lr=0.0"),
        (TOKENS, {"lr": float("nan")}, "lr=nan"),
        (TOKENS[:0], {}, "shape \\(0, 12\\)"),
        (TOKENS[0], {}, "shape \\(12,\\)"),
    ],
)
def test_what_cannot_be_trained(
    model: HookedGPT2, tokens: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        train_tuned_lens(model, tokens, **options)


# --- the analysis ---------------------------------------------------------------------------------


def test_it_is_trained_on_the_models_own_text(tmp_path: Path) -> None:
    model, out = word_model(), tmp_path / "lens.safetensors"
    found = tune_lens(model, out, **QUICK)
    frame = found.frame
    assert frame["lens"].tolist() == ["logit"] * 5 + ["tuned"] * 5
    assert frame[["n", "trained", "width"]].drop_duplicates().to_numpy().tolist() == [[2, 18, 12]]
    assert frame["text"].unique().tolist() == ["sampled from the model"]
    before, after = (rows["value"].to_numpy() for _, rows in frame.groupby("lens"))
    assert frame["gain"].to_numpy()[5:9] == pytest.approx(1 - after[:-1] / before[:-1], abs=1e-6)
    assert after.sum() < before.sum()
    again = tune_lens(model, out, **QUICK)
    assert again.to_json() == found.to_json()
    lens = logit_lens(model, "When Mary", lens=out)
    assert lens.title == "Tuned lens on tiny"
    assert len(found.plot().axes[0].get_lines()) == 2


def test_it_is_trained_on_a_text(tmp_path: Path) -> None:
    model, text = word_model(), tmp_path / "text.txt"
    text.write_text("When Mary and John gave the garden to the " * 40)
    found = tune_lens(model, tmp_path / "lens.safetensors", file=text, **QUICK)
    assert found.frame["text"].unique().tolist() == ["text.txt"]
    assert found.frame["trained"].iloc[0] == 18
    assert "text.txt" in found.provenance.command


def test_without_a_start_token(tmp_path: Path) -> None:
    options = QUICK | {"context": None}
    found = tune_lens(letter_model(), tmp_path / "lens.safetensors", **options)
    assert found.frame["width"].iloc[0] == 11


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("lens.pt", {}, "end its name .safetensors"),
        ("nowhere/lens.safetensors", {}, "there is no .*nowhere"),
        ("lens.safetensors", {"n": 1}, "n=1 windows"),
        ("lens.safetensors", {"context": 1}, "context=1"),
        ("lens.safetensors", {"context": 999}, "2 to 128 tokens"),
        ("lens.safetensors", {"file": "none.txt"}, "none.txt cannot be read"),
        ("lens.safetensors", {"file": "short.txt"}, "less than two windows of 12 tokens"),
        ("lens.safetensors", {"steps": 0}, "steps=0"),
    ],
)
def test_what_cannot_be_tuned(
    tmp_path: Path, out: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "short.txt").write_text("When Mary and")
    if "file" in options:
        options = options | {"file": tmp_path / options["file"]}
    with pytest.raises(CircuitsError, match=message):
        tune_lens(word_model(), tmp_path / out, **QUICK | options)
    assert not (tmp_path / "lens.safetensors").exists()


def test_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "lens.safetensors"
    args = ["tune-lens", str(out), "--model", "compiled", "-n", "4", "--steps", "2", "--quiet"]
    done = CliRunner().invoke(app, args, prog_name="circuits")
    assert "trained on 3 windows of 32 tokens" in " ".join(done.stdout.split())
    asked = ["logit-lens", "aAbBcdeBfg.", "--model", "compiled", "--lens", str(out)]
    assert "Tuned lens on compiled" in CliRunner().invoke(app, asked, prog_name="circuits").stdout
    other = [*asked[:3], "sort-abc", *asked[4:]]
    refused = CliRunner().invoke(app, other, prog_name="circuits")
    assert refused.exit_code != 0
    table = CliRunner().invoke(app, [*args, "--json"], prog_name="circuits").stdout
    assert "tune-lens" in json.loads(table)["provenance"]["command"]
