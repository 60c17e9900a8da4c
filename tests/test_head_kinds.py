"""Nothing is called by chance: random, silent and single cases have no names, and say why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from quick import only
from word_model import TOKENS, word_tokenizer

from circuits.analyses.heads import NO_LOOK, NO_SERIES, NO_WORDS, heads
from circuits.architectures import HookedGPT2
from circuits.cli.views.heads import view
from circuits.config import ModelConfig
from circuits.head_kinds import KINDS, judged
from circuits.head_kinds import names as names
from circuits.head_kinds import random_tokens as attention
from circuits.prompts import make
from circuits.tokenizer import Tokenizer


@pytest.mark.parametrize("seed", only([0], [0, 1]))
@pytest.mark.parametrize("d_head", only([1, 4], [1, 2, 4, 8]))
@pytest.mark.slow
def test_heads_of_random_models_have_no_names(d_head: int, seed: int) -> None:
    tokenizer = word_tokenizer()
    sizes: dict[str, Any] = {"n_layers": 4, "n_heads": 16, "d_model": 64, "n_ctx": 64}
    cfg = ModelConfig(d_head=d_head, d_vocab=tokenizer.n_vocab, **sizes)
    card = heads(HookedGPT2.random(cfg, seed=seed, tokenizer=tokenizer), n=6, seed=seed).frame
    assert card.loc[card["clear"], ["component", "kind", "value"]].to_dict("records") == []
    scored = set(card.loc[card["value"].notna(), "kind"])
    assert scored == {*KINDS} - {"s-inhibition"}  # which needs a name mover
    if d_head < 4:
        best = card[card["kind"] == "ov-copying"]["value"].max()
        assert best == pytest.approx(1)  # a fixed margin of 0.5 would be passed


def turned_by_hand(read: torch.Tensor, draws: int) -> list[torch.Tensor]:
    """The same matrix [d e] with its directions turned by rotations that favor none."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for _ in range(draws):
        drawn = torch.randn(len(read), len(read), generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(drawn)
        found.append(q * r.diagonal().sign() @ read)
    return found


@pytest.mark.parametrize("e", only([4], [2, 4, 6, 9]))
def test_chance_is_that_of_rotations(e: int) -> None:
    generator = torch.Generator().manual_seed(1)
    left, read, written = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((6, 6), (6, e), (e, 6))
    )
    through = written @ left.mT @ left  # a skewed one, as W_U W_E is
    strength = torch.linalg.qr(read[None, None], mode="r").R
    reached = torch.linalg.qr(through.mT[None, None], mode="r").R.mT
    draw = attention._chance(reached, strength, len(read))
    found = np.array([draw(seed)[0, 0] for seed in np.random.SeedSequence(1).spawn(1500)])
    expected = []
    for turned in turned_by_hand(read, 1500):
        values = torch.linalg.eigvals(through @ turned)
        expected.append(float(values.real.sum() / values.abs().sum()))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        # Of 1500 draws the share up to a quantile is known to 0.013 (one standard error); of two
        # eigenvalues many scores are exactly 1 or -1.
        height = np.quantile(expected, share)
        assert np.mean(found < height - 1e-9) < share + 0.06
        assert np.mean(found < height + 1e-9) > share - 0.06
    assert found.mean() == pytest.approx(np.mean(expected), abs=0.08)
    assert found.std() == pytest.approx(np.std(expected), abs=0.05)


def test_a_single_eigenvalue_is_never_clear() -> None:
    cfg = ModelConfig(n_layers=2, n_heads=8, d_model=16, d_head=1, n_ctx=8, d_vocab=40)
    with torch.inference_mode():
        scores = attention.eigenvalue_copying(HookedGPT2.random(cfg), 0)
    assert set(np.round(scores.value.flatten(), 9)) == {-1, 1}
    assert scores.null is not None
    assert (scores.null > 1 - 1e-9).all()
    assert not (judged(KINDS["ov-copying"], scores)["excess"] > 0).any()


@pytest.mark.slow
def test_chance_is_not_asked_where_no_score_is_high(mini: HookedGPT2) -> None:
    with torch.inference_mode():
        scores = attention.eigenvalue_copying(mini, 0)
    assert scores.null is None
    assert (scores.value < 0.5).all()
    assert not (judged(KINDS["ov-copying"], scores)["excess"] > 0).any()


@pytest.mark.slow
def test_one_prompt_calls_no_head_anything(mini: HookedGPT2) -> None:
    kinds = [name for name in KINDS if name not in ("induction", "previous-token")]  # their costs
    result = heads(mini, kind=kinds, n=1, component=["a5.h5", "a1.h0", "a0.h6", "a6.h3"])
    assert not result.frame["clear"].any()
    assert set(result.frame["name"]) == {"none"}
    said = [str(part) for part in view(result, 100)]
    assert "one draw has no interval, so nothing is clear by it: ask for -n 20" in said


def test_shares_that_are_whole_have_an_interval_nevertheless() -> None:
    ones = np.ones((1, 1, 12))
    columns = judged(KINDS["successor"], attention.Scores(ones, 0 * ones))
    # Wilson 1927: 12 of 12 is 1 - z^2 / (12 + z^2) at least.
    assert float(columns["ci_low"][0, 0]) == pytest.approx(12 / (12 + 1.959964**2), abs=1e-6)
    assert float(columns["excess"][0, 0]) == pytest.approx(0.7575, abs=1e-4)


