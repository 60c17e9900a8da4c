"""TensorFlow's checkpoints (TensorBundle), read without TensorFlow.

A file ``NAME.index`` says where each tensor stands in ``NAME.data-00000-of-00001``: it is a table
of LevelDB, whose values are protocol buffers. Of both formats only what such a checkpoint uses is
read here; everything else is an error that names it.

Source: tensorflow/core/util/tensor_bundle and leveldb/doc/table_format.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import torch
from torch import Tensor

from circuits.errors import CheckpointError, printed

_MAGIC = 0xDB4775248B80FB57  # the last eight bytes of a table
_FOOTER, _TRAILER = 48, 5
_SNAPPY = 1
_MASK_DELTA = 0xA282EAD8
_DTYPES = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}
_UNSUPPORTED = {3: "int32", 7: "string", 9: "int64", 10: "bool"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how a field of a protocol buffer is written


class _Span(NamedTuple):
    """A block of the table: where it begins, and how long it is."""

    offset: int
    size: int


@dataclass(frozen=True)
class _Entry:
    """Where a tensor stands: `crc` is the masked CRC32C of its bytes."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    sliced: bool = False


def read_bundle(prefix: Path) -> dict[str, Tensor]:
    """The tensors of the checkpoint ``prefix.index`` and ``prefix.data-…`` by their names.

    Every block of the index and every tensor is compared with the CRC32C that stands beside it.

    Raises:
        CheckpointError: for files that are missing, damaged or truncated, and for what no
            checkpoint of a GPT-2 needs: several shards, sliced tensors, compressed blocks.
    """
    index = prefix.with_name(prefix.name + ".index")
    data = prefix.with_name(prefix.name + ".data-00000-of-00001")
    for path in (index, data):
        if not path.is_file():
            raise CheckpointError(f"{prefix.parent} lacks {path.name}, half of its checkpoint")
    try:
        table = dict(_table(index.read_bytes(), index))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise _damaged(index, f"its table cannot be read ({error})") from error
    _check_header(table.pop("", b""), index)
    entries = {name: _entry(value, index) for name, value in table.items()}
    with data.open("rb") as file:
        return {name: _tensor(printed(name), entry, file, data) for name, entry in entries.items()}


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {how}; copy or download it again")


def _unmasked(stored: int) -> int:
    """The CRC that a stored one stands for: LevelDB stores it turned and shifted."""
    turned = (stored - _MASK_DELTA) & 0xFFFFFFFF
    return ((turned >> 17) | (turned << 15)) & 0xFFFFFFFF


def _table(content: bytes, path: Path) -> Iterator[tuple[str, bytes]]:
    """The entries of a table: a block of blocks, found by the footer."""
    if len(content) < _FOOTER or struct.unpack("<Q", content[-8:])[0] != _MAGIC:
        raise _damaged(path, "it does not end as an index of TensorFlow does")
    footer, at = content[-_FOOTER:], 0
    _, at = _span(footer, at)  # of statistics, which are not needed
    blocks, _ = _span(footer, at)
    for _, value in _block(content, blocks, path):
        span, _ = _span(value, 0)
        for key, entry in _block(content, span, path):
            yield key.decode(), entry


def _block(content: bytes, span: _Span, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block, each key without the part it shares with the last one."""
    end = span.offset + span.size
    block, trailer = content[span.offset : end], content[end : end + _TRAILER]
    if len(trailer) < _TRAILER:
        raise _damaged(path, "a block lies beyond its end")
    kind, stored = struct.unpack("<BI", trailer)
    if _unmasked(stored) != google_crc32c.value(block + trailer[:1]):
        raise _damaged(path, "a block differs from its checksum")
    if kind:
        how = "Snappy" if kind == _SNAPPY else f"method {kind}"
        raise CheckpointError(f"{path} is compressed by {how}, which TensorFlow's savers do not do")
    (n_restarts,) = struct.unpack("<I", block[-4:])
    stop, at, key = len(block) - 4 * (n_restarts + 1), 0, b""
    while at < stop:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + size]
        at += own + size


def _span(content: bytes, at: int) -> tuple[_Span, int]:
    offset, at = _varint(content, at)
    size, at = _varint(content, at)
    return _Span(offset, size), at


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place behind it."""
    number, shift = 0, 0
    while True:
        byte = content[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: their numbers and values."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
            value, at = int.from_bytes(message[at : at + size], "little"), at + size
        elif kind == _BYTES:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise IndexError(f"a field of kind {kind}")
        yield tag >> 3, value


def _check_header(message: bytes, path: Path) -> None:
    fields = dict(_fields(message))
    if fields.get(1) != 1:
        raise CheckpointError(
            f"{path} lists {fields.get(1, 'no')} shards; only checkpoints of one can be read"
        )
    if fields.get(2, 0):
        raise CheckpointError(f"{path} was written big-endian, which cannot be read")


def _entry(message: bytes, path: Path) -> _Entry:
    """What the index says of one tensor."""
    names = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "crc"}
    numbers: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    sliced = False
    for number, value in _fields(message):
        if number in names and isinstance(value, int):
            numbers[names[number]] = value
        elif number == 2 and isinstance(value, bytes):
            shape = _shape(value)
        elif number == 7:
            sliced = True
    return _Entry(shape=shape, sliced=sliced, **numbers)


def _shape(message: bytes) -> tuple[int, ...]:
    dims = (value for number, value in _fields(message) if number == 2 and isinstance(value, bytes))
    sizes = (dict(_fields(dim)).get(1, 0) for dim in dims)
    return tuple(int(size) for size in sizes if isinstance(size, int))


def _tensor(name: str, entry: _Entry, file: BinaryIO, path: Path) -> Tensor:
    """One tensor, copied from the data file once its checksum is right; `name` is for messages."""
    if entry.sliced:
        raise CheckpointError(f"{path} holds {name} in slices, which cannot be read")
    if entry.dtype not in _DTYPES:
        kind = _UNSUPPORTED.get(entry.dtype, f"TensorFlow's type {entry.dtype}")
        raise CheckpointError(f"{path} holds {name} as {kind}; weights are floating-point numbers")
    dtype = _DTYPES[entry.dtype]
    n_bytes = math.prod(entry.shape) * dtype.itemsize
    if n_bytes != entry.size:
        raise _damaged(
            path, f"{name} {list(entry.shape)} should take {n_bytes} bytes, not {entry.size}"
        )
    if entry.shard:
        raise _damaged(path, f"{name} is said to be in another file")
    file.seek(entry.offset)
    content = file.read(entry.size)
    if len(content) < entry.size:
        raise _damaged(path, f"{name} lies beyond its end")
    if google_crc32c.value(content) != _unmasked(entry.crc):
        raise _damaged(path, f"{name} differs from its checksum")
    if not content:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(entry.shape)
