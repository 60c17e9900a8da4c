"""Checkpoints for the tests, written in the formats of others without this package's writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from random_models import randomized
from safetensors.torch import save_file
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig

# No two sizes are equal, so that a transposed tensor cannot pass for a right one.
SHAPE = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=20, n_ctx=12, d_vocab=31)
UNTIED = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=20, n_ctx=12, d_vocab=31, tied=False)
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def single(cfg: ModelConfig = SHAPE, seed: int = 0) -> HookedGPT2:
    """A random model whose numbers are exact in float16, in float32."""
    return randomized(cfg, seed=seed, dtype=torch.float16).float()


def released(model: HookedGPT2) -> dict[str, Tensor]:
    """Its tensors as transformers would save them."""
    outside = {"wte.weight": model.W_E, "wpe.weight": model.W_pos}
    outside |= {"ln_f.weight": model.ln_final.w, "ln_f.bias": model.ln_final.b}
    tensors = {f"transformer.{name}": tensor for name, tensor in outside.items()}
    for layer, block in enumerate(model.blocks):
        attn, mlp = block.attn, block.mlp
        parts = {"ln_1": (block.ln1.w, block.ln1.b), "ln_2": (block.ln2.w, block.ln2.b)}
        parts |= {"attn.c_attn": (attn.W_QKV, attn.b_QKV), "attn.c_proj": (attn.W_O_flat, attn.b_O)}
        parts |= {"mlp.c_fc": (mlp.W_in, mlp.b_in), "mlp.c_proj": (mlp.W_out, mlp.b_out)}
        for part, (weight, bias) in parts.items():
            tensors[f"transformer.h.{layer}.{part}.weight"] = weight
            tensors[f"transformer.h.{layer}.{part}.bias"] = bias
    if not model.cfg.tied:
        tensors |= {"lm_head.weight": model.W_U.T, "lm_head.bias": model.b_U}
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def config_of(cfg: ModelConfig, **changes: Any) -> dict[str, Any]:
    """Its config.json."""
    config = {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": cfg.n_layers,
        "n_head": cfg.n_heads,
        "n_embd": cfg.d_model,
        "n_positions": cfg.n_ctx,
        "n_inner": cfg.d_mlp,
        "vocab_size": cfg.d_vocab,
        "tie_word_embeddings": cfg.tied,
        "reorder_and_upcast_attn": True,
    }
    return config | changes


def write_folder(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], n_shards: int = 1
) -> Path:
    """A folder in Hugging Face's format."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if n_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    files = [f"model-{i + 1:05}-of-{n_shards:05}.safetensors" for i in range(n_shards)]
    where = {name: files[i % n_shards] for i, name in enumerate(tensors)}
    for file in files:
        save_file({n: t for n, t in tensors.items() if where[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def nanogpt_checkpoint(
    model: HookedGPT2, *, wrapper: str = "_orig_mod.", bias: bool = True
) -> dict[str, Any]:
    """What nanoGPT's train.py would save: torch's linear layers, the mask as a buffer."""
    cfg = model.cfg
    tensors = released(model)
    tensors.pop("lm_head.bias", None)
    for name, tensor in tensors.items():
        if name.endswith(("attn.weight", "proj.weight", "fc.weight")):
            tensors[name] = tensor.T.contiguous()
    tensors.setdefault("lm_head.weight", tensors["transformer.wte.weight"])
    if not bias:
        tensors = {name: t for name, t in tensors.items() if not name.endswith(".bias")}
    for layer in range(cfg.n_layers):
        mask = torch.ones(cfg.n_ctx, cfg.n_ctx).tril().view(1, 1, cfg.n_ctx, cfg.n_ctx)
        tensors[f"transformer.h.{layer}.attn.bias"] = mask
    args = {"n_layer": cfg.n_layers, "n_head": cfg.n_heads, "n_embd": cfg.d_model}
    args |= {"block_size": cfg.n_ctx, "vocab_size": cfg.d_vocab, "bias": bias, "dropout": 0.0}
    return {
        "model": {wrapper + name: tensor for name, tensor in tensors.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        "model_args": args,
        "iter_num": 7,
        "config": {"out_dir": "out"},
    }
