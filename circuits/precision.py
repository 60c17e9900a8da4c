"""Half precision is for weights and activations; what is summed over many of them needs more."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The same numbers in float32 at least: before a sum or a mean is taken, or parts are added up.

    float16 ends at 65,504, which the sum of a few hundred activations may exceed, and bfloat16 has
    three digits, so that a sum of 300 moves in steps of 2. Nothing is copied that is wide already.

    >>> halves = torch.full([3], 40000.0, dtype=torch.float16)
    >>> halves.sum().item(), wide(halves).sum().item()
    (inf, 120000.0)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
