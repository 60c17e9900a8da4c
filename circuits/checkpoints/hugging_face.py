"""Hugging Face's format: a folder with ``config.json`` and safetensors, or a model in memory.

Neither needs ``transformers``. The files are mapped into memory, not read: a tensor's bytes come
from the disk when the model first uses them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuits.checkpoints.layout import (
    HEAD,
    assemble,
    listed,
    released_name,
    released_names,
    require_names,
    resolve_device,
    same_numbers,
    under_released_names,
)
from circuits.checkpoints.settings import read_settings
from circuits.checkpoints.vocabulary import (
    folder_roles,
    object_tokenizer,
    read_tokenizer,
)
from circuits.config import ModelConfig
from circuits.errors import CheckpointError
from circuits.model import HookedGPT2
from circuits.tokenizer import Tokenizer, model_roles

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Formats that can run any code while they are read, or that only TensorFlow reads.
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
_EMBEDDING, _HEAD = "transformer.wte.weight", HEAD["unembed.W_U_untied"]


def load_folder(
    folder: str | Path,
    *,
    origin: str | None = None,
    name: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookedGPT2:
    """The model in this folder.

    Args:
        folder: with ``config.json``, ``model.safetensors`` (or shards and their index), and the
            vocabulary, without which the model takes token ids only.
        origin: kept as ``model.source``; by default the folder.
        name: kept as ``cfg.model_name``; by default the folder's name.
        device: where to put the weights; None means the CPU.
        dtype: in which precision; None means that of the file, half precision raised to float32.

    Raises:
        CheckpointError: when the folder holds no safe, complete, undamaged GPT-2.
    """
    folder = Path(folder)
    origin = origin or str(folder)
    config = read_config(folder)
    read_settings(config, origin)  # raises what is wrong with it, before a vocabulary is looked for
    tokenizer = read_tokenizer(folder, config, name)
    cfg = model_config(config, name or folder.resolve().name, origin, tokenizer)
    tensors = read_tensors(folder, device)
    model = assemble(
        cfg,
        rename(cfg, tensors, origin),
        origin=origin,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )
    if tokenizer is None:
        model.roles = folder_roles(folder)
    return model


def from_object(
    theirs: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookedGPT2:
    """The same model as this ``transformers.GPT2LMHeadModel``, with copies of its weights.

    Raises:
        CheckpointError: when its configuration changes GPT-2's mathematics.
    """
    config = theirs.config.to_dict()
    name = str(config.get("_name_or_path") or "gpt2")
    origin = f"transformers {type(theirs).__name__} {name}"
    generation = getattr(theirs, "generation_config", None)
    generation = generation.to_dict() if generation is not None else {}
    tokenizer = object_tokenizer(config, generation, [config.get("_name_or_path")])
    cfg = model_config(config, name, origin, tokenizer)
    tensors = {key: value.detach().clone() for key, value in theirs.state_dict().items()}
    model = assemble(
        cfg,
        rename(cfg, tensors, origin),
        origin=origin,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )
    if tokenizer is None:
        model.roles = model_roles(config, generation)
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of the folder's ``config.json``.

    Raises:
        CheckpointError: when it is missing or unreadable.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        others = listed(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise CheckpointError(f"{folder} is no checkpoint: it has no {CONFIG_FILE}, only {others}")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in this file.

    Raises:
        CheckpointError: when it cannot be read or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} should hold a JSON object, not a {type(data).__name__}")
    return data


def model_config(
    config: Mapping[str, Any], name: str, origin: str, tokenizer: Tokenizer | None = None
) -> ModelConfig:
    """The shape of the model that this ``config.json`` describes.

    `read_settings` says how its entries are read. Two of them are only this package's:
    ``head_dim``, for heads that do not divide the width, and ``default_prepend_bos``.

    Raises:
        CheckpointError: for another architecture, an option that changes GPT-2's mathematics, and
            entries that cannot be understood.
    """
    settings = read_settings(config, origin)
    has_bos = tokenizer is None or tokenizer.bos_id is not None
    return ModelConfig(
        n_layers=settings.n_layer,
        n_heads=settings.n_head,
        d_model=settings.n_embd,
        n_ctx=settings.n_positions,
        d_vocab=settings.vocab_size,
        d_head=settings.head_dim or 0,
        d_mlp=settings.n_inner or 0,
        eps=settings.layer_norm_epsilon,
        tied=settings.tie_word_embeddings,
        model_name=name,
        default_prepend_bos=config.get("default_prepend_bos", has_bos),
        act_fn="gelu" if settings.activation_function == "gelu" else "gelu_new",
    )


def has_weights(folder: Path) -> bool:
    """Whether all files of the weights are in this folder."""
    if (folder / WEIGHTS_FILE).is_file():
        return True
    index = folder / INDEX_FILE
    return index.is_file() and all((folder / shard).is_file() for shard in _shards(index))


def read_tensors(folder: Path, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """The tensors in this folder's safetensors: mapped on the CPU, read on a GPU.

    Raises:
        CheckpointError: when there are none, or a file is damaged, or only unsafe ones are there.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return _read_file(folder / WEIGHTS_FILE, device)
    index = folder / INDEX_FILE
    if not index.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}{_unsafe_hint(folder)}")
    tensors: dict[str, Tensor] = {}
    for shard in _shards(index):
        tensors |= _read_file(folder / shard, device)
    listing = read_json(index)["weight_map"]
    missing = [name for name in listing if released_name(name) and name not in tensors]
    if missing:
        raise CheckpointError(f"the shards that {index} lists lack {listed(missing)}")
    return tensors


