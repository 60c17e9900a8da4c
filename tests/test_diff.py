"""What changed between two models: nothing if they are one, and just what was changed if not."""

from __future__ import annotations

import copy
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_models import randomized
from typer.testing import CliRunner
from word_model import letter_model, word_model

from circuits.analyses.diff import diff
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, save
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.metrics import METRICS
from circuits.prompts import make
from circuits.result import Result, mean_interval
from circuits.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def without(words: HookedGPT2) -> HookedGPT2:
    """The same model without head 1.0."""
    model = copy.deepcopy(words)
    with torch.no_grad():
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            getattr(model.blocks[1].attn, name)[0].zero_()
    return model


def values(result: Result) -> dict[str, float]:
    return dict(zip(result.frame["component"], result.frame["value"], strict=True))


def test_a_model_is_as_it_is(words: HookedGPT2) -> None:
    weights = diff(words, words).frame
    assert set(weights["value"]) == {0.0}
    assert weights["only_in"].isna().all()
    effects = diff(words, words, analysis="ablate", all_heads=True, task="ioi", n=4).frame
    assert set(effects["value"]) == {0.0}
    assert effects["value_a"].tolist() == effects["value_b"].tolist()


def test_a_head_that_was_removed_stands_out(words: HookedGPT2, without: HookedGPT2) -> None:
    changed = values(diff(words, without))
    assert changed.pop("a1.h0") == 1
    assert set(changed.values()) == {0.0}
    found = diff(words, without, analysis="ablate", all_heads=True, task="ioi", n=6)
    row = found.frame.set_index("component").loc["a1.h0"]
    assert (row["value_b"], row["value"]) == (0, -row["value_a"])
    assert found.axes == ("layer", "head")
    assert found.unit == "logits"


def test_every_weight_is_in_one_part(words: HookedGPT2) -> None:
    for name, _ in words.named_parameters():
        other = copy.deepcopy(words)
        with torch.no_grad():
            dict(other.named_parameters())[name].flatten()[0] += 1
        frame = diff(words, other).frame
        assert (frame["norm"] > 0).sum() == 1, name
        assert frame["norm"].max() == pytest.approx(1)


def test_the_share_is_of_the_models_own_norm(words: HookedGPT2) -> None:
    doubled = copy.deepcopy(words)
    with torch.no_grad():
        for weight in doubled.parameters():
            weight.mul_(2)
    frame = diff(words, doubled).frame
    assert frame["value"].tolist() == pytest.approx([1] * len(frame))
    assert frame["value_b"].tolist() == pytest.approx((2 * frame["value_a"]).tolist())
    squares = sum(float(weight.detach().square().sum()) for weight in words.parameters())
    assert float((frame["value_a"] ** 2).sum()) == pytest.approx(squares)
    compiled = build(n_layers=3)
    own = diff(compiled, compiled).frame.set_index("component")
    assert own.loc["a0.h3", ["value_a", "value"]].tolist() == [0, 0]
    written = copy.deepcopy(compiled)
    with torch.no_grad():
        written.blocks[0].attn.b_K[3] = 1
    assert np.isnan(diff(compiled, written).frame.set_index("component").loc["a0.h3", "value"])


def test_differences_are_taken_prompt_by_prompt(words: HookedGPT2, without: HookedGPT2) -> None:
    asked: dict[str, Any] = {"component": "m0", "task": "ioi", "n": 8}
    row = diff(words, without, analysis="ablate", **asked).frame.iloc[0]
    prompts, metric = make("ioi", words, 8), METRICS["logit_diff"]

    def effects(model: HookedGPT2) -> np.ndarray:
        cut = [("blocks.0.hook_mlp_out", lambda value, hook: value * 0)]
        edited = model.run_with_hooks(prompts.tokens, fwd_hooks=cut, attention_mask=prompts.mask)
        clean = model(prompts.tokens, attention_mask=prompts.mask)
        return (metric(edited, prompts) - metric(clean, prompts)).numpy()

    with torch.inference_mode():
        wanted = mean_interval(effects(without) - effects(words))
    for name, value in wanted.items():
        assert row[name] == pytest.approx(float(value)), name
    assert row["paired"]


def test_rows_that_only_one_model_has(words: HookedGPT2) -> None:
    cfg = replace(words.cfg, n_layers=3)
    deeper = randomized(cfg, dtype=torch.float64, tokenizer=words.tokenizer)
    found = diff(words, deeper, analysis="ablate", all_heads=True, task="ioi", n=3)
    assert found.frame["component"].tolist() == [f"a{i}.h{j}" for i in range(3) for j in range(2)]
    alone = found.frame[found.frame["component"].str.startswith("a2")]
    assert alone["value"].isna().all()
    assert alone["n"].tolist() == [0, 0]
    assert alone["only_in"].tolist() == found.frame["only_in"].dropna().tolist()
    assert found.frame["layer"].tolist() == [0, 0, 1, 1, 2, 2]
    assert found.plot().axes
    weights = diff(words, deeper).frame
    assert weights[weights["value"].isna()]["component"].tolist() == ["a2.h0", "a2.h1", "a2", "m2"]


