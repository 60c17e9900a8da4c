"""Half precision, and a GPU: forward, cache, generation and gradients of the bundled model."""

from __future__ import annotations

import pytest
import torch
from quick import only
from torch import Tensor
from torch.testing import assert_close

import circuits
from circuits.architectures import HookedGPT2

PROMPT = "Once upon a time there was a little girl. The next morning, the little girl went to"
HALVES = ["bfloat16", "float16"]
# What 8 and 11 significant bits leave of activations (relative to their size) and of predictions
# (nats of divergence at the worst position), with a factor of two or more to spare.
SITE_ERROR = {"bfloat16": 0.09, "float16": 0.012}
DIVERGENCE = {"bfloat16": 5e-3, "float16": 1e-4}


@pytest.fixture(scope="module")
def mini() -> HookedGPT2:
    return circuits.load("mini")


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL divergence [b p], in nats, from the first to the second."""
    log_p, log_q = (x.double().log_softmax(-1) for x in (logits, other))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("dtype", only(["bfloat16"], HALVES))
def test_half_precision_predicts_the_same(mini: HookedGPT2, dtype: str) -> None:
    half = circuits.load("mini", dtype=dtype)
    tokens = mini.to_tokens(PROMPT)
    with torch.no_grad():
        logits = half(tokens)
        assert logits.dtype == getattr(torch, dtype)
        assert divergence(mini(tokens), logits).max() < DIVERGENCE[dtype]
        with circuits.packed(half):
            assert torch.equal(half(tokens), logits)


@pytest.mark.parametrize("dtype", only(["bfloat16"], HALVES))
def test_half_precision_at_every_site(mini: HookedGPT2, dtype: str) -> None:
    half, everywhere = circuits.load("mini", dtype=dtype), list(mini.hook_dict)
    tokens = mini.to_tokens(PROMPT)
    with torch.no_grad():
        logits, expected = mini.run_with_cache(tokens, names_filter=everywhere)
        low, cache = half.run_with_cache(tokens, names_filter=everywhere)
    assert divergence(logits, low).max() < DIVERGENCE[dtype]
    for name in everywhere[1:]:  # all but the tokens
        assert cache[name].dtype == getattr(torch, dtype)
        seen = expected[name].isfinite()  # scores of the future are not
        assert torch.equal(cache[name].isfinite(), seen), name
        error = (cache[name].float() - expected[name])[seen].norm() / expected[name][seen].norm()
        assert error < SITE_ERROR[dtype], name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", only(["bfloat16"], HALVES))
@pytest.mark.parametrize("cached", [True, False])
def test_half_precision_generates(mini: HookedGPT2, dtype: str, cached: bool) -> None:
    half = circuits.load("mini", dtype=dtype)
    tokens = mini.to_tokens(PROMPT)
    text = half.generate(tokens, max_new_tokens=12, do_sample=False, use_past_kv_cache=cached)
    new = text[0, tokens.shape[1] :]
    with torch.no_grad():
        log_probs = mini(text[:, :-1])[0, tokens.shape[1] - 1 :].log_softmax(-1)
    lost = log_probs.max(-1).values - log_probs.gather(-1, new[:, None])[:, 0]
    assert lost.max() < 0.3  # nats behind the token that single precision finds most likely


@pytest.mark.parametrize("dtype", only(["bfloat16"], HALVES))
def test_half_precision_has_gradients(mini: HookedGPT2, dtype: str) -> None:
    half = circuits.load("mini", dtype=dtype)
    (low,) = torch.autograd.grad(half(PROMPT, return_type="loss"), half.W_pos)
    (expected,) = torch.autograd.grad(mini(PROMPT, return_type="loss"), mini.W_pos)
    cosine = torch.cosine_similarity(low.float().flatten(), expected.flatten(), dim=0)
    assert cosine > 0.99


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_cuda(mini: HookedGPT2, dtype: str) -> None:
    there = circuits.load("mini", device="cuda", dtype=dtype)
    tokens = mini.to_tokens(PROMPT)
    with torch.no_grad(), circuits.packed(there):
        logits, cache = there.run_with_cache(tokens)
        assert_close(there(tokens), logits, atol=0.5, rtol=0.05)
    assert cache["z", 0].device.type == "cuda"
    bound = DIVERGENCE.get(dtype, 1e-5)
    assert divergence(mini(tokens), logits.cpu()).max() < bound
    text = there.generate(tokens, max_new_tokens=4, do_sample=False)
    assert text.device.type == "cuda"
    assert text.shape[1] == tokens.shape[1] + 4
