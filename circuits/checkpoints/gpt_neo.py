"""GPT-Neo's format: a GPT-2 with three switches, under other names.

Scores are not divided by the root of d_head, queries, keys and values have no biases, and every
other layer (as ``attention_types`` says) sees the last `window_size` tokens only. Both directions
are here: what a checkpoint says in the words of GPT-2's, and a model's tensors in its own.

Source: Black et al. 2021 (GPT-Neo); ``transformers``' GPTNeoForCausalLM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from circuits.checkpoints.layout import listed
from circuits.config import ModelConfig
from circuits.errors import CheckpointError

KIND = "gpt_neo"  # its ``model_type``
# Its names of settings, GPT-2's, and what it takes for those that are absent.
_SETTINGS: dict[str, tuple[str, Any]] = {
    "num_layers": ("n_layer", 24),
    "num_heads": ("n_head", 16),
    "hidden_size": ("n_embd", 2048),
    "max_position_embeddings": ("n_positions", 2048),
    "intermediate_size": ("n_inner", None),
    "vocab_size": ("vocab_size", 50257),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "activation_function": ("activation_function", "gelu_new"),
    "tie_word_embeddings": ("tie_word_embeddings", True),
}
_WINDOW = 256
_QKV = re.compile(r"(.*\.attn)\.attention\.([qkv])_proj\.weight")
_LINEAR = ("mlp.c_fc.weight", "mlp.c_proj.weight", "out_proj.weight")  # stored as [out, in]


def as_gpt2_config(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """What this ``config.json`` says, in GPT-2's words and this package's two for the windows.

    Raises:
        CheckpointError: for kinds of attention that are not "global" or "local", or too few.
    """
    said = {ours: config.get(theirs, default) for theirs, (ours, default) in _SETTINGS.items()}
    types = config.get("attention_layers")
    if type(said["n_layer"]) is not int:  # which `read_settings` will say
        types = []
    elif types is None:
        patterns = config.get("attention_types", [[["global", "local"], said["n_layer"] // 2]])
        try:
            types = [kind for pattern, times in patterns for _ in range(times) for kind in pattern]
        except (TypeError, ValueError):
            types = [patterns]
    others = sorted({str(kind) for kind in types} - {"global", "local"})
    if others or (type(said["n_layer"]) is int and len(types) != said["n_layer"]):
        raise CheckpointError(
            f"{origin} says of {len(types)} layers what they attend to ({listed(others) or 'all'} "
            f"{'unknown' if others else 'known'}), and has {said['n_layer']}; attention_types "
            "lists 'global' or 'local' for each"
        )
    return said | {
        "model_type": "gpt2",
        "scale_attn_weights": False,
        "attn_types": types if "local" in types else None,
        "window_size": config.get("window_size", _WINDOW) if "local" in types else None,
    }


def as_gpt2_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-Neo's tensors under the names and in the layout of a released GPT-2's.

    A released GPT-2's own are returned as they are. Names of neither stay as they are, for the
    error that lists what is left over.
    """
    if not any(_QKV.fullmatch(name) for name in tensors):
        return dict(tensors)
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _QKV.fullmatch(name):
            if match[2] == "q":
                ours |= _joined(tensors, match[1])
            continue
        new = name.replace(".attn.attention.out_proj.", ".attn.c_proj.")
        ours[new] = tensor.T if name.endswith(_LINEAR) and tensor.ndim == 2 else tensor
    return ours


def _joined(tensors: Mapping[str, Tensor], attn: str) -> dict[str, Tensor]:
    """One matrix of queries, keys and values, and biases of zero; what is missing stays missing."""
    parts = [tensors.get(f"{attn}.attention.{letter}_proj.weight") for letter in "qkv"]
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        return {}
    joined = torch.cat([part.T for part in given], 1)
    return {f"{attn}.c_attn.weight": joined, f"{attn}.c_attn.bias": joined.new_zeros(len(joined.T))}


def require_gpt_neo(cfg: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Can this model be written as a GPT-Neo?

    Raises:
        CheckpointError: naming what GPT-Neo does not have.
    """
    faults = {
        "scores that are divided by the root of d_head": cfg.use_attn_scale,
        "or by the layer's number": cfg.scale_attn_by_inverse_layer_idx,
        "heads that do not divide the width": cfg.d_head * cfg.n_heads != cfg.d_model,
        "biases of queries, keys or values": any(
            bool(tensor.any()) for name, tensor in tensors.items() if name.endswith("c_attn.bias")
        ),
    }
    if wrong := [fault for fault, there in faults.items() if there]:
        raise CheckpointError(
            f"{cfg.model_name} has local attention and {' and '.join(wrong)}, which neither "
            "GPT-2's nor GPT-Neo's format can say"
        )


def as_gpt_neo_config(config: Mapping[str, Any], cfg: ModelConfig) -> dict[str, Any]:
    """GPT-2's ``config.json``, in GPT-Neo's words."""
    renamed = {ours: theirs for theirs, (ours, _) in _SETTINGS.items()}
    said = {renamed.get(name, name): value for name, value in config.items()}
    said.pop("scale_attn_weights", None)
    types = list(cfg.attn_types or ())
    return said | {
        "model_type": KIND,
        "architectures": ["GPTNeoForCausalLM"],
        "attention_types": [[types, 1]],
        "attention_layers": types,
        "window_size": cfg.window_size,
    }


def as_gpt_neo_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A GPT-2's tensors under GPT-Neo's names and in its layout."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("attn.c_attn.bias"):
            continue
        if name.endswith("attn.c_attn.weight"):
            attn = name.removesuffix(".c_attn.weight")
            for letter, part in zip("qkv", tensor.chunk(3, 1), strict=True):
                theirs[f"{attn}.attention.{letter}_proj.weight"] = part.T.contiguous()
            continue
        new = name.replace(".attn.c_proj.", ".attn.attention.out_proj.")
        theirs[new] = tensor.T.contiguous() if new.endswith(_LINEAR) else tensor
    return theirs
