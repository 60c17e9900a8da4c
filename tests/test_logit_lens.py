"""The lens reads every stage as the model reads its last, and ends in the model's own answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner
from word_model import word_model

from circuits.analyses.logit_lens import logit_lens
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.errors import CircuitsError, TokenError
from circuits.tuned_lens import TunedLens

PROMPT = "When Mary and John gave the"


def rows_at(model: HookedGPT2, position: int, **options: Any) -> list[dict[str, Any]]:
    frame = logit_lens(model, PROMPT, positions=position, **options).frame
    return list(frame.to_dict("records"))


def test_stages_are_in_the_order_of_computation(words: HookedGPT2) -> None:
    frame = logit_lens(words, PROMPT).frame
    assert frame["stage"].tolist() == ["embed", "a0", "m0", "a1", "m1"]
    assert frame["layer"].fillna(-1).tolist() == [-1, 0, 0, 1, 1]
    assert frame["position"].unique().tolist() == [len(words.to_tokens(PROMPT)[0]) - 1]
    assert frame["after"].unique().tolist() == [" the"]


@pytest.mark.slow
def test_the_last_stage_is_the_model(words: HookedGPT2) -> None:
    expected = words(PROMPT).detach().softmax(-1)[0]
    for position in range(len(expected)):
        last = rows_at(words, position, top=words.cfg.d_vocab)[-1]
        ids = expected[position].sort(descending=True, stable=True)
        found = [last["probability"], *(last[f"probability_{i}"] for i in range(2, 258))]
        assert found == pytest.approx(ids.values[:257].tolist(), abs=1e-12)
        assert last["token"] == words.to_single_str_token(int(ids.indices[0]))
        assert last["answer"] == last["token"]
        assert (last["kl"], last["answer_rank"]) == (0, 1)


def test_every_stage_is_read_through_the_final_layer_norm(words: HookedGPT2) -> None:
    with torch.no_grad():
        logits, cache = words.run_with_cache(PROMPT)
        final = logits[0, 3].log_softmax(-1)
        for row in rows_at(words, 3):
            resid = cache[row["site"]][0, 3]
            normed = (resid - resid.mean()) / (resid.var(unbiased=False) + words.cfg.eps).sqrt()
            lens = (normed * words.ln_final.w + words.ln_final.b) @ words.W_U + words.b_U
            said = lens.log_softmax(-1)
            answer = int(final.argmax())
            assert row["token"] == words.to_single_str_token(int(said.argmax()))
            assert row["probability"] == pytest.approx(float(said.max().exp()), abs=1e-12)
            assert row["answer_probability"] == pytest.approx(float(said[answer].exp()), abs=1e-12)
            assert row["answer_rank"] == 1 + int((said > said[answer]).sum())
            entropy = -(said.exp() * said).sum()
            assert row["entropy"] == pytest.approx(float(entropy), abs=1e-12)
            kl = (final.exp() * (final - said)).sum()
            assert row["kl"] == pytest.approx(float(kl), abs=1e-12)


def test_the_answer_takes_over_once_and_stays(words: HookedGPT2) -> None:
    frame = logit_lens(words, PROMPT, positions="all").frame
    for _, rows in frame.groupby("position"):
        assert rows["takes_over"].sum() == 1
        since = int(rows["takes_over"].to_numpy().argmax())
        ranks = rows["answer_rank"].tolist()
        assert set(ranks[since:]) == {1}
        assert since == 0 or ranks[since - 1] > 1


def test_the_compiled_models_name_mover_decides() -> None:
    model = build(n_layers=4)
    frame = logit_lens(model, "aAbBcdeBfg.").frame.set_index("stage")
    assert frame.index[frame["takes_over"]].tolist() == ["a2"]
    assert frame["answer"].unique().tolist() == ["A"]
    assert frame.loc["a2", "answer_probability"] == pytest.approx(0.9988, abs=1e-4)
    # Before, every token is alike: the stream holds nothing that the unembedding reads.
    assert frame.loc["m1", "entropy"] == pytest.approx(math.log(27), abs=1e-4)
    # Equal probabilities are ordered by id, and A is token 2.
    assert frame.loc["m1", "answer_rank"] == 3


def test_all_positions_are_the_single_ones(words: HookedGPT2) -> None:
    whole = logit_lens(words, PROMPT, positions="all").frame
    n = len(words.to_tokens(PROMPT)[0])
    assert whole["position"].unique().tolist() == list(range(n))
    for position in (0, n - 1):
        alone = logit_lens(words, PROMPT, positions=position).frame
        same = whole[whole["position"] == position].reset_index(drop=True)
        assert same["kl"].tolist() == pytest.approx(alone["kl"].tolist(), abs=1e-12)
        assert same["token"].tolist() == alone["token"].tolist()
    assert rows_at(words, -1) == rows_at(words, n - 1)


def test_the_picture_has_stages_up_and_the_prompt_along(words: HookedGPT2) -> None:
    axes = logit_lens(words, PROMPT, positions="all").plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["embed", "a0"]
    along = [label.get_text() for label in axes.get_xticklabels()]
    assert along[1:6] == ["W", "h", "e", "n", "·Mary"]


def test_an_empty_prompt_is_the_start_token(words: HookedGPT2) -> None:
    frame = logit_lens(words, "").frame
    assert frame["after"].unique().tolist() == ["<|endoftext|>"]


def test_tokens_are_followed_through_the_stages(words: HookedGPT2) -> None:
    found = logit_lens(words, PROMPT, positions=3, token=[" Mary", " John", " Mary"])
    assert found.frame["target"].unique().tolist() == [" Mary", " John"]
    assert found.view == "curves"
    plain = {row["stage"]: row for row in rows_at(words, 3, top=words.cfg.d_vocab)}
    with torch.no_grad():
        _, cache = words.run_with_cache(PROMPT)
        for row in found.frame.to_dict("records"):
            logits = words.unembed(words.ln_final(cache[row["site"]]))[0, 3]
            token = words.to_single_token(row["target"])
            assert row["target_logit"] == pytest.approx(float(logits[token]), abs=1e-12)
            assert row["value"] == pytest.approx(float(logits.softmax(-1)[token]), abs=1e-12)
            assert row["target_rank"] == 1 + int((logits > logits[token]).sum())
            assert row["kl"] == pytest.approx(plain[row["stage"]]["kl"], abs=1e-12)
    lines = found.plot().axes[0].get_lines()
    assert len(lines) == 2
    assert lines[0].get_ydata() == pytest.approx(found.frame["value"][::2].to_numpy())


def test_tokens_at_several_positions(words: HookedGPT2) -> None:
    found = logit_lens(words, PROMPT, positions="all", token=" Mary")
    assert found.axes == ("position", "target", "stage")
    alone = logit_lens(words, PROMPT, positions=2, token=" Mary").frame
    same = found.frame[found.frame["position"] == 2]
    assert same["value"].tolist() == pytest.approx(alone["value"].tolist(), abs=1e-12)


def test_a_lens_of_another_model_is_refused(words: HookedGPT2, tmp_path: Path) -> None:
    lens = TunedLens.untrained(word_model(n_ctx=16))
    for given in (lens, lens.save(tmp_path / "other.safetensors")):
        with pytest.raises(CircuitsError, match="trained for 'tiny'.*train one for it"):
            logit_lens(words, PROMPT, lens=given)
    with pytest.raises(CircuitsError, match="cannot read a lens"):
        logit_lens(words, PROMPT, lens=tmp_path / "none.safetensors")


def test_an_untrained_lens_is_the_logit_lens(words: HookedGPT2) -> None:
    plain = logit_lens(words, PROMPT, positions="all")
    tuned = logit_lens(words, PROMPT, positions="all", lens=TunedLens.untrained(words))
    assert tuned.frame.equals(plain.frame)
    assert (plain.title, tuned.title) == ("Logit lens on tiny", "Tuned lens on tiny")


def test_followed_tokens_in_the_terminal() -> None:
    args = ["logit-lens", "aAbBcdeBfg.", "--model", "compiled", "--token", "A", "--token", "B"]
    out = CliRunner().invoke(app, args, prog_name="circuits").stdout
    line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["a2"])
    assert line[:4] == ["a2", "99.9%", "1", "10.00"]
    assert "takes over after a2" in out


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    first = logit_lens(words, PROMPT).to_json()
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]
    assert logit_lens(words, PROMPT).to_json() == first


def test_half_precision_is_read_in_full(words: HookedGPT2) -> None:
    half = word_model().to(torch.bfloat16)
    frame = logit_lens(half, PROMPT).frame
    assert frame["kl"].iloc[-1] == 0
    assert frame["answer_probability"].iloc[-1] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": 99}, r"no position 99: the prompt has 10 tokens.*from 0 to 9"),
        ({"positions": -11}, "no position -11"),
        ({"positions": "first"}, "no position 'first'"),
        ({"top": 0}, "top=0: list 1 to"),
        ({"top": 10**6}, "top=1000000: list 1 to"),
        ({"token": " Mary and"}, "one token is needed"),
    ],
)
def test_what_cannot_be_asked(words: HookedGPT2, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        logit_lens(words, PROMPT, **options)


def test_a_prompt_beyond_the_context(words: HookedGPT2) -> None:
    with pytest.raises(TokenError, match="reads at most 128"):
        logit_lens(words, " and" * 128)
