"""The models that everybody loads, as Hugging Face folders that hold nothing but the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from circuits.architectures import DECODERS, HookedGPT2
from circuits.checkpoints import load, save
from circuits.checkpoints.decoders import decoder_config
from circuits.config import GPT2_SIZES

RANDOM = "gpt2-random"
MODELS = (RANDOM, "mini")
TITLES = {RANDOM: "GPT-2 small's shape, random weights", "mini": "the bundled `mini`"}
PYTHIA, QWEN = "pythia-160m-random", "qwen2.5-0.5b-random"
TITLES |= {PYTHIA: "Pythia-160M's shape, random weights"}
TITLES |= {QWEN: "Qwen2.5-0.5B's shape, random weights"}
NAMES = (*MODELS, PYTHIA, QWEN)
# What a config.json says of the two, with a shorter context.
_SHAPES: dict[str, dict[str, Any]] = {
    PYTHIA: {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": 50304,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
    },
    QWEN: {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}
_SHARPER = 4.0  # times GPT-2's initial attention weights, or every pattern is uniform


def write(name: str, folder: Path) -> Path:
    """Write this model into a new folder: `gpt2-random`, or any model that `circuits.load` takes.

    The vocabulary stays out, for what is compared begins with tokens.
    """
    if name in _SHAPES:
        return _write_decoder(_SHAPES[name], folder)
    model = _random() if name == RANDOM else load(name)
    model.tokenizer = None
    return save(model, folder)


def title(name: str) -> str:
    """What is the model called in a heading?"""
    return TITLES.get(name, f"`{Path(name).name}`")


@torch.no_grad()
def _write_decoder(config: dict[str, Any], folder: Path) -> Path:
    """A model of this shape in which no bias is zero, and heads matter."""
    model = DECODERS[config["model_type"]].random(decoder_config(config, "random", "the benchmark"))
    _unlike(model)
    names = model.released_names()
    tensors = {names[name]: weight.detach() for name, weight in model.named_parameters()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _unlike(model: torch.nn.Module, seed: int = 0) -> None:
    """No bias is zero, no norm is the plain one, and attention is not uniform."""
    generator = torch.Generator().manual_seed(seed + 1)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        elif ".attn." in name:
            weight *= _SHARPER


@torch.no_grad()
def _random(seed: int = 0) -> HookedGPT2:
    """A GPT-2 small in which no bias is zero, no LayerNorm is the plain one, and heads matter."""
    model = HookedGPT2.random(GPT2_SIZES["gpt2"], seed=seed)
    _unlike(model, seed)
    return model