def test_other_numbers_and_texts_may_be_compared(words: HookedGPT2, without: HookedGPT2) -> None:
    asked: dict[str, Any] = {"analysis": "logit_lens", "prompt": "When Mary gave"}
    found = diff(words, without, column="entropy", **asked)
    assert found.frame["stage"].tolist() == ["embed", "a0", "m0", "a1", "m1"]
    assert found.frame["value"].abs().gt(0).tolist() == [False, False, False, True, True]
    assert found.unit == "entropy"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"analysis": "ablat"}, "no analysis 'ablat'.*did you mean 'ablate'"),
        ({"analysis": "diff"}, "no analysis 'diff' to ask both"),
        ({"analysis": "compare"}, "no analysis 'compare' to ask both"),
        ({"analysis": "ablate", "set_": ["all_head=true"]}, "did you mean 'all_heads'"),
        ({"analysis": "ablate", "set_": ["all_heads"]}, "write an option of ablate as name=value"),
        ({"analysis": "ablate", "set_": ["n=many"]}, "n='many': ablate takes a whole number"),
        ({"analysis": "ablate", "set_": ["n=1", "n=2"]}, "n was given twice"),
        ({"analysis": "ablate", "set_": ["plan=true"]}, "no option 'plan'"),
        ({"analysis": "ablate", "haeds": True}, "haeds is no option of ablate"),
        ({"analysis": "ablate", "set_": ["n=1"], "n": 2}, "n was given twice"),
        ({"analysis": "logit-lens"}, "logit-lens needs prompt; set prompt=..."),
        ({"analysis": "logit-lens", "prompt": "and"}, "no number 'value'.*choose a column of"),
        ({"analysis": "ablate", "all_heads": True, "column": "valeu"}, "did you mean 'value'"),
        ({"analysis": "ablate", "layer": 99, "head": 0}, "there is no layer 99"),
        ({"set_": ["n=3"]}, "n=3: the weights are compared without options"),
        ({"column": "norm"}, "weights have the column value only"),
        ({"other": "no-such-model"}, "no-such-model"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    other = asked.pop("other", words) if "other" in asked else words
    with pytest.raises(CircuitsError, match=message):
        diff(words, other, **asked)


def test_models_that_cannot_be_compared(words: HookedGPT2) -> None:
    fewer = word_model([" Mary", " John", " Tom", " Anne", " James", " garden", " letter"]).double()
    with pytest.raises(CircuitsError, match="would be asked different tokens"):
        diff(words, fewer, analysis="ablate", component="m0", task="ioi", n=2)
    with pytest.raises(CircuitsError, match="the weights of embed have the shapes"):
        diff(words, fewer)
    with pytest.raises(CircuitsError, match="'ioi' does not suit letters"):
        diff(words, letter_model(), analysis="ablate", component="m0", task="ioi")


def grown(
    model: HookedGPT2, *, tokens: int = 0, positions: int = 0, tied: bool = True
) -> HookedGPT2:
    """The same model with more tokens or positions, as `resize_token_embeddings` makes it."""
    cfg = model.cfg
    cfg = replace(cfg, d_vocab=cfg.d_vocab + tokens, n_ctx=cfg.n_ctx + positions, tied=tied)
    assert model.tokenizer is not None
    larger = randomized(cfg, dtype=torch.float64, tokenizer=model.tokenizer.fitted(cfg.d_vocab))
    with torch.no_grad():
        for name, weight in larger.named_parameters():
            if name == "unembed.W_U_untied":
                weight[:, : model.cfg.d_vocab] = model.W_U
            elif name == "unembed.b_U":
                weight[: model.cfg.d_vocab] = 0
            else:
                old = dict(model.named_parameters())[name]
                weight[tuple(map(slice, old.shape))] = old
    return larger


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_one_more_token(words: HookedGPT2, swapped: bool, tied: bool) -> None:
    n, larger = words.cfg.d_vocab, grown(words, tokens=1, tied=tied)
    pair = (larger, words) if swapped else (words, larger)
    frame = diff(*pair).frame.set_index("component")
    rest = [f"embed[{n}:{n + 1}]", *([] if tied else [f"logits[{n}:{n + 1}]"])]
    assert frame.index[frame["only_in"].notna()].tolist() == rest
    assert frame.loc[rest[0], "value_a" if swapped else "value_b"] == pytest.approx(
        float(larger.W_E[n].detach().norm())
    )
    assert frame.loc[rest, "value"].isna().all()
    assert set(frame["value"].dropna()) == {0.0}
    effects = diff(*pair, analysis="ablate", all_heads=True, task="ioi", n=4).frame
    assert effects["value"].abs().max() < 1e-12
    assert effects["only_in"].isna().all()
    with torch.no_grad():
        larger.W_E[3] += 1
    changed = diff(*pair).frame.set_index("component")["norm"]
    assert changed["embed"] == pytest.approx(words.cfg.d_model**0.5)


def test_more_positions(words: HookedGPT2) -> None:
    n, larger = words.cfg.n_ctx, grown(words, positions=5)
    frame = diff(words, larger).frame.set_index("component")
    assert frame.index[frame["only_in"].notna()].tolist() == [f"pos[{n}:{n + 5}]"]
    assert set(frame["value"].dropna()) == {0.0}
    effects = diff(words, larger, analysis="ablate", component="m0", task="ioi", n=4).frame
    assert effects["value"].tolist() == [0.0]


def test_an_unembedding_of_its_own(words: HookedGPT2) -> None:
    """A tied model is compared by the unembedding that it uses, its embedding's."""
    frame = diff(words, grown(words, tied=False)).frame.set_index("component")
    assert frame["only_in"].isna().all()
    assert set(frame["value"]) == {0.0}
    squares = [words.W_U, words.ln_final.w, words.ln_final.b]
    norm = sum(float(weight.detach().square().sum()) for weight in squares) ** 0.5
    assert frame.loc["logits", "value_a"] == pytest.approx(norm)


def test_embeddings_of_other_tokens_are_not_compared(words: HookedGPT2) -> None:
    tokenizer = words.tokenizer
    assert tokenizer is not None
    swapped, moved, renamed = (copy.deepcopy(words) for _ in range(3))
    a, b = b" Mary", b" John"
    ranks = tokenizer.ranks | {a: tokenizer.ranks[b], b: tokenizer.ranks[a]}
    swapped.tokenizer = Tokenizer(ranks, tokenizer.special, name="swapped")
    with pytest.raises(CircuitsError, match=r"token \d+ is ' (Mary|John)' in .* and ' "):
        diff(words, swapped)
    (start,) = tokenizer.special.values()
    specials = {"<pad>": start, **dict.fromkeys(tokenizer.special, start + 1)}
    moved = grown(words, tokens=1)
    moved.tokenizer = Tokenizer(tokenizer.ranks, specials, name="moved")
    with pytest.raises(CircuitsError, match=f"token {start} is .* and '<pad>'"):
        diff(words, moved)
    renamed.tokenizer = Tokenizer(tokenizer.ranks, {"</s>": start}, name="renamed")
    assert set(diff(words, renamed).frame["value"]) == {0.0}


def test_models_in_other_precisions(words: HookedGPT2) -> None:
    half = copy.deepcopy(words).to(torch.float16)
    assert diff(words, half).frame["value"].between(1e-6, 1e-3).all()
    assert set(diff(half, copy.deepcopy(half).double()).frame["value"]) == {0.0}


def test_the_models_are_left_as_they_were(words: HookedGPT2, without: HookedGPT2) -> None:
    before = [checksum(model) for model in (words, without)]
    seen: list[tuple[int, int]] = []
    asked: dict[str, Any] = {"analysis": "ablate", "component": "m0", "task": "ioi", "n": 2}
    first = diff(words, without, **asked, progress=lambda *step: seen.append(step))
    assert diff(words, without, **asked).to_json() == first.to_json()
    assert [checksum(model) for model in (words, without)] == before
    assert seen[-1] == (1000, 1000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    names = [checksum(model)[:6] for model in (words, without)]
    assert f"from tiny ({names[0]}) to tiny ({names[1]})" in first.title
    assert first.provenance.arguments["other_checksum"] == before[1]


def test_the_command_line(tmp_path: Path) -> None:
    cfg = ModelConfig(2, n_heads=2, d_model=8, n_ctx=64, d_vocab=262, model_name="tiny")
    model = randomized(cfg, dtype=torch.float32, tokenizer=word_model(["x"] * 0).tokenizer)
    save(model, tmp_path / "a")
    with torch.no_grad():
        model.blocks[1].mlp.W_out.zero_()
    save(model, tmp_path / "b")
    run = CliRunner().invoke
    base = ["diff", str(tmp_path / "b"), "--model", str(tmp_path / "a")]
    shown = run(app, base).stdout
    assert "11 rows in both, 1 of them changed" in shown
    assert "m1" in shown
    assert "embed" not in shown
    options = ["--analysis", "ablate", "--set", "component=m1", "--set", "task=repeated"]
    done = run(app, [*base, *options, "--set", "n=3", "--json"])
    content = json.loads(done.stdout)
    assert content["rows"][0]["value_b"] == pytest.approx(0, abs=0.5)
    again = run(app, [*shlex.split(content["provenance"]["command"])[1:], "--json"])
    assert again.stdout_bytes == done.stdout_bytes
    shown = run(app, [*base, *options, "--set", "n=3"]).stdout
    assert "change: other - model, in nats per token" in shown
