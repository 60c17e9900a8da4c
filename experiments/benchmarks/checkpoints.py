"""The models that everybody loads, as Hugging Face folders that hold nothing but the model."""

from __future__ import annotations

from pathlib import Path

import torch

from circuits.architectures import HookedGPT2
from circuits.checkpoints import load, save
from circuits.config import GPT2_SIZES

RANDOM = "gpt2-random"
MODELS = (RANDOM, "mini")
TITLES = {RANDOM: "GPT-2 small's shape, random weights", "mini": "the bundled `mini`"}
_SHARPER = 4.0  # times GPT-2's initial attention weights, or every pattern is uniform


def write(name: str, folder: Path) -> Path:
    """Write this model into a new folder: `gpt2-random`, or any model that `circuits.load` takes.

    The vocabulary stays out, for what is compared begins with tokens.
    """
    model = _random() if name == RANDOM else load(name)
    model.tokenizer = None
    return save(model, folder)


def title(name: str) -> str:
    """What is the model called in a heading?"""
    return TITLES.get(name, f"`{Path(name).name}`")


@torch.no_grad()
def _random(seed: int = 0) -> HookedGPT2:
    """A GPT-2 small in which no bias is zero, no LayerNorm is the plain one, and heads matter."""
    model = HookedGPT2.random(GPT2_SIZES["gpt2"], seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        elif ".attn." in name:
            weight *= _SHARPER
    return model
