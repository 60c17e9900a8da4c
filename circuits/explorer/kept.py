"""What was computed of recent views, kept while the weights stay as they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from circuits.model import HookedModel

Value = TypeVar("Value")
Version = tuple[tuple[int, int, float], ...]
_SAMPLED = 256  # numbers of each weight that are looked at


class Kept:
    """Values by key, the least recently used of which go when they take too many bytes.

    >>> kept = Kept(1000)
    >>> kept.get("a", lambda: 1), kept.get("a", lambda: 2)
    (1, 1)
    """

    def __init__(self, n_bytes: int) -> None:
        self.most = n_bytes
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.version: Version = ()

    @property
    def bytes(self) -> int:
        """How many bytes the tensors and arrays take that are kept."""
        return sum(size for _, size in self._values.values())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of this key, made if it is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            return cast(Value, self._values[key][0])
        value = make()
        self._values[key] = value, sum(_sizes(value))
        while self.bytes > self.most and len(self._values) > 1:
            self._values.popitem(last=False)
        return value

    def of(self, version: Version) -> None:
        """Forget everything, if the weights are no longer those of this version."""
        if version != self.version:
            self._values.clear()
            self.version = version


def weights_version(model: HookedModel) -> Version:
    """Something that differs when weights were changed in place or exchanged.

    For each weight where it lies, how often it was written to, and the sum of some of its numbers:
    what is written by way of ``.data`` is not counted by torch.
    """
    with torch.no_grad():
        return tuple(_weight_version(weight) for weight in model.parameters())


def _weight_version(weight: Tensor) -> tuple[int, int, float]:
    flat = weight.detach().view(-1) if weight.is_contiguous() else weight.detach().flatten()
    step = max(1, len(flat) // _SAMPLED)
    # Where a weight was made in inference mode, nobody counts.
    count = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), count, float(flat[::step].double().sum())


def _sizes(value: object) -> Iterator[int]:
    """The bytes of all tensors and arrays in a value."""
    if isinstance(value, Tensor):
        yield value.numel() * value.element_size()
    elif isinstance(value, np.ndarray):
        yield value.nbytes
    elif isinstance(value, dict):
        for each in value.values():
            yield from _sizes(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _sizes(each)
    elif hasattr(value, "__dict__"):
        yield from _sizes(dict(vars(value)))
