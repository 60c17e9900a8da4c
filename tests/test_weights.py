"""Folding and centering change the weights and nothing that the model says."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lens_twin import IGNORE_DEPRECATION, lens_shell, lens_state
from random_models import TINY, random_tokens, randomized, seeds, tiny_configs

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.errors import TokenError
from circuits.weights import (
    Certificate,
    center_unembed,
    center_writing_weights,
    fold_layer_norm,
    fold_value_biases,
    process,
)

STEPS = [fold_layer_norm, center_writing_weights, center_unembed, fold_value_biases]
FLAGS = ["fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"]
UNTIED = replace(TINY, tied=False)
TOKENS = random_tokens(TINY, batch=3, pos=12)
both_ties = pytest.mark.parametrize("cfg", [TINY, UNTIED], ids=["tied", "untied"])


def fingerprint(model: HookedGPT2) -> str:
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def log_probs(model: HookedGPT2, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    return model(tokens).detach().log_softmax(-1)


@settings(max_examples=40)
@given(cfg=tiny_configs(), seed=seeds, wanted=st.tuples(*[st.booleans()] * 4))
def test_log_probs_are_unchanged(cfg: ModelConfig, seed: int, wanted: tuple[bool, ...]) -> None:
    model = randomized(cfg, seed=seed)
    tokens = random_tokens(cfg, batch=2, pos=cfg.n_ctx, seed=seed)
    processed, certificate = process(model, tokens, **dict(zip(FLAGS, wanted, strict=True)))
    assert (log_probs(processed, tokens) - log_probs(model, tokens)).abs().max() < 1e-9
    assert certificate.max_abs_delta < 1e-9
    assert certificate.argmax_changes == 0
    assert certificate.n_positions == tokens.numel()


@both_ties
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [*STEPS, process])
def test_the_given_model_stays_as_it_is(step, dtype: torch.dtype, cfg: ModelConfig) -> None:
    model = randomized(cfg, dtype=dtype)
    before = fingerprint(model)
    new, certificate = step(model, TOKENS)
    assert fingerprint(model) == before != fingerprint(new)
    assert certificate.max_abs_delta < (1e-9 if dtype == torch.float64 else 1e-3)
    assert new.cfg.dtype == dtype
    ours, theirs = ({w.data_ptr() for w in m.parameters()} for m in (model, new))
    assert ours.isdisjoint(theirs)
    for hook in [*model.hook_dict.values(), *new.hook_dict.values()]:
        assert not hook.watched


@both_ties
def test_fold_layer_norm_leaves_nothing_to_layer_norm(cfg: ModelConfig) -> None:
    folded, _ = fold_layer_norm(randomized(cfg), TOKENS)
    norms = [folded.ln_final, *(n for block in folded.blocks for n in (block.ln1, block.ln2))]
    for norm in norms:
        assert (norm.w == 1).all()
        assert (norm.b == 0).all()
    for reading in (folded.W_Q, folded.W_K, folded.W_V, folded.W_in, folded.W_U):
        assert reading.mean(-2).abs().max() < 1e-12
    assert not folded.cfg.tied
    assert folded.cfg.normalization_type == "LN"


@both_ties
def test_centered_writing_keeps_the_stream_centered(cfg: ModelConfig) -> None:
    model = randomized(cfg)
    centered, _ = center_writing_weights(model, TOKENS)
    for layer in range(cfg.n_layers + 1):
        stream = centered(TOKENS, stop_at_layer=layer)
        raw = model(TOKENS, stop_at_layer=layer)
        assert stream.mean(-1).abs().max() < 1e-12
        assert (stream - (raw - raw.mean(-1, keepdim=True))).abs().max() < 1e-9
    assert torch.equal(centered.W_U, model.W_U)


@both_ties
def test_centered_unembedding_centers_the_logits(cfg: ModelConfig) -> None:
    model = randomized(cfg)
    centered, _ = center_unembed(model, TOKENS)
    logits, raw = centered(TOKENS), model(TOKENS)
    assert logits.mean(-1).abs().max() < 1e-12
    assert (logits - (raw - raw.mean(-1, keepdim=True))).abs().max() < 1e-9
    assert torch.equal(centered.W_E, model.W_E)


@both_ties
def test_folded_value_biases_move_to_the_layer(cfg: ModelConfig) -> None:
    model = randomized(cfg)
    folded, _ = fold_value_biases(model, TOKENS)
    assert (folded.b_V == 0).all()
    assert torch.equal(folded.b_Q, model.b_Q)
    assert torch.equal(folded.b_K, model.b_K)
    for layer in range(cfg.n_layers):
        moved = sum(model.b_V[layer, head] @ model.W_O[layer, head] for head in range(cfg.n_heads))
        assert torch.allclose(folded.b_O[layer], model.b_O[layer] + moved, atol=1e-12)
    assert folded.cfg.tied == cfg.tied


@both_ties
def test_processing_twice_is_processing_once(cfg: ModelConfig) -> None:
    once, _ = process(randomized(cfg), TOKENS)
    twice, _ = process(once, TOKENS)
    for name, weight in once.state_dict().items():
        assert (twice.state_dict()[name] - weight).abs().max() < 1e-12, name


def test_process_is_its_steps_in_order() -> None:
    model = randomized(UNTIED)
    stepwise = model
    for step in STEPS:
        stepwise, _ = step(stepwise, TOKENS)
    processed, _ = process(model, TOKENS)
    for name, weight in processed.state_dict().items():
        assert torch.equal(stepwise.state_dict()[name], weight), name


def test_the_certificate_counts_what_rounding_changed() -> None:
    # bfloat16 knows logits near 1000 only to the nearest 4: many tie until they are centered.
    model = randomized(UNTIED, dtype=torch.bfloat16)
    with torch.no_grad():
        model.unembed.b_U += 1000
    processed, certificate = process(model, TOKENS)
    old, new = (
        torch.cat([m(row[None]).detach().float().log_softmax(-1) for row in TOKENS])
        for m in (model, processed)
    )
    delta = (new - old).abs()
    assert certificate.max_abs_delta == pytest.approx(delta.max().item(), rel=1e-3)
    assert certificate.mean_abs_delta == pytest.approx(delta.mean().item(), rel=1e-3)
    assert certificate.argmax_changes == int((new.argmax(-1) != old.argmax(-1)).sum()) > 0
    assert processed.cfg.dtype == torch.bfloat16
    assert f"{certificate.argmax_changes} of 36 positions" in str(certificate)


def test_padding_is_no_position_of_the_certificate() -> None:
    model = randomized(dtype=torch.float32)
    rows = [[1, 2, 3, 4, 5], [6, 7]]
    _, ragged = process(model, rows)
    (_, long), (_, short) = (process(model, [row]) for row in rows)
    assert ragged == Certificate(
        max(long.max_abs_delta, short.max_abs_delta),
        pytest.approx((5 * long.mean_abs_delta + 2 * short.mean_abs_delta) / 7),
        long.argmax_changes + short.argmax_changes,
        7,
    )


def test_the_certificate_does_not_hide_nan() -> None:
    model = randomized()
    with torch.no_grad():
        model.W_pos[3] = math.nan
    _, certificate = fold_value_biases(model, TOKENS[:, :5])
    assert math.isnan(certificate.max_abs_delta)
    assert math.isnan(certificate.mean_abs_delta)


def test_a_frozen_model_stays_frozen_and_says_what_was_done() -> None:
    model = randomized().requires_grad_(False)
    new, _ = process(model, TOKENS, fold_ln=False, center_unembed=False)
    assert not any(weight.requires_grad for weight in new.parameters())
    assert new.source == f"{model.source}, center_writing_weights, fold_value_biases"
    assert new.tokenizer is model.tokenizer


def test_tokens_the_model_cannot_take_are_refused() -> None:
    with pytest.raises(TokenError, match="outside the vocabulary"):
        process(randomized(), [[1, 31]])


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
@both_ties
@pytest.mark.parametrize("wanted", [*itertools.product([True, False], repeat=4)])
def test_transformer_lens_has_the_same_weights(wanted: tuple[bool, ...], cfg: ModelConfig) -> None:
    pytest.importorskip("transformer_lens")
    flags = dict(zip(FLAGS, wanted, strict=True))
    model = randomized(cfg, dtype=torch.float32)
    theirs = lens_shell(model.cfg, normalization_type="LNPre" if flags["fold_ln"] else "LN")
    theirs.load_and_process_state_dict(lens_state(model), **flags)
    ours, _ = process(model, TOKENS, **flags)
    for name in ("W_E", "W_pos", "W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), msg=name)
    for name in ("W_in", "b_in", "W_out", "b_out", "W_U", "b_U"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), msg=name)
    their_log_probs = theirs(TOKENS).detach().log_softmax(-1)
    torch.testing.assert_close(log_probs(ours), their_log_probs, atol=2e-5, rtol=1e-5)
