"""Packed weights while text is written: for nobody else, and never older than the weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens, randomized
from torch import Tensor

from circuits.generation import generate, stream
from circuits.hooks import HookPoint
from circuits.sampling import Sampler

TOKENS = random_tokens(TINY, 3, 7)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("use_past_kv_cache", [True, False])
def test_an_open_stream_hides_no_edit(use_past_kv_cache: bool) -> None:
    """Neither from others nor from itself: at every step the weights are read as they are."""
    cfg = replace(TINY, n_ctx=64)
    model = randomized(cfg, dtype=torch.float32)
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.0}
    steps = stream(model, [[1, 2, 3]], use_past_kv_cache=use_past_kv_cache, **options)
    first = [next(steps) for _ in range(3)]
    plain = model(TOKENS)
    model.unembed.W_U.data.zero_()
    assert not model(TOKENS).any()
    assert model(TOKENS).shape == plain.shape
    assert plain.any()
    after = next(steps)
    assert first[0].logprobs != pytest.approx(-math.log(cfg.d_vocab), abs=1e-4)
    assert after.logprobs.tolist() == pytest.approx([-math.log(cfg.d_vocab)])  # all are alike
    assert next(steps).tokens.tolist() == [0]  # the first of them


@pytest.mark.usefixtures("always")
def test_generate_packs_unless_a_hook_could_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook is user code: what it does to the weights acts at the next step, recorded or not."""
    model = randomized(replace(TINY, n_ctx=64), dtype=torch.float32)
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    seen: list[int] = []

    def look(value: Tensor, hook: HookPoint) -> None:
        seen.append(len(model.backend.copies))
        model.unembed.W_U.data.zero_()

    def packed_and_counted(*args: Any, **given: Any) -> Tensor:
        seen.append(len(model.backend.copies))
        return sampled(*args, **given)

    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.0}
    sampled = Sampler.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "__call__", packed_and_counted)
        generate(model, prompt, **options)
    assert seen == [0] + [4 * TINY.n_layers + 1] * 39  # the prompt is read without
    assert not model.backend.copies
    seen.clear()
    made = generate(model, prompt, fwd_hooks=[("hook_embed", look)], **options)
    assert seen == [0] * 40
    assert made[:, 3:].tolist() == [[0] * 40] * 2  # of logits that are all 0 the first is taken
