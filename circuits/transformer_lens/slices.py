"""`Slice`: which entries along an axis, with a number that takes the axis away."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import CircuitsError

SliceInput = Any  # a number, a tuple of slice's arguments, a list or tensor of indices, or None


class Slice:
    """Entries along an axis: a number, a slice or its arguments, indices, or None for all.

    >>> import torch
    >>> Slice((1, 3)).apply(torch.arange(5)).tolist(), Slice(2).apply(torch.arange(5)).item()
    ([1, 2], 2)
    """

    def __init__(self, input_slice: SliceInput = None) -> None:
        self.slice: Any = input_slice
        if isinstance(input_slice, tuple):
            self.slice, self.mode = slice(*input_slice), "slice"
        elif isinstance(input_slice, slice):
            self.mode = "slice"
        elif isinstance(input_slice, int):
            self.mode = "int"
        elif input_slice is None:
            self.slice, self.mode = slice(None), "identity"
        elif isinstance(input_slice, list | np.ndarray | Tensor):
            array = input_slice.detach().cpu() if isinstance(input_slice, Tensor) else input_slice
            self.slice, self.mode = np.array(array), "array"
        else:
            raise CircuitsError(
                f"{input_slice!r} is no slice; give a number, a tuple, a list or tensor, or None"
            )

    def apply(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The part of a tensor along this axis."""
        index: list[Any] = [slice(None)] * tensor.ndim
        index[dim] = self.slice
        return tensor[tuple(index)]

    def indices(self, max_ctx: int | None = None) -> NDArray[np.int64]:
        """Which indices these are on an axis of length `max_ctx`."""
        if self.mode == "int":
            return np.array([self.slice], dtype=np.int64)
        if max_ctx is None:
            raise CircuitsError("a slice's indices depend on the axis; give its length, max_ctx")
        chosen: NDArray[np.int64] = np.arange(max_ctx, dtype=np.int64)[self.slice]
        return chosen

    @classmethod
    def unwrap(cls, slice_input: SliceInput) -> Slice:
        """This as a `Slice` that keeps the axis, also for a number."""
        if isinstance(slice_input, Slice):
            return slice_input
        return cls([slice_input] if isinstance(slice_input, int) else slice_input)

    def __repr__(self) -> str:
        return f"Slice: {self.slice} Mode: {self.mode}"
