"""How much memory may be used, and how much something uses, measured by running it."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from circuits.errors import CircuitsError

if TYPE_CHECKING:
    from circuits.model import HookedModel

T = TypeVar("T")

# By how many times the bytes of its tensors a process grows at most: freed memory lies in pieces
# that cannot all be used again. Measured from a process that has given back what it does not use:
# up to 1.9 times, and 5 MB.
PIECES = 2.5
# What passes of the whole model may use of that: they leave more in pieces, up to 3 times.
PASSES = 0.6
_LEAST = 2**20  # bytes for anything to be computed
# Bytes of tensors beside which there is room for what oneDNN keeps: the code that it compiles for
# each number of rows and each matrix, 0.6 MB, of which 1024 are kept.
_FOR_ONEDNN = 400 * 2**20
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
    1638

    Raises:
        CircuitsError: for a bound that is too small for that.
    """
    if memory is None:
        return max(default, least)
    budget = int(parse_bytes(memory) / PIECES)
    if budget < least:
        given = f"{memory} bytes" if isinstance(memory, int) else memory
        raise CircuitsError(
            f"memory={given} is too little: {what} {math.ceil(PIECES * least)} bytes besides the "
            "weights; give at least that, or shorter prompts"
        )
    return budget


def lets_onednn(budget: int) -> bool:
    """Whether a bound that lets so many bytes of tensors has room for what oneDNN keeps."""
    return budget >= _FOR_ONEDNN


def within(model: HookedModel, memory: int | str | None) -> AbstractContextManager[None]:
    """A block in which the model multiplies without oneDNN, if `memory` leaves no room for it."""
    if memory is None or lets_onednn(int(parse_bytes(memory) / PIECES)):
        return nullcontext()
    return model.backend.using(onednn=False)


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


def at_once(
    memory: int | str | None, most: int, run_one: Callable[[], object], what: str, kept: int = 0
) -> int:
    """How many, at most `most`, may be computed together, if `run_one` does so with a single one?

    `kept` bytes of tensors are there besides. Without a bound it is `most`, and nothing is run.
    `what` says what takes the bytes of a single one.

    >>> at_once("12K", 9, lambda: torch.zeros(250), "a prompt takes")
    2

    Raises:
        CircuitsError: for a bound that is too small for a single one.
    """
    if memory is None:
        return most
    each = int(peak_bytes(run_one) / PASSES) + 1
    budget = tensor_bytes(memory, 0, kept + each, what)
    return min(most, (budget - kept) // each)


def in_pieces(
    memory: int | str | None, n: int, ask: Callable[[slice], T], what: str
) -> Iterator[T]:
    """The answers of `ask` about n rows, some after others, as many at once as the memory lets.

    `what` says what takes the bytes of a single one.

    >>> def ask(rows):
    ...     return len(torch.zeros(250 * (rows.stop - rows.start)))
    >>> list(in_pieces("12K", 7, ask, "a row takes"))
    [500, 500, 500, 250]

    Raises:
        CircuitsError: for a bound that is too small for a single one.
    """
    step = at_once(memory, n, lambda: ask(slice(0, 1)), what)
    for first in range(0, n, step):
        yield ask(slice(first, min(first + step, n)))


def left(memory: int | str | None, taken: int, what: str) -> int | str | None:
    """What is left of a bound, if `what` takes so many bytes of it, whatever else is done.

    >>> left("1K", 24, "all rows"), left(None, 24, "all rows")
    (1000, None)

    Raises:
        CircuitsError: where nothing is left.
    """
    if memory is None:
        return None
    rest = parse_bytes(memory) - taken
    if rest < 1:
        raise CircuitsError(
            f"memory={memory} is too little: {what} take {taken + _LEAST} bytes, with a little for "
            "what is computed; give at least that"
        )
    return rest
