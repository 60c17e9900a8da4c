"""Intervals cover the truth as often as they say, also where all prompts agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from circuits.errors import CircuitsError
from circuits.intervals import NOT_NEGATIVE, REAL, RIGHT_OR_WRONG, SHARE, Scale
from circuits.result import mean_interval
from circuits.sweep.moments import Scales, moments

CHANGE = RIGHT_OR_WRONG.change
TWICE = CHANGE.change
SIZES = (5, 10, 20, 40, 100)
RARE = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9)


def chances(counts: NDArray[np.int64], n: int, p: tuple[float, ...]) -> NDArray[np.float64]:
    """The multinomial probability of each row of counts [m k]."""
    logs = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(counts > 0, counts * np.log(p), 0.0)
    found: NDArray[np.float64] = np.exp(logs[n] - logs[counts].sum(1) + terms.sum(1))
    return found


def outcomes(n: int) -> NDArray[np.int64]:
    """How many of n prompts get better, get worse and stay: every possible answer [m 3]."""
    better, worse = np.mgrid[: n + 1, : n + 1].reshape(2, -1)
    possible = better + worse <= n
    return np.stack([better, worse, n - better - worse], 1)[possible]


def drawn(counts: NDArray[np.int64], values: tuple[float, ...]) -> NDArray[np.float64]:
    """The prompts themselves: each value as often as the counts say, [m n]."""
    return np.stack([np.repeat(values, row) for row in counts])


def coverage(n: int, scale: Scale) -> Iterator[float]:
    """The exact probability that the interval holds the truth, for rare and common changes."""
    counts = outcomes(n)
    found = mean_interval(drawn(counts, (1.0, -1.0, 0.0)), scale=scale)
    for up in RARE:
        for down in (0.0, *RARE[:-2]):
            if up + down <= 1:
                p = chances(counts, n, (up, down, max(0.0, 1 - up - down)))
                assert p.sum() == pytest.approx(1)
                truth = up - down
                holds = (found["ci_low"] <= truth + 1e-12) & (truth - 1e-12 <= found["ci_high"])
                yield float(p[holds].sum())


@pytest.mark.parametrize("n", SIZES[:4])
def test_paired_proportions_are_covered(n: int) -> None:
    covered = np.array(list(coverage(n, CHANGE)))
    assert covered.min() > 0.92
    assert 0.95 <= np.median(covered) <= (0.975 if n >= 40 else 1)
    assert min(coverage(n, REAL)) < 0.05  # Student's t takes prompts that all agree for certain


@pytest.mark.parametrize("n", SIZES)
def test_proportions_are_covered(n: int) -> None:
    counts = np.stack([np.arange(n + 1), n - np.arange(n + 1)], 1)
    found = mean_interval(drawn(counts, (1.0, 0.0)), scale=RIGHT_OR_WRONG)
    covered = []
    for p in np.linspace(0.01, 0.99, 99):
        holds = (found["ci_low"] <= p) & (p <= found["ci_high"])
        covered.append(chances(counts, n, (p, 1 - p))[holds].sum())
    assert min(covered) > 0.83  # Wilson's own dips, near 0 and 1
    assert 0.94 < np.median(covered) < 0.97


@pytest.mark.parametrize("scale", [RIGHT_OR_WRONG, CHANGE, TWICE])
@pytest.mark.parametrize("n", [1, *SIZES])
def test_counted_intervals_have_a_width_and_a_place(scale: Scale, n: int) -> None:
    levels = np.arange(scale.low, scale.high + 1)
    values = np.random.default_rng(n).choice(levels, (50, n))
    values = np.concatenate([values, np.repeat(levels[:, None], n, 1)])
    found = mean_interval(values, scale=scale)
    low, high = found["ci_low"], found["ci_high"]
    assert (high - low > 1 / (n + 2)).all()
    assert (scale.low <= low).all()
    assert (high <= scale.high).all()
    assert (low <= found["value"]).all()
    assert (found["value"] <= high).all()
    assert_allclose(found["value"], values.mean(1))


def test_counted_intervals_by_hand() -> None:
    # Bonett & Price 2012: (b + 1) / (n + 2) and (c + 1) / (n + 2) in Wald's formula.
    b, c, n = 9, 2, 40
    found = mean_interval(np.repeat([1.0, -1.0, 0.0], [b, c, n - b - c]), scale=CHANGE)
    up, down = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    assert found["ci_low"] == pytest.approx(up - down - half)
    assert found["ci_high"] == pytest.approx(up - down + half)
    assert found["value"] == pytest.approx(0.175)
    none = mean_interval(np.zeros(100), scale=CHANGE)
    assert (none["ci_low"], none["ci_high"]) == pytest.approx((-0.02717, 0.02717), abs=1e-5)
    # Wilson 1927: of none in ten up to z^2 / (n + z^2).
    none = mean_interval(np.zeros(10), scale=RIGHT_OR_WRONG)
    assert (none["ci_low"], none["ci_high"]) == pytest.approx((0, 0.277533), abs=1e-6)


def test_differences_of_differences_are_covered() -> None:
    rng = np.random.default_rng(0)
    for rare in (0.02, 0.1, 0.4):
        # Two models, each of which an ablation makes fail at some of the prompts.
        hurt = rng.random((4000, 2, 30)) < np.array([rare, 2 * rare])[:, None]
        found = mean_interval(hurt[:, 1].astype(float) - hurt[:, 0], scale=TWICE)
        holds = (found["ci_low"] <= rare) & (rare <= found["ci_high"])
        assert holds.mean() > 0.94, rare


@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_interval_leaves_the_numbers_there_are(n: int) -> None:
    values = np.random.default_rng(0).random((200, n)) ** 4
    wide, shares = mean_interval(values), mean_interval(values, scale=SHARE)
    assert (wide["ci_low"] < 0).any()
    assert (shares["ci_low"] == np.maximum(wide["ci_low"], 0)).all()
    assert (shares["ci_high"] == np.minimum(wide["ci_high"], 1)).all()
    nats = mean_interval(3 * values, scale=NOT_NEGATIVE)
    assert_allclose(nats["ci_low"], np.maximum(3 * wide["ci_low"], 0), atol=1e-15)
    assert_allclose(nats["ci_high"], 3 * wide["ci_high"])


def test_blocks_have_the_counts_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    right = (rng.random((4, 60)) < np.array([0.9, 0.5, 0.95, 1])[:, None]).astype(float)
    scales, changed = Scales(CHANGE, CHANGE), np.ones(4, dtype=bool)
    found = None
    for block in np.split(right, [7, 8, 40], axis=1):
        here = moments(block, changed, differences=[(1, 2)], scales=scales)
        found = here if found is None else found.merge(here)
    assert found is not None
    rows = np.concatenate([right - right[0], [right[1] - right[2]]])
    expected = mean_interval(rows, scale=CHANGE)
    for name, column in found.interval().items():
        assert_allclose(column, expected[name], rtol=1e-12, atol=1e-15, err_msg=name)
    assert (found.interval()["ci_high"] > found.interval()["ci_low"]).all()


@pytest.mark.parametrize(("p_full", "kept"), [(0.3, 0.02), (0.6, 0.5), (0.95, 0.98)])
def test_shares_of_counted_effects_are_covered(p_full: float, kept: float) -> None:
    rng = np.random.default_rng(2)
    changed, scales, covered, n_runs = np.ones(3, dtype=bool), Scales(CHANGE, CHANGE), 0, 800
    for _ in range(n_runs):
        full = (rng.random(30) < p_full).astype(float)
        values = np.stack([0 * full, full * (rng.random(30) < kept), full])
        found = moments(values, changed, full=2, scales=scales).ratio()
        assert found["ci_high"][1] > found["ci_low"][1]
        covered += int(found["ci_low"][1] <= kept <= found["ci_high"][1])
    assert covered / n_runs > 0.94


def test_groups_are_the_means_of_groups() -> None:
    values = np.random.default_rng(3).normal(size=(5, 24))
    groups = tuple("abcd"[i % 4] for i in range(24))
    found = mean_interval(values, groups=groups)
    means = np.stack([values[:, i::4].mean(1) for i in range(4)], 1)
    expected = mean_interval(means)  # of groups of one size: Student's t over their means
    for name in ("value", "stderr", "ci_low", "ci_high"):
        assert_allclose(found[name], expected[name], rtol=1e-12, err_msg=name)
    assert (found["n"] == 24).all()


def test_groups_of_several_sizes_have_the_sandwich() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 9.0, 0.0])
    found = mean_interval(values, groups=("a", "a", "a", "b", "b", "c"))
    sums = [7 - 3 * 4, 17 - 2 * 4, 0 - 4]  # of deviations from the mean, which is 4
    stderr = math.sqrt(3 / 2 * sum(s * s for s in sums)) / 6
    assert found["stderr"] == pytest.approx(stderr)
    assert found["ci_high"] == pytest.approx(4 + 4.302653 * stderr, rel=1e-5)  # t, 2 degrees


def test_groups_are_covered() -> None:
    rng = np.random.default_rng(4)
    own = rng.normal(size=(4000, 6, 1)) + 0.5 * rng.normal(size=(4000, 6, 10))
    groups = tuple(str(i) for i in range(6) for _ in range(10))
    values = own.reshape(4000, 60)
    covered = {
        name: float(((found["ci_low"] < 0) & (found["ci_high"] > 0)).mean())
        for name, found in {
            "over groups": mean_interval(values, groups=groups),
            "over draws": mean_interval(values),
        }.items()
    }
    assert covered["over groups"] == pytest.approx(0.95, abs=0.015)
    assert covered["over draws"] < 0.6


def test_groups_that_agree_are_not_certain() -> None:
    groups = tuple("abcd" * 5)
    found = mean_interval(np.zeros(20), scale=CHANGE, groups=groups)
    alone = mean_interval(np.zeros(20), scale=CHANGE)
    assert (found["ci_low"], found["ci_high"]) == (alone["ci_low"], alone["ci_high"])


def test_moments_by_group_are_the_sandwich_of_the_whole() -> None:
    values = np.random.default_rng(5).normal(size=(3, 40)) + np.arange(3)[:, None]
    labels = [("red", "green", "blue")[i * i % 3] for i in range(40)]
    found = None
    for some in (slice(0, 13), slice(13, 14), slice(14, 40)):
        here = moments(values[:, some], np.ones(3, dtype=bool), labels[some], full=2)
        found = here if found is None else found.merge(here)
    assert found is not None
    clustered = replace(found, clustered=True)
    expected = mean_interval(values - values[0], groups=tuple(labels))
    for name, column in clustered.interval().items():
        assert_allclose(column, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
    effects = values - values[0]
    ratio = effects.mean(1) / effects[2].mean()
    residuals = (effects - ratio[:, None] * effects[2]) / effects[2].mean()
    sandwich = mean_interval(residuals, groups=tuple(labels))
    assert_allclose(clustered.ratio()["stderr"], sandwich["stderr"], atol=1e-12)
    assert_allclose(clustered.ratio()["ci_high"][1], ratio[1] + sandwich["ci_high"][1])


def test_what_has_no_interval() -> None:
    with pytest.raises(CircuitsError, match="not whole"):
        mean_interval(np.array([0.5, 1.0]), scale=RIGHT_OR_WRONG)
    with pytest.raises(CircuitsError, match="1 group of draws has no spread"):
        mean_interval(np.array([0.5, 1.0]), groups=("a", "a"))
