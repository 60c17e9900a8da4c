"""How much memory may be used, and how much something uses, measured by running it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from circuits.errors import CircuitsError

# By how many times the bytes of its tensors a process grows at most: freed memory lies in pieces
# that cannot all be used again, and products have workspace of their own. Measured: up to 1.6.
PIECES = 2
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_bytes(size: int | str) -> int:
    """How many bytes are meant?

    >>> parse_bytes("4G"), parse_bytes("512 MiB"), parse_bytes(1000)
    (4294967296, 536870912, 1000)

    Raises:
        CircuitsError: for anything but a positive number with K, M, G or T.
    """
    match = _SIZE.fullmatch(str(size).strip())
    n_bytes = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if n_bytes < 1:
        raise CircuitsError(f"memory={size!r} is no amount of memory; write 4G, 500M or bytes")
    return n_bytes


def tensor_bytes(memory: int | str | None, default: int, least: int, what: str) -> int:
    """How many bytes of tensors may be alive at once, if a process may grow by `memory`?

    Without a bound it is the `default`. `what` says what takes at least `least` bytes.

    >>> tensor_bytes("4K", 10, 1000, "a prompt takes")
    2048

    Raises:
        CircuitsError: for a bound that is too small for that.
    """
    if memory is None:
        return max(default, least)
    budget = parse_bytes(memory) // PIECES
    if budget < least:
        given = f"{memory} bytes" if isinstance(memory, int) else memory
        raise CircuitsError(
            f"memory={given} is too little: {what} {PIECES * least} bytes besides the weights; "
            "give at least that, or shorter prompts"
        )
    return budget


class _Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, on any device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler for it, which takes a second and more

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage_id(leaf) for leaf in tree_leaves((args, kwargs)) if _counts(leaf)}
        for leaf in tree_leaves(out):
            if _counts(leaf) and _storage_id(leaf) not in self._seen | given:
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = _storage_id(tensor), storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def _counts(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def peak_bytes(function: Callable[[], object]) -> int:
    """How many bytes of new tensors are alive at once while this runs?

    Workspace inside torch's own kernels is not seen.

    >>> peak_bytes(lambda: torch.zeros(1000) + torch.zeros(1000))
    12000
    """
    with _Allocations() as allocations:
        function()
    n_bytes: int = allocations.peak
    return n_bytes
