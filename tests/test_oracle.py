"""The model against GPT-2 written in plain NumPy (reference_gpt2.py), in float64."""

from __future__ import annotations

import numpy as np
import reference_gpt2 as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_tokens, randomized, seeds, tiny_configs

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig


def arrays(model: HookedGPT2) -> reference.Weights:
    return {name: weight.numpy() for name, weight in model.state_dict().items()}


@settings(max_examples=60)
@given(cfg=tiny_configs(), seed=seeds, data=st.data())
def test_logits_and_losses_agree(cfg: ModelConfig, seed: int, data: st.DataObject) -> None:
    model = randomized(cfg, seed=seed)
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, cfg.d_vocab - 1), min_size=2, max_size=cfg.n_ctx),
            min_size=1,
            max_size=3,
        )
    )
    logits = model(rows).detach().numpy()
    losses = model(rows, return_type="loss", loss_per_token=True).detach().numpy()
    expected = []
    for i, row in enumerate(rows):
        theirs = reference.logits(row, arrays(model), cfg.n_heads, cfg.eps)
        np.testing.assert_allclose(logits[i, : len(row)], theirs, rtol=0, atol=1e-9)
        expected.append(reference.loss(row, arrays(model), cfg.n_heads, cfg.eps))
        np.testing.assert_allclose(losses[i, : len(row) - 1], expected[-1], rtol=0, atol=1e-9)
    mean = model(rows, return_type="loss").item()
    np.testing.assert_allclose(mean, np.concatenate(expected).mean(), rtol=0, atol=1e-9)


@settings(max_examples=15)
@given(cfg=tiny_configs(), seed=seeds)
def test_watched_attention_agrees_too(cfg: ModelConfig, seed: int) -> None:
    model = randomized(cfg, seed=seed)
    tokens = random_tokens(cfg, batch=1, pos=cfg.n_ctx, seed=seed)
    logits, cache = model.run_with_cache(tokens, names_filter=list(model.hook_dict))
    theirs = reference.logits(tokens[0].tolist(), arrays(model), cfg.n_heads, cfg.eps)
    np.testing.assert_allclose(logits[0].detach().numpy(), theirs, rtol=0, atol=1e-9)
    assert cache["result", 0].shape == (1, cfg.n_ctx, cfg.n_heads, cfg.d_model)


def test_greedy_generation_agrees() -> None:
    model = randomized()
    expected = reference.generate([3, 1, 4], arrays(model), TINY.n_heads, n_new=9)
    generated = torch.tensor([[3, 1, 4]])
    for _ in range(9):
        generated = torch.cat([generated, model(generated)[:, -1:].argmax(-1)], dim=1)
    assert generated[0].tolist() == expected
    assert len(set(expected[3:])) > 1
