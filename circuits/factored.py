"""A matrix of low rank as the product of its two thin factors, never multiplied out.

A head's circuits are such matrices: W_V W_O and W_Q W_K^T are [d_model, d_model] of rank d_head,
and from token to token, [d_vocab, d_vocab]. Norm, eigenvalues and singular vectors need only the
factors. Names and results are those of TransformerLens' ``FactoredMatrix``.

Shapes: l left, m middle, r right dimension; "lead" any leading axes, say layer and head.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from circuits.errors import CircuitsError


class FactoredMatrix:
    """The matrix A B, or one for each place of the leading axes.

    `A` is [... l m] and `B` [... m r]; leading axes are broadcast. The factors are kept as they
    are, not copied; singular vectors are computed once.

    Raises:
        CircuitsError: when the factors do not fit together.

    >>> A, B = torch.randn(12, 300, 4), torch.randn(4, 500)
    >>> product = FactoredMatrix(A, B)
    >>> product
    FactoredMatrix(shape=(12, 300, 500), mdim=4)
    >>> product.S.shape, (product @ torch.randn(500, 7)).shape, product[3, :2].shape
    (torch.Size([12, 4]), torch.Size([12, 300, 7]), torch.Size([2, 500]))
    """

    def __init__(self, A: Float[Tensor, "*lead l m"], B: Float[Tensor, "*lead m r"]) -> None:
        if min(A.ndim, B.ndim) < 2 or A.shape[-1] != B.shape[-2]:
            raise CircuitsError(
                f"factors are [... l m] and [... m r]; given were {list(A.shape)} and "
                f"{list(B.shape)}"
            )
        self.ldim, self.mdim, self.rdim = A.shape[-2], A.shape[-1], B.shape[-1]
        try:
            lead = np.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        except ValueError as error:
            raise CircuitsError(
                f"the leading axes of {list(A.shape)} and {list(B.shape)} cannot be broadcast"
            ) from error
        self.A = A.broadcast_to((*lead, self.ldim, self.mdim))
        self.B = B.broadcast_to((*lead, self.mdim, self.rdim))
        self.shape = torch.Size((*lead, self.ldim, self.rdim))

    def __repr__(self) -> str:
        return f"FactoredMatrix(shape={tuple(self.shape)}, mdim={self.mdim})"

    @property
    def ndim(self) -> int:
        """How many axes it has, leading ones included."""
        return len(self.shape)

    @property
    def has_leading_dims(self) -> bool:
        """Whether it is more than one matrix."""
        return self.ndim > 2

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Both factors."""
        return self.A, self.B

    @property
    def AB(self) -> Float[Tensor, "*lead l r"]:
        """The matrix itself, which may be large."""
        return self.A @ self.B

    @property
    def BA(self) -> Float[Tensor, "*lead m m"]:
        """The factors the other way around: small, with the same eigenvalues except zeros.

        Raises:
            CircuitsError: when the matrix is not square.
        """
        if self.ldim != self.rdim:
            raise CircuitsError(f"BA belongs to a square matrix; this one is {list(self.shape)}")
        return self.B @ self.A

    @property
    def T(self) -> FactoredMatrix:
        """The transposed matrix; leading axes stay."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal bases [... l k] and [... r k'] of both sides, and what is between [... k k'].

        With A = Q R and B^T = Q' R', the matrix is Q (R R'^T) Q'^T.
        """
        wide = torch.promote_types(torch.float32, torch.promote_types(self.A.dtype, self.B.dtype))
        left, of_a = torch.linalg.qr(self.A.to(wide))
        right, of_b = torch.linalg.qr(self.B.to(wide).mT)
        return left, right, of_a @ of_b.mT

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        left, right, between = self._ends
        u, s, vh = torch.linalg.svd(between, full_matrices=False)
        return left @ u, s, right @ vh.mT

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U [... l k], S [... k] and V [... r k], with the matrix = U diag(S) V^T.

        k is the least of l, m and r; S is in falling order. In float32 at least.
        """
        return self._svd

    U = property(lambda self: self._svd[0], doc="[... l k], left singular vectors as columns")
    S = property(lambda self: self._svd[1], doc="[... k], singular values, largest first")
    V = property(lambda self: self._svd[2], doc="[... r k], right singular vectors as columns")
    Vh = property(lambda self: self._svd[2], doc="V itself: the name it had in TransformerLens")

    @property
    def eigenvalues(self) -> Complex[Tensor, "*lead m"]:
        """Those of B A, in no particular order: the matrix has these, and zeros.

        For if B A v = k v, then A B (A v) = k (A v).

        Raises:
            CircuitsError: when the matrix is not square.
        """
        small = self.BA
        wide = small.to(torch.promote_types(small.dtype, torch.float32))
        values: Tensor = torch.linalg.eigvals(wide)
        return values

    def norm(self) -> Float[Tensor, "*lead"]:
        """The Frobenius norm: the root of the sum of squares of all entries."""
        size: Tensor = torch.linalg.matrix_norm(self._ends[2])
        return size

    def make_even(self) -> FactoredMatrix:
        """The same matrix with equal shares in both factors: U S^1/2 and S^1/2 V^T."""
        root = self.S.sqrt()
        return FactoredMatrix(self.U * root[..., None, :], root[..., :, None] * self.V.mT)

    def collapse_l(self) -> Float[Tensor, "*lead k r"]:
        """S V^T: what is left of the matrix without the rotation on its left side."""
        _, S, V = self._svd
        return S[..., :, None] * V.mT

    def collapse_r(self) -> Float[Tensor, "*lead l k"]:
        """U S: what is left of the matrix without the rotation on its right side."""
        U, S, _ = self._svd
        return U * S[..., None, :]

    def get_corner(self, k: int = 3) -> Tensor:
        """The first `k` places along every axis, multiplied out."""
        lead = (slice(k),) * (self.ndim - 2)
        return self.A[lead][..., :k, :] @ self.B[lead][..., :k]

    def unsqueeze(self, k: int) -> FactoredMatrix:
        """The same with a new leading axis at `k`."""
        return FactoredMatrix(self.A.unsqueeze(k), self.B.unsqueeze(k))

    def __matmul__(self, other: FactoredMatrix | Tensor) -> Any:
        """The product with a matrix stays factored; with a vector [r] it is a vector [... l]."""
        if isinstance(other, FactoredMatrix):
            return (self @ other.A) @ other.B
        if not isinstance(other, Tensor):
            return NotImplemented
        _check_meet(self.rdim, other.shape[0 if other.ndim < 2 else -2], self.shape, other.shape)
        if other.ndim < 2:
            return (self.A @ (self.B @ other)[..., None])[..., 0]
        if self.rdim > self.mdim:
            return FactoredMatrix(self.A, self.B @ other)
        return FactoredMatrix(self.AB, other)

    def __rmatmul__(self, other: Tensor) -> Any:
        """The product with a matrix stays factored; with a vector [l] it is a vector [... r]."""
        if not isinstance(other, Tensor):
            return NotImplemented
        _check_meet(self.ldim, other.shape[-1], other.shape, self.shape)
        if other.ndim < 2:
            return ((other @ self.A)[..., None, :] @ self.B)[..., 0, :]
        if self.ldim > self.mdim:
            return FactoredMatrix(other @ self.A, self.B)
        return FactoredMatrix(other, self.AB)

    def __mul__(self, scalar: float | Tensor) -> FactoredMatrix:
        """The matrix times one number; for the product with a matrix there is ``@``."""
        if isinstance(scalar, Tensor):
            if scalar.numel() != 1:
                raise CircuitsError(
                    f"* takes one number, and was given {list(scalar.shape)}; products with "
                    "matrices and vectors are written @"
                )
            scalar = scalar.reshape(())
        return FactoredMatrix(self.A * scalar, self.B)

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> FactoredMatrix:
        """Leading axes as of a tensor; then rows, then columns, which always stay axes.

        ``OV[5, 3]`` is a head's matrix, ``OV[5, 3, :10]`` its first ten rows, ``OV[5, 3, 0]`` the
        first one, as [1, r].

        Raises:
            CircuitsError: for more indices than axes, or a row or column that is not there.
        """
        lead, inner = _split_index(index, self.shape)
        A, B = self.A[lead], self.B[lead]
        if inner:
            A = A[..., _as_slice(inner[0], self.ldim), :]
        if len(inner) == 2:
            B = B[..., _as_slice(inner[1], self.rdim)]
        return FactoredMatrix(A, B)


def _check_meet(left: int, right: int, *shapes: torch.Size) -> None:
    if left != right:
        first, second = map(list, shapes)
        raise CircuitsError(f"the dimensions that meet in {first} @ {second} differ")


def _split_index(index: Any, shape: torch.Size) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The items of an index for the leading axes, and those for rows and columns."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > len(shape):
        raise CircuitsError(f"{used} indices are too many for a matrix of shape {list(shape)}")
    for at, item in enumerate(items):
        if item is Ellipsis:
            items[at : at + 1] = [slice(None)] * (len(shape) - used)
            break
    places = [at for at, item in enumerate(items) if item is not None]
    end = places[len(shape) - 2] if len(places) > len(shape) - 2 else len(items)
    inner = tuple(items[end:])
    if any(item is None for item in inner):
        raise CircuitsError("new axes go before rows and columns; see unsqueeze")
    return tuple(items[:end]), inner


def _as_slice(index: Any, size: int) -> Any:
    """This index of rows or columns; a single one as a slice, so that the axis stays."""
    if not isinstance(index, int):
        return index
    if not -size <= index < size:
        raise CircuitsError(f"there is no row or column {index}: the matrix has {size}")
    return slice(index % size, index % size + 1)
