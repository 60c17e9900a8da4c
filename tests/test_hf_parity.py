"""The model against Hugging Face's `GPT2LMHeadModel` with the same random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circuits import checkpoints
from circuits.architectures import HookedGPT2

transformers = pytest.importorskip("transformers")


def hugging_face(**sizes: int | str) -> torch.nn.Module:
    """Every parameter random, also the biases and LayerNorm weights that start as 0 and 1."""
    config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0, **sizes)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            base = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            scale = 0.02 if weight.ndim == 2 else 0.2
            weight.copy_(base + scale * torch.randn(weight.shape, generator=generator))
    return theirs


def check(theirs: torch.nn.Module, ours: HookedGPT2, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        expected = theirs(tokens, labels=tokens, output_hidden_states=True)
        logits, cache = ours.run_with_cache(tokens, names_filter=lambda n: n.endswith("resid_pre"))
        loss = ours(tokens, return_type="loss")
    assert expected.logits.abs().max() > 0.1
    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(loss, expected.loss, atol=1e-4, rtol=0)
    for layer in range(ours.cfg.n_layers):
        stream = expected.hidden_states[layer]
        torch.testing.assert_close(cache["resid_pre", layer], stream, atol=1e-4, rtol=0)


@pytest.mark.parametrize("gelu", ["gelu_new", "gelu"])
def test_both_forms_of_gelu(gelu: str) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 16, "vocab_size": 50}
    theirs = hugging_face(**sizes, activation_function=gelu).double()
    ours, tokens = checkpoints.load(theirs), torch.arange(16)[None]
    other = {"gelu": "gelu_new", "gelu_new": "gelu"}[gelu]
    with torch.no_grad():
        expected, logits = theirs(tokens).logits, ours(tokens)
        wrong = HookedGPT2(replace(ours.cfg, act_fn=other)).double()
        wrong.load_state_dict(ours.state_dict())
        assert (wrong(tokens) - expected).abs().max() > 1e-7
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=0)


def test_tiny() -> None:
    theirs = hugging_face(n_layer=2, n_head=4, n_embd=32, n_positions=16, vocab_size=50)
    tokens = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(1))
    check(theirs, checkpoints.load(theirs), tokens)


@pytest.mark.slow
def test_gpt2_small() -> None:
    theirs = hugging_face(n_layer=12, n_head=12, n_embd=768, n_positions=1024, vocab_size=50257)
    ours = checkpoints.load(theirs)
    assert ours.cfg.n_params == sum(weight.numel() for weight in ours.parameters()) == 124439808
    check(theirs, ours, torch.randint(50257, (1, 16), generator=torch.Generator().manual_seed(1)))


def test_padding_agrees() -> None:
    theirs = hugging_face(n_layer=2, n_head=2, n_embd=16, n_positions=16, vocab_size=50)
    ours = checkpoints.load(theirs)
    tokens = torch.tensor([[0, 0, 7, 8, 9], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask, position_ids=positions).logits
        logits = ours(tokens, attention_mask=mask)
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=0)