def _shards(index: Path) -> list[str]:
    listing = read_json(index).get("weight_map")
    if not isinstance(listing, dict) or not listing:
        raise CheckpointError(f"{index} lists no shards under 'weight_map'")
    shards = sorted({str(shard) for shard in listing.values()})
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        raise CheckpointError(f"{index} points outside its own folder: {listed(outside)}")
    return shards


def _read_file(path: Path, device: str | torch.device | None) -> dict[str, Tensor]:
    place = str(resolve_device(device) or "cpu")
    try:
        with safe_open(path, framework="pt", device=place) as file:
            return {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 (it is no mapping)
                if released_name(name)
            }
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        hint = "copy or download it again"
        if 0 < size < 1000 and path.read_bytes().startswith(b"version https://git-lfs"):
            hint = "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
        raise CheckpointError(
            f"{path} ({size} bytes) is truncated or no safetensors file ({error}): {hint}"
        ) from None


def _unsafe_hint(folder: Path) -> str:
    unsafe = sorted(p.name for p in folder.iterdir() if p.suffix in UNSAFE)
    if not unsafe:
        return ""
    return (
        f", only {listed(unsafe)}, which may run code when read and is refused; convert it where "
        "you trust it: transformers' GPT2LMHeadModel.from_pretrained(folder)"
        ".save_pretrained(folder) writes safetensors"
    )


def rename(cfg: ModelConfig, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """These released tensors under this package's names.

    The names may be wrapped, or lack ``transformer.``. Of two tied tensors one is enough:
    ``safetensors.torch.save_model`` keeps only the head, whose name comes first.

    Raises:
        CheckpointError: for missing and left-over tensors, and a head that is not tied as declared.
    """
    theirs = under_released_names(tensors, origin)
    W_E, head = theirs.get(_EMBEDDING), theirs.get(_HEAD)
    if cfg.tied and head is not None:
        if W_E is not None and not same_numbers(head, W_E):
            raise CheckpointError(
                f"{origin} ties the unembedding to the token embedding, but its lm_head.weight "
                "differs from wte.weight; set 'tie_word_embeddings': false to use both"
            )
        theirs.setdefault(_EMBEDDING, theirs.pop(_HEAD))
    if not cfg.tied and head is not None and HEAD["unembed.b_U"] not in theirs:
        theirs[HEAD["unembed.b_U"]] = head.new_zeros(cfg.d_vocab)
    names = released_names(cfg)
    require_names(theirs.keys(), names.values(), origin)
    ours = {name: theirs[released] for name, released in names.items()}
    if not cfg.tied:
        ours["unembed.W_U_untied"] = ours["unembed.W_U_untied"].transpose(0, -1)
    return ours
