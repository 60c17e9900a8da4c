"""The files of a folder that hold weights: safetensors, or what torch has pickled.

Safetensors are mapped into memory: a tensor's bytes come from the disk when they are first used. A
pickled file is read with ``weights_only=True``, which builds tensors and plain containers and runs
no code; a file that needs more is refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuits.checkpoints.layout import listed, released_name, resolve_device
from circuits.errors import CheckpointError, printed

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
# In the order in which they are looked for: one file, or the shards that an index lists.
FILES = (SAFE, f"{SAFE}.index.json", PICKLED, f"{PICKLED}.index.json", "model_final.pth")
# Shards as transformers names them: files to download.
SHARDS = {SAFE: ("model-*-of-*.safetensors",), PICKLED: ("pytorch_model-*-of-*.bin",)}
# Endings of files of tensors, whatever their names, and of other formats of weights that a folder
# may hold, which only TensorFlow or JAX read.
READABLE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
OTHERS = (".h5", ".msgpack", ".onnx", ".gguf", ".pkl", ".pickle")
_INDEX = ".index.json"
# How torch names what a pickled file wants to call or build beyond tensors.
_CALLED = re.compile(r"GLOBAL ([\w.]+)|Unsupported (?:class|global) ([\w.]+)")


def weights_in(folder: Path) -> Path | None:
    """The file of this folder's weights, or the index of its shards; None if any is not there."""
    for name in FILES:
        path = folder / name
        if path.is_file():
            whole = name.removesuffix(_INDEX) == name or all(
                (folder / shard).is_file() for shard in _shards(path)
            )
            return path if whole else None
    return None


def read_tensors(folder: Path, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """The tensors of this folder under the names they have there, without causal masks.

    Raises:
        CheckpointError: when there are none, or a file is damaged, or holds more than tensors.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has no {SAFE} or {PICKLED}{_other_formats(folder)}")
    if not path.name.endswith(_INDEX):
        return read_file(path, device)
    tensors: dict[str, Tensor] = {}
    for shard in _shards(path):
        tensors |= read_file(folder / shard, device)
    listing = read_json(path)["weight_map"]
    missing = [name for name in listing if released_name(name) and name not in tensors]
    if missing:
        raise CheckpointError(f"the shards that {path} lists lack {listed(missing)}")
    return tensors


def read_pickled(path: Path) -> Mapping[str, Any]:
    """What torch has saved in this file: a dictionary of tensors and plain values.

    Raises:
        CheckpointError: when it is damaged, or needs more than these.
    """
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises its own, the zip reader's and the unpickler's errors
        if wanted := _CALLED.search(str(error)):
            raise CheckpointError(
                f"{_named(path)} needs {printed(wanted[1] or wanted[2])}, which may run code when "
                "read and "
                "is refused; where you trust it, save its tensors alone, with torch.save or as "
                "safetensors"
            ) from error
        raise CheckpointError(
            f"{_named(path)} is truncated, or nothing that torch has saved: {_hint(path)}"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return {str(name): value for name, value in content.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in this file.

    Raises:
        CheckpointError: when it cannot be read or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} should hold a JSON object, not a {type(data).__name__}")
    return data


def _shards(index: Path) -> list[str]:
    """The files that an index lists."""
    listing = read_json(index).get("weight_map")
    if not isinstance(listing, dict) or not listing:
        raise CheckpointError(f"{index} lists no shards under 'weight_map'")
    shards = sorted({str(shard) for shard in listing.values()})
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        raise CheckpointError(f"{index} points outside its own folder: {listed(outside)}")
    return shards


def read_file(path: Path, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """The tensors in one file, mapped on the CPU; safetensors are read onto a GPU.

    Raises:
        CheckpointError: when it is damaged, or holds more than tensors.
    """
    if path.suffix != ".safetensors":
        content = read_pickled(path)
        others = [name for name, value in content.items() if not isinstance(value, Tensor)]
        if others:
            raise CheckpointError(f"{path} holds more than tensors: {listed(others)}")
        return {name: value for name, value in content.items() if released_name(name)}
    place = str(resolve_device(device) or "cpu")
    try:
        with safe_open(path, framework="pt", device=place) as file:
            return {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 (it is no mapping)
                if released_name(name)
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{_named(path)} is truncated or no safetensors file ({printed(str(error))}): "
            f"{_hint(path)}"
        ) from None


def _named(path: Path) -> str:
    """The file and its size, for a message."""
    return f"{path} ({path.stat().st_size if path.is_file() else 0} bytes)"


def _hint(path: Path) -> str:
    """What to do about a file that cannot be read."""
    is_small = path.is_file() and 0 < path.stat().st_size < 1000
    if is_small and path.read_bytes().startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    return "copy or download it again"


def _other_formats(folder: Path) -> str:
    """What a folder without readable weights holds instead, for a message."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (*READABLE, *OTHERS))
    if readable := [path.name for path in files if path.suffix in READABLE]:
        return f", only {listed(readable)}; if that holds the weights, give the file itself"
    others = [path.name for path in files]
    if not others:
        return ""
    return (
        f", only {listed(others)}, of formats that are not read here; convert it: transformers' "
        "GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder) writes safetensors"
    )
