"""A factored matrix is the matrix it stands for, and TransformerLens' in everything but errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from random_models import TINY, randomized, seeds
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.factored import FactoredMatrix

close = partial(torch.testing.assert_close, atol=1e-9, rtol=1e-9)


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@st.composite
def factored(draw_: st.DrawFn, *, square: bool = False) -> FactoredMatrix:
    """Wide, narrow, with the inner dimension the smallest or not; leading axes broadcast."""
    left, middle, right = (draw_(st.integers(1, 7)) for _ in range(3))
    right = left if square else right
    lead = draw_(st.sampled_from([((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3))]))
    sizes = (*lead[0], left, middle), (*lead[1], middle, right)
    return FactoredMatrix(*draw(draw_(seeds), *sizes))


def orthonormal(columns: Tensor) -> None:
    eye = torch.eye(columns.shape[-1], dtype=columns.dtype)
    close(columns.mT @ columns, eye.expand(*columns.shape[:-2], *eye.shape))


@given(factored())
def test_svd_and_norm_are_those_of_the_matrix(matrix: FactoredMatrix) -> None:
    dense = matrix.AB
    assert dense.shape == matrix.shape
    U, S, V = matrix.svd()
    k = min(matrix.ldim, matrix.mdim, matrix.rdim)
    assert (U.shape[-1], S.shape[-1], V.shape[-1]) == (k, k, k)
    close(U @ torch.diag_embed(S) @ V.mT, dense)
    close(S, torch.linalg.svdvals(dense)[..., :k])
    orthonormal(U)
    orthonormal(V)
    close(matrix.norm(), torch.linalg.matrix_norm(dense))
    close(matrix.norm(), S.pow(2).sum(-1).sqrt())


@given(factored())
def test_other_factorizations_are_the_same_matrix(matrix: FactoredMatrix) -> None:
    dense = matrix.AB
    even = matrix.make_even()
    close(even.AB, dense)
    close(even.A.mT @ even.A, even.B @ even.B.mT)
    close(matrix.collapse_r() @ matrix.V.mT, dense)
    close(matrix.U @ matrix.collapse_l(), dense)
    close(matrix.T.AB, dense.mT)
    close(matrix.unsqueeze(0).AB, dense[None])
    close(matrix.get_corner(2), dense[(slice(2),) * dense.ndim])


@given(factored(square=True))
def test_eigenvalues_are_those_of_the_matrix_but_for_zeros(matrix: FactoredMatrix) -> None:
    own, dense = matrix.eigenvalues, torch.linalg.eigvals(matrix.AB)
    for power in (1, 2, 3):  # power sums say it without an order
        close(own.pow(power).sum(-1), dense.pow(power).sum(-1), atol=1e-6, rtol=1e-6)
    close(matrix.BA, matrix.B @ matrix.A)


@given(factored(), st.integers(1, 9), seeds)
def test_products_with_tensors_on_both_sides(matrix: FactoredMatrix, n: int, seed: int) -> None:
    dense = matrix.AB
    right, left, vector_r, vector_l = draw(
        seed, (matrix.rdim, n), (n, matrix.ldim), (matrix.rdim,), (matrix.ldim,)
    )
    close((matrix @ right).AB, dense @ right)
    close((left @ matrix).AB, left @ dense)
    close(matrix @ vector_r, dense @ vector_r)
    close(vector_l @ matrix, vector_l @ dense)
    for product in (matrix @ right, left @ matrix):
        assert product.mdim <= matrix.mdim


@given(factored(), factored(), st.floats(-3, 3))
def test_products_with_each_other_and_numbers(
    first: FactoredMatrix, second: FactoredMatrix, x: float
) -> None:
    (between,) = draw(0, (first.rdim, second.ldim))
    close((first @ between @ second).AB, first.AB @ between @ second.AB)
    close((first @ (between @ second)).AB, first.AB @ between @ second.AB)
    close((x * first).AB, x * first.AB)
    close((first * torch.tensor([x], dtype=torch.float64)).AB, x * first.AB)
    close((torch.tensor(x, dtype=torch.float64) * first).AB, x * first.AB)


INDICES: list[Any] = [
    1,
    -1,
    (0, 2),
    (slice(1, None), 1),
    (None, 1),
    ([0, 1, 1], [2, 0, 1]),
    torch.tensor([[True, False, True], [False, True, False]]),
    (..., 0, slice(None)),
    (1, ..., [3, 0]),
    (1, 2, slice(0, 2)),
    (1, 2, slice(None), slice(1, 4)),
    (slice(None), None, 2, [0, 3], [1]),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_is_that_of_the_matrix(index: Any) -> None:
    A, B = draw(0, (2, 3, 5, 4), (2, 3, 4, 6))
    matrix = FactoredMatrix(A, B)
    expected = matrix.AB
    if index == INDICES[-1]:  # rows and columns are chosen one after the other
        expected = expected[:, None, 2][..., [0, 3], :][..., [1]]
    else:
        expected = expected[index]
    close(matrix[index].AB.reshape(expected.shape), expected)


def test_rows_and_columns_stay_axes() -> None:
    A, B = draw(0, (2, 5, 4), (2, 4, 6))
    matrix = FactoredMatrix(A, B)
    assert matrix[1].shape == (5, 6)
    assert not matrix[1].has_leading_dims
    assert matrix[1, -1].shape == (1, 6)
    close(matrix[1, -1].AB, matrix.AB[1, -1:])
    close(matrix[1, 2, -6].AB, matrix.AB[1, 2:3, :1])
    assert matrix.ndim == 3
    assert matrix.pair == (matrix.A, matrix.B)
    close(matrix.Vh, matrix.V)


def test_half_precision_is_computed_in_single() -> None:
    A, B = (factor.bfloat16() for factor in draw(0, (5, 2), (2, 5)))
    matrix = FactoredMatrix(A, B)
    assert matrix.S.dtype == matrix.norm().dtype == torch.float32
    assert matrix.eigenvalues.dtype == torch.complex64


def test_large_matrices_are_never_multiplied_out() -> None:
    n = 300_000  # 360 GB in float32
    A, B = draw(0, (n, 2), (2, n))
    matrix = FactoredMatrix(A, B)
    assert matrix.S.shape == matrix.eigenvalues.shape == (2,)
    close(matrix.S.square().sum(), (matrix.T @ matrix).eigenvalues.real.sum(), rtol=1e-6)
    close(matrix[7, 9].AB, (A[7] @ B[:, 9])[None, None])
    close(matrix @ torch.ones(n, dtype=torch.float64), A @ B.sum(1), rtol=1e-6)


def test_the_circuits_of_a_model() -> None:
    model = randomized()
    n_layers, n_heads, d = TINY.n_layers, TINY.n_heads, TINY.d_model
    assert model.OV.shape == model.QK.shape == (n_layers, n_heads, d, d)
    assert model.OV.mdim == TINY.d_head
    close(model.QK[1, 2].AB, model.W_Q[1, 2] @ model.W_K[1, 2].mT)
    close(model.OV[1].AB, model.blocks[1].attn.OV.AB)
    close(model.QK[0].AB, model.blocks[0].attn.QK.AB)
    close((model.W_E @ model.OV @ model.W_U)[1, 2].AB, model.W_E @ model.OV[1, 2].AB @ model.W_U)


def test_what_does_not_fit_is_one_clear_error() -> None:
    A, B = draw(0, (2, 5, 4), (2, 4, 6))
    matrix = FactoredMatrix(A, B)
    wrong: dict[str, Callable[[], Any]] = {
        r"given were \[2, 5, 4\] and \[6, 4\]": lambda: FactoredMatrix(A, B[0].mT),
        r"given were \[4\] and": lambda: FactoredMatrix(A[0, 0], B),
        "cannot be broadcast": lambda: FactoredMatrix(A, torch.cat([B, B])),
        r"meet in \[2, 5, 6\] @ \[5, 6\] differ": lambda: matrix @ torch.zeros(5, 6),
        r"meet in \[2, 5, 6\] @ \[5\] differ": lambda: matrix @ torch.zeros(5),
        r"meet in \[6\] @ \[2, 5, 6\] differ": lambda: torch.zeros(6) @ matrix,
        "square": lambda: matrix.BA,
        "takes one number": lambda: matrix * torch.ones(2),
        "4 indices are too many": lambda: matrix[0, 0, 0, 0],
        "no row or column 5": lambda: matrix[0, 5],
        "no row or column -7": lambda: matrix[0, 0, -7],
        "new axes go before": lambda: matrix[0, 0, None, 0],
    }
    for message, attempt in wrong.items():
        with pytest.raises(CircuitsError, match=message):
            attempt()
    word: Any = "x"
    for attempt in (lambda: matrix @ word, lambda: word @ matrix):
        with pytest.raises(TypeError):
            attempt()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_everything_is_as_in_transformer_lens() -> None:
    theirs_ = pytest.importorskip("transformer_lens").FactoredMatrix
    A, B = draw(3, (2, 3, 7, 4), (3, 4, 7))
    ours, theirs = FactoredMatrix(A, B), theirs_(A, B)
    for name in "A B AB BA S eigenvalues".split():
        close(getattr(ours, name), getattr(theirs, name))
    for name in "shape ndim ldim rdim mdim has_leading_dims".split():
        assert getattr(ours, name) == getattr(theirs, name)
    for name in "U Vh".split():  # up to signs
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        close(getattr(ours, name).abs(), getattr(theirs, name).abs())
    close(ours.norm(), theirs.norm())
    close(ours.T.AB, theirs.T.AB)
    close(ours.get_corner(2), theirs.get_corner(2))
    close(ours.collapse_l().abs(), theirs.collapse_l().abs())
    close(ours.collapse_r().abs(), theirs.collapse_r().abs())
    close(ours.make_even().A.abs(), theirs.make_even().A.abs())
    right, left, vector = draw(4, (7, 9), (9, 7), (7,))
    products: list[Callable[[Any], Any]] = [
        lambda m: m @ right,
        lambda m: left @ m,
        lambda m: m @ m,
        lambda m: 2 * m,
        lambda m: m[1],
        lambda m: m[1, 2, :3],
        lambda m: m[1, 2, 4, -1],
        lambda m: m.unsqueeze(0),
    ]
    for product in products:
        assert product(ours).shape == product(theirs).shape
        assert product(ours).mdim == product(theirs).mdim
        close(product(ours).AB, product(theirs).AB)
    close(ours @ vector, theirs @ vector)
    close(vector @ ours, vector @ theirs)
