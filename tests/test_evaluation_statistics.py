"""Tests of hypotheses, each against its plain definition."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose

from circuits.evaluation.hypothesis_tests import at_least, at_most, beyond, dependence, holm
from circuits.intervals import student_t


@settings(max_examples=30)
@given(n=st.integers(1, 40), chance=st.floats(0.05, 0.95), data=st.data())
def test_binomial_tails(n: int, chance: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    terms = [math.comb(n, i) * chance**i * (1 - chance) ** (n - i) for i in range(n + 1)]
    assert at_least(k, n, chance) == pytest.approx(sum(terms[k:]), abs=1e-12)
    assert at_most(k, n, chance) == pytest.approx(sum(terms[: k + 1]), abs=1e-12)


def test_holm_by_hand() -> None:
    p_values = np.array([0.01, np.nan, 0.02, 0.5, 0.019])
    assert_allclose(holm(p_values), [0.04, np.nan, 0.057, 0.5, 0.057], atol=1e-12)
    assert holm(np.array([0.6, 0.9])).max() <= 1


@pytest.mark.parametrize("n", [3, 6, 20])
def test_predictions_by_students_t(n: int) -> None:
    """At the t that leaves 2.5 % above it."""
    others = np.random.default_rng(n).normal(size=n)
    t = student_t(0.95, n - 1)
    value = others.mean() + t * others.std(ddof=1) * math.sqrt(1 + 1 / n)
    assert beyond(value, others) == pytest.approx(0.025, abs=1e-4)
    assert beyond(float(others.mean()), others) == pytest.approx(0.5, abs=1e-6)


def test_dependence_is_the_trace_of_two_centered_kernels() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 7))
    pairs = list(itertools.combinations(range(7), 2))
    kernels = []
    for values in (x, y):
        width = float(np.median([abs(values[i] - values[j]) for i, j in pairs]))
        kernels.append(np.exp(-((values[:, None] - values[None]) ** 2) / (2 * width**2)))
    h = np.eye(7) - 1 / 7
    expected = np.trace(kernels[0] @ h @ kernels[1] @ h) / 6**2
    assert dependence(x, y, np.random.default_rng(0), 10).hsic == pytest.approx(expected)


def test_dependence_finds_what_is_there_and_not_what_is_not() -> None:
    rng = np.random.default_rng(0)
    p_values = [
        dependence(*rng.normal(size=(2, 40)), np.random.default_rng(i), 200).p_value
        for i in range(40)
    ]
    assert 0.2 < np.mean(p_values) < 0.8  # of independent draws they are spread out
    assert np.mean(np.array(p_values) < 0.05) < 0.2
    x = rng.normal(size=60)
    assert dependence(x, x**2, rng, 200).p_value < 0.01
