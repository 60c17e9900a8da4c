"""Writes checkpoints as TensorFlow's saver does: a table of LevelDB and a file of raw numbers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from torch import Tensor

from circuits.architectures import HookedGPT2

DTYPES = {torch.float32: 1, torch.float64: 2, torch.bfloat16: 14, torch.float16: 19}
MAGIC = 0xDB4775248B80FB57
PER_BLOCK = 5  # entries; TensorFlow's blocks are of 256 KiB, LevelDB's of 4
RESTART = 2


def masked(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def header(shards: int = 1, big_endian: int = 0) -> bytes:
    return field(1, shards) + (field(2, 1) if big_endian else b"") + field(3, field(1, 1))


def entry(tensor: Tensor, offset: int, content: bytes) -> bytes:
    shape = b"".join(field(2, field(1, size)) for size in tensor.shape)
    message = field(1, DTYPES[tensor.dtype]) + field(2, shape)
    message += field(4, offset) if offset else b""
    return (
        message + field(5, len(content)) + varint(6 << 3 | 5) + struct.pack("<I", masked(content))
    )


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % RESTART:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += (
            varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        )
        last = key
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: Mapping[str, bytes]) -> bytes:
    out, index = b"", []

    def add(content: bytes, kind: bytes = b"\0") -> bytes:
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        out += content + kind + struct.pack("<I", masked(content + kind))
        return handle

    ordered = sorted((key.encode(), value) for key, value in entries.items())
    for first in range(0, len(ordered), PER_BLOCK):
        part = ordered[first : first + PER_BLOCK]
        index.append((part[-1][0], add(block(part))))
    handles = add(block([])) + add(block(index))
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def write_bundle(prefix: Path, tensors: Mapping[str, Tensor], head: bytes | None = None) -> None:
    data, entries = b"", {"": header() if head is None else head}
    for name, tensor in sorted(tensors.items()):
        content = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
        entries[name] = entry(tensor, len(data), content)
        data += content
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries))
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def release(model: HookedGPT2) -> dict[str, Tensor]:
    """The model's weights under the names and in the shapes of OpenAI's graph."""
    weights = {"model/wte": model.W_E, "model/wpe": model.W_pos}
    weights |= {"model/ln_f/g": model.ln_final.w, "model/ln_f/b": model.ln_final.b}
    for layer, at in enumerate(model.blocks):
        own = {
            "ln_1/g": at.ln1.w,
            "ln_1/b": at.ln1.b,
            "attn/c_attn/w": at.attn.W_QKV[None],
            "attn/c_attn/b": at.attn.b_QKV,
            "attn/c_proj/w": at.attn.W_O_flat[None],
            "attn/c_proj/b": at.attn.b_O,
            "ln_2/g": at.ln2.w,
            "ln_2/b": at.ln2.b,
            "mlp/c_fc/w": at.mlp.W_in[None],
            "mlp/c_fc/b": at.mlp.b_in,
            "mlp/c_proj/w": at.mlp.W_out[None],
            "mlp/c_proj/b": at.mlp.b_out,
        }
        weights |= {f"model/h{layer}/{name}": weight for name, weight in own.items()}
    return {name: weight.detach().float() for name, weight in weights.items()}


def write_release(folder: Path, model: HookedGPT2, **more: Any) -> Path:
    """A folder as OpenAI's download script leaves it, without the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = model.cfg
    sizes = {
        "n_vocab": cfg.d_vocab,
        "n_ctx": cfg.n_ctx,
        "n_embd": cfg.d_model,
        "n_head": cfg.n_heads,
        "n_layer": cfg.n_layers,
    }
    (folder / "hparams.json").write_text(json.dumps(sizes | more))
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )
    (folder / "model.ckpt.meta").write_bytes(b"a graph, which is not read")
    write_bundle(folder / "model.ckpt", release(model))
    return folder
