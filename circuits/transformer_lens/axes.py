"""Small functions of tensors' axes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from circuits.factored import FactoredMatrix


def get_corner(tensor: Any, n: int = 3) -> Any:
    """The first n entries along every axis."""
    return (
        tensor.get_corner(n)
        if isinstance(tensor, FactoredMatrix)
        else tensor[(slice(n),) * tensor.ndim]
    )


def remove_batch_dim(tensor: Tensor) -> Tensor:
    """The tensor without its first axis, if that has length 1."""
    return tensor.squeeze(0) if tensor.shape[0] == 1 else tensor


def transpose(tensor: Tensor) -> Tensor:
    """The tensor with its last two axes swapped."""
    return tensor.mT


def is_square(x: Tensor) -> bool:
    """Whether this is a square matrix."""
    return x.ndim == 2 and x.shape[0] == x.shape[1]


def is_lower_triangular(x: Tensor) -> bool:
    """Whether this is a square matrix with nothing above the diagonal."""
    return is_square(x) and bool(x.equal(x.tril()))


def get_offset_position_ids(past_kv_pos_offset: int, attention_mask: Tensor) -> Tensor:
    """Each token's position among the real tokens of its prompt, after those of the past."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, past_kv_pos_offset:]


def get_cumsum_along_dim(tensor: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """The running sum along an axis, from its end if `reverse`."""
    return tensor.flip(dim).cumsum(dim).flip(dim) if reverse else tensor.cumsum(dim)


def repeat_along_head_dimension(tensor: Tensor, n_heads: int, clone_tensor: bool = True) -> Tensor:
    """[b p d] as [b p h d], the same for each head."""
    repeated = tensor.unsqueeze(-2).expand(*tensor.shape[:-1], n_heads, -1)
    return repeated.clone() if clone_tensor else repeated


def get_matrix_corner(matrix: FactoredMatrix, n: int = 3) -> Tensor:
    """The first n rows and columns of the product, of the first n along every other axis."""
    corner: Tensor = matrix.AB[(slice(n),) * matrix.ndim]
    return corner