def copier(tokenizer: Tokenizer) -> HookedGPT2:
    """One-hot tokens; head 0.0 copies whatever it looks at, head 0.1 writes nothing at all."""
    n = tokenizer.n_vocab
    cfg = ModelConfig(n_layers=1, n_heads=2, d_model=n, d_head=n, n_ctx=64, d_vocab=n, tied=False)
    model = HookedGPT2(cfg, tokenizer)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if name.endswith(".w") else 0.0)
        model.W_E.copy_(torch.eye(n))
        model.unembed.W_U_untied.copy_(torch.eye(n))
        attn = model.blocks[0].attn
        attn.W_V[0].copy_(torch.eye(n))
        attn.W_O[0].copy_(torch.eye(n))
    return model


def test_a_perfect_copier_copies_names_and_silence_copies_none() -> None:
    model = copier(word_tokenizer(TOKENS))
    with torch.inference_mode():
        found = names.name_copying(model, make("ioi", model, 12))
        after = names.successors(model, names.series(model))
    n_names = found.value.shape[-1]
    assert n_names == 8  # each is asked once
    assert found.value[0].tolist() == [[1] * n_names, [0] * n_names]
    assert found.control[0].tolist() == [[0] * n_names, [0] * n_names]
    assert not after.value.any()  # the copier raises the item itself
    assert not after.control[0, 1].any()


def test_ties_by_rounding_are_ties() -> None:
    """Head 0.1 raises every logit but for rounding alike: none is among the top 5, or the best."""
    model = copier(word_tokenizer(TOKENS))
    noise = torch.randn(model.cfg.d_vocab, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.ln_final.w.zero_()
        model.ln_final.b.fill_(1.0).add_(1e-7 * noise)
    with torch.inference_mode():
        found = names.name_copying(model, make("ioi", model, 12))
    assert not found.value[0, 1].any()
    assert not found.control[0, 1].any()


def test_copying_is_what_a_loop_over_tokens_finds(words: HookedGPT2) -> None:
    """Olsson et al. 2022: a / (a + t) of what is raised over the mean logit, from -1 to 1."""
    tokens = make("repeated", words, 2).corrupted
    assert tokens is not None
    layer, head = 1, 0
    with torch.inference_mode():
        found = attention.copying(words, tokens).value[layer, head]
        ids = tokens[:, :26]
        _, cache = words.run_with_cache(ids)
        for row in range(2):
            attended, everything = 0.0, 0.0
            for query in range(26):
                for key in range(1, query + 1):
                    wrote = cache["v", layer][row, key, head] @ words.blocks[layer].attn.W_O[head]
                    logits = ((wrote - wrote.mean()) * words.ln_final.w) @ words.W_U
                    raised = (logits - logits.mean()).clamp(min=0)
                    weight = float(cache["pattern", layer][row, head, query, key])
                    attended += weight * float(raised[ids[row, key]])
                    everything += weight * float(raised[ids[row, 1:]].sum())
            expected = 4 * attended / (attended + everything) - 1
            assert found[row] == pytest.approx(expected, abs=1e-9)


def without_tokenizer(model: HookedGPT2) -> HookedGPT2:
    bare = HookedGPT2(model.cfg)
    bare.load_state_dict(model.state_dict())
    return bare


@pytest.mark.slow
def test_random_ids_need_no_tokenizer(compiled: HookedGPT2) -> None:
    card = heads(without_tokenizer(compiled), n=3, costs="all").frame
    worded = ["name-mover", "name-copier", "s-inhibition", "negative", "successor", "name-copying"]
    lacking = card[card["note"].notna()]
    assert lacking["kind"].unique().tolist() == worded
    assert set(lacking["note"]) == {NO_WORDS}
    assert "no tokenizer" in NO_WORDS
    named = dict(zip(card["component"], card["name"], strict=True))
    expected = {"a0.h0": "previous-token", "a0.h1": "duplicate-token", "a1.h0": "induction"}
    assert {head: named[head] for head in expected} == expected
    assert (card.loc[card["behavior"] == "repeated", "cost"].notna()).all()


def notes(letters: str, n_ctx: int) -> dict[str, str]:
    """Why are there no scores of these kinds, in a model of so many letters and positions?"""
    tokenizer = Tokenizer.characters(letters)
    cfg = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=8,
        n_ctx=n_ctx,
        d_vocab=tokenizer.n_vocab,
        default_prepend_bos=False,
        model_name="small",
    )
    card = heads(HookedGPT2.random(cfg, tokenizer=tokenizer), n=2).frame
    rows = card[card["note"].notna()].drop_duplicates("kind")
    return dict(zip(rows["kind"], rows["note"], strict=True))


def test_a_note_says_what_is_too_small() -> None:
    few = notes("AB", 16)
    assert few["induction"].endswith("do not fit into its vocabulary of 2 tokens")
    assert few["prefix-matching"].endswith("do not fit into the vocabulary of 2 tokens")
    assert few["successor"] == NO_SERIES
    assert "has 0 of the 57 names as single tokens" in few["name-mover"]
    short = notes("ABCDEFGHIJKL", 3)
    assert short["duplicate-token"].endswith("do not fit into its context of 3 positions")
    assert short["prefix-matching"].endswith("do not fit into the context of 3 positions")
    assert "copying" not in short
    assert "successor" not in short
    for n_ctx in (1, 2):
        shortest = notes("ABCDEFGHIJKL", n_ctx)
        assert {shortest[kind] for kind in ("previous-token", "induction", "copying")} == {NO_LOOK}
