"""Drawing tokens: the distribution, its restrictions, and the random numbers behind it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import CircuitsError
from circuits.sampling import Sampler, random_numbers

PROBS = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15], dtype=torch.float64)
GRID = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000  # stands for all random numbers


def drawn_shares(sampler: Sampler, probs: torch.Tensor = PROBS) -> torch.Tensor:
    """How often is each token drawn? Exact to one grid step a token."""
    drawn = sampler(probs.log().expand(len(GRID), -1), GRID)
    return torch.bincount(drawn, minlength=len(probs)) / len(GRID)


def assert_shares(sampler: Sampler, expected: list[float]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        drawn_shares(sampler).double(), wanted / wanted.sum(), atol=2 / 2000, rtol=0
    )


def test_plain_sampling_draws_from_the_softmax() -> None:
    assert_shares(Sampler(), PROBS.tolist())


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    assert_shares(Sampler(temperature), (PROBS ** (1 / temperature)).tolist())


@pytest.mark.parametrize("temperature", [0.0, 1e-310, 1e-3])
def test_cold_sampling_takes_the_most_likely_token(temperature: float) -> None:
    assert drawn_shares(Sampler(temperature)).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Sampler(top_k=1), [0, 1, 0, 0, 0]),
        (Sampler(top_k=3), [0, 0.4, 0, 0.3, 0.15]),
        (Sampler(top_k=99), [0.1, 0.4, 0.05, 0.3, 0.15]),
        (Sampler(top_p=1e-9), [0, 1, 0, 0, 0]),
        (Sampler(top_p=0.39), [0, 1, 0, 0, 0]),
        (Sampler(top_p=0.41), [0, 0.4, 0, 0.3, 0]),
        (Sampler(top_p=0.71), [0, 0.4, 0, 0.3, 0.15]),
        (Sampler(top_p=1.0), [0.1, 0.4, 0.05, 0.3, 0.15]),
        # Of the two most likely tokens the first holds 4/7: a share of their sum, not of all.
        (Sampler(top_k=2, top_p=0.5), [0, 1, 0, 0, 0]),
        (Sampler(top_k=2, top_p=0.6), [0, 0.4, 0, 0.3, 0]),
    ],
)
def test_restrictions(sampler: Sampler, expected: list[float]) -> None:
    assert_shares(sampler, expected)


@given(
    logits=st.lists(st.floats(-50, 50), min_size=1, max_size=8),
    noise=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0, 10),
    top_k=st.none() | st.integers(1, 10),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
)
def test_banned_tokens_are_never_drawn(
    logits: list[float],
    noise: float,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    row = torch.tensor([[-math.inf, *logits, -math.inf]], dtype=torch.float64)
    drawn = Sampler(temperature, top_k, top_p)(row, torch.tensor([noise], dtype=torch.float64))
    assert 1 <= int(drawn) <= len(logits)
    if top_k is not None:
        assert int((row > row[0, drawn]).sum()) < top_k


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature=-0.1: choose 0 .* or more"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, r"top_k=0: choose at least 1, or None"),
        ({"top_p": 0.0}, r"top_p=0.0: choose more than 0 and at most 1"),
        ({"top_p": 1.01}, r"top_p=1.01"),
        ({"top_p": math.nan}, r"top_p=nan"),
    ],
)
def test_impossible_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        Sampler(**options)


@given(
    prompts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=6),
    seed=st.integers(-(2**70), 2**70),
)
def test_random_numbers_belong_to_the_prompt(prompts: list[list[int]], seed: int) -> None:
    together = random_numbers(prompts, 20, seed)
    assert together.shape == (len(prompts), 20)
    assert ((together >= 0) & (together < 1)).all()
    assert len({tuple(row.tolist()) for row in together}) == len(prompts)
    for i, prompt in enumerate(prompts):
        if prompt not in prompts[:i]:
            alone = random_numbers([prompt], 3, seed)
            assert torch.equal(together[i : i + 1, :3], alone)


def test_random_numbers_leave_the_global_generators_alone() -> None:
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    with_seed, without = random_numbers([[1]], 4, seed=3), random_numbers([[1]], 4)
    after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]
    torch.manual_seed(99)
    assert torch.equal(with_seed, random_numbers([[1]], 4, seed=3))
    assert not torch.equal(without, random_numbers([[1]], 4))
