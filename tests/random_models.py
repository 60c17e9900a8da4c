"""Small models for the tests, with every weight random.

GPT-2's own initialization leaves all biases 0 and all LayerNorm weights 1, where many a wrong
formula is right.
"""

from __future__ import annotations

import hypothesis.strategies as st
import torch

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.tokenizer import Tokenizer

TINY = ModelConfig(n_layers=2, n_heads=4, d_model=16, d_head=6, d_mlp=20, n_ctx=12, d_vocab=31)


def randomized(
    cfg: ModelConfig = TINY,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    tokenizer: Tokenizer | None = None,
) -> HookedGPT2:
    """Attention is far from uniform, no bias is zero, no LayerNorm is the plain one."""
    model = HookedGPT2(cfg, tokenizer).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_((1.0 if name.endswith(".w") else 0.0) + 0.4 * noise)
    return model


def random_tokens(cfg: ModelConfig, batch: int, pos: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(cfg.d_vocab, (batch, pos), generator=generator)


@st.composite
def tiny_configs(draw: st.DrawFn) -> ModelConfig:
    """GPT-2s of every small shape, also those whose heads do not divide d_model."""
    return ModelConfig(
        n_layers=draw(st.integers(1, 3)),
        n_heads=draw(st.integers(1, 4)),
        d_model=draw(st.integers(4, 12)),
        d_head=draw(st.integers(1, 6)),
        d_mlp=draw(st.integers(1, 20)),
        n_ctx=draw(st.integers(2, 9)),
        d_vocab=draw(st.integers(2, 30)),
        eps=draw(st.sampled_from([1e-5, 1e-3])),
        tied=draw(st.booleans()),
    )


seeds = st.integers(0, 2**31)
