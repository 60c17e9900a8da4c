"""One row, whose product is all about reading the weight; and what is chosen once for many."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from linear_map import Map, numbers
from torch import nn
from torch.testing import assert_close

from circuits.backend import packed

near = partial(assert_close, atol=2e-5, rtol=1e-5)


@pytest.mark.usefixtures("always")
def test_one_row_is_multiplied_with_a_copy_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    a_map, x = Map(), numbers(1, 5)
    a_map.weight = nn.Parameter(numbers(6, 5).T)
    with torch.no_grad(), packed(a_map):
        near(a_map(x), a_map.expected(x))
        (copied,) = a_map.backend.copies.values()
        assert torch.equal(copied.matrix, a_map.weight)
        assert copied.matrix.is_contiguous()
        a_map.weight.mul_(2)
        near(a_map(x), a_map.expected(x))
    with packed(a_map):
        (grad,) = torch.autograd.grad(a_map(x).sum(), a_map.weight)
    near(grad, x.T.expand(5, 6))


@pytest.mark.usefixtures("always")
def test_threads_read_a_tied_unembedding_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    a_map = Map()
    a_map.weight = nn.Parameter(numbers(6, 5).T)
    with torch.no_grad(), packed(a_map):
        near(a_map(numbers(1, 5)), a_map.expected(numbers(1, 5)))
        assert not a_map.backend.copies
        near(a_map(numbers(3, 5)), a_map.expected(numbers(3, 5)))
        assert len(a_map.backend.copies) == 1


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("gelu", [None, "tanh"])
def test_what_is_chosen_once_multiplies_alike(
    monkeypatch: pytest.MonkeyPatch, threads: int, n_rows: int, gelu: str | None
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    a_map = Map()
    with torch.no_grad():
        for block in (nullcontext(), packed(a_map)):
            with block:
                multiply = a_map.backend.prepared(n_rows, a_map.weight, a_map.bias, gelu)
                for x in (numbers(n_rows, 5), 2 * numbers(n_rows, 5)):
                    assert torch.equal(multiply(x), a_map(x, gelu))
                    near(multiply(x), a_map.expected(x, gelu))
