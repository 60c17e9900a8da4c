"""Products of streams with weights, and weights that are another's for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circuits.errors import CircuitsError


def vanilla_addmm(input: Tensor, mat1: Tensor, mat2: Tensor) -> Tensor:
    """input + mat1 mat2, of two matrices."""
    return torch.addmm(input, mat1, mat2)


def batch_addmm(bias: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """x weight + bias: [.. d_out] of [.. d_in], with the weight [d_in d_out]."""
    flat = vanilla_addmm(bias, x.reshape(-1, x.shape[-1]), weight)
    return flat.view(*x.shape[:-1], weight.shape[-1])


def simple_attn_linear(input: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Queries, keys or values [b p h e] of a stream [b p d]: w is [h d e], b [h e]."""
    flat = F.linear(input, w.permute(0, 2, 1).flatten(0, 1), b.flatten())
    return flat.view(*input.shape[:-1], *b.shape)


def complex_attn_linear(input: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The same of a stream for each head [b p h d]."""
    return torch.einsum("bphd,hde->bphe", input, w) + b


@contextmanager
def temporarily_swap_parameter(
    parameter: nn.Parameter, new_value: Tensor
) -> Iterator[nn.Parameter]:
    """The parameter with these values inside of the ``with`` block.

    Raises:
        CircuitsError: for values of another shape or dtype.
    """
    old = parameter.detach().clone()
    if new_value.shape != old.shape or new_value.dtype != old.dtype:
        raise CircuitsError(
            f"the values are {tuple(new_value.shape)} of {new_value.dtype}, the parameter "
            f"{tuple(old.shape)} of {old.dtype}; both have to be the same"
        )
    try:
        parameter.data.copy_(new_value)
        yield parameter
    finally:
        parameter.data.copy_(old)
