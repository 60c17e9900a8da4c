"""Statistics merged block by block are those of the whole."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from circuits.errors import CircuitsError
from circuits.result import BEHIND, mean_interval
from circuits.sweep.moments import Moments, moments

cuts = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def drawn(seed: int, n: int, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scales = np.array([1.0, 1e-3, 30.0, 1.0])
    return offset + rng.normal(size=(4, n)) * scales[:, None] + np.arange(4)[:, None]


def in_blocks(values: np.ndarray, sizes: list[int], full: int | None = None) -> Moments:
    changed = np.zeros(len(values), dtype=bool)
    edges = np.cumsum(sizes)[:-1]
    parts = [moments(block, changed, full=full) for block in np.split(values, edges, axis=1)]
    return reduce(Moments.merge, parts)


@given(cuts, st.integers(0, 10**6), st.sampled_from([0.0, 1e4]))
def test_blocks_have_the_moments_of_the_whole(sizes: list[int], seed: int, offset: float) -> None:
    values = drawn(seed, sum(sizes), offset)
    found = in_blocks(values, sizes)
    expected = mean_interval(values - values[0])
    for name, column in found.interval().items():
        assert_allclose(column, expected[name], rtol=1e-9, atol=1e-12 + 1e-14 * offset)
    assert_allclose(found.value, values.mean(1), rtol=1e-12)
    assert found.n == sum(sizes)


@given(cuts, st.integers(0, 10**6))
def test_ratio_is_cochrans(sizes: list[int], seed: int) -> None:
    values = drawn(seed, sum(sizes))
    n = values.shape[1]
    effects = values - values[0]
    ratio = effects.mean(1) / effects[3].mean()
    found = in_blocks(values, sizes, full=3).ratio()
    assert_allclose(found["value"], ratio, rtol=1e-9)
    if n == 1:
        assert np.isnan(found["stderr"]).all()
        return
    residuals = effects - ratio[:, None] * effects[3]
    expected = residuals.std(1, ddof=1) / np.sqrt(n) / abs(effects[3].mean())
    scale = effects.std(1, ddof=1).max() / abs(effects[3].mean())
    assert_allclose(found["stderr"], expected, rtol=1e-6, atol=1e-7 * scale)
    assert found["stderr"][3] == pytest.approx(0, abs=1e-7 * scale)


def test_ratio_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, n_runs, n = 0.4, 2000, 60
    whole = 2 + rng.normal(size=(n_runs, n))
    part = truth * whole + rng.normal(size=(n_runs, n))
    covered = 0
    for effect, full in zip(part, whole, strict=True):
        values = np.stack([np.zeros(n), effect, full])
        found = moments(values, np.ones(3, dtype=bool), full=2).ratio()
        covered += int(found["ci_low"][1] < truth < found["ci_high"][1])
    assert 0.93 < covered / n_runs < 0.97


def test_one_prompt_has_no_spread() -> None:
    found = moments(np.array([[1.0], [3.0]]), np.array([False, True])).interval()
    assert found["value"].tolist() == [0.0, 2.0]
    assert all(np.isnan(found[name]).all() for name in ("stderr", "ci_low", "ci_high"))


def test_changed_anywhere_is_changed() -> None:
    values = np.zeros((3, 2))
    first = moments(values, np.array([False, True, False]))
    second = moments(values, np.array([False, False, True]))
    assert first.merge(second).changed.tolist() == [False, True, True]


def test_same_order_same_bits() -> None:
    values = drawn(3, 100)
    one, other = (in_blocks(values, [30, 30, 30, 10], full=2) for _ in range(2))
    for name in ("value", "effect", "squares", "products"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_what_cannot_be_told() -> None:
    good, changed = np.zeros((2, 3)), np.zeros(2, dtype=bool)
    with pytest.raises(CircuitsError, match="1 that are not finite"):
        moments(np.array([[0.0], [np.inf]]), changed)
    with pytest.raises(CircuitsError, match="no values"):
        moments(good[:, :0], changed)
    with pytest.raises(CircuitsError, match="no cell is the full effect"):
        moments(good, changed).ratio()
    with pytest.raises(CircuitsError, match="full effect is 0 on average"):
        moments(good, changed, full=1).ratio()
    with pytest.raises(CircuitsError, match="different sweeps"):
        moments(good, changed).merge(moments(good, changed, full=1))


@given(cuts, st.integers(0, 10**6))
def test_draws_are_the_effects_of_all_prompts(sizes: list[int], seed: int) -> None:
    values = drawn(seed, sum(sizes))
    labels = [f"template {i % 3}" for i in range(values.shape[1])]
    changed, start, blocks = np.zeros(len(values), dtype=bool), 0, []
    for size in sizes:
        block, of_block = values[:, start : start + size], labels[start : start + size]
        summary = moments(block, changed, of_block, differences=[(1, 2)])
        assert summary.draws is None
        assert BEHIND not in summary.interval()
        blocks.append(summary.drawn_from(block, of_block))
        start += size
    merged = reduce(Moments.merge, blocks)
    effects = values - values[0]
    for cell, row in enumerate([*effects, effects[1] - effects[2]]):
        draws = merged.interval()[BEHIND][cell]
        assert_allclose(draws.values, row, atol=1e-12)
        assert draws.groups is None
        assert replace(merged, clustered=True).draws.groups == tuple(labels)
        for label, group in merged.groups.items():
            of_group = [other == label for other in labels]
            assert_allclose(group.interval()[BEHIND][cell].values, row[of_group], atol=1e-12)
