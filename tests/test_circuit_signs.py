"""Circuits one after another: what stands in memory from the one before is what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from random_models import TINY, randomized
from random_sweeps import random_prompts
from torch.utils.flop_counter import FlopCounterMode

from circuits.architectures import HookedGPT2
from circuits.circuit import graph
from circuits.metrics import get_metric
from circuits.prompts import Prompts
from circuits.sweep import CircuitSweep, Kept, Source, plan, run
from circuits.sweep.circuit_sweep import CircuitCell, CircuitRoutes, Place
from circuits.sweep.plans import Task

WHOLE = graph(TINY)


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return randomized(TINY)


def alike(n: int, seed: int, places: Sequence[Place] = (None,)) -> tuple[CircuitCell, ...]:
    """Random circuits, each with a few edges more or less than one of those before."""
    rng = np.random.default_rng(seed)
    every = [{at: WHOLE.exists & (rng.random(WHOLE.exists.shape) < 0.4) for at in places}]
    for _ in range(n - 1):
        other = every[int(rng.integers(len(every)))]
        turned = WHOLE.exists & (rng.random(WHOLE.exists.shape) < rng.choice([0.01, 0.1]))
        every.append({at: mask ^ turned for at, mask in other.items()})
    return tuple((Kept(f"circuit {i}", WHOLE, masks),) for i, masks in enumerate(every))


def asked(
    prompts: Prompts, cells: Sequence[CircuitCell], method: str = "resample", metric: str = "loss"
) -> CircuitSweep:
    assert prompts.corrupted is not None
    source = Source(method, prompts.corrupted, prompts.mask)
    return CircuitSweep(prompts, get_metric(metric), tuple(cells), source)


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("metric", ["loss", "logit_diff"])
@pytest.mark.parametrize("method", ["resample", "zero"])
def test_circuits_in_any_order_are_what_each_is_by_itself(
    tiny: HookedGPT2, method: str, metric: str, together: int
) -> None:
    prompts = random_prompts(TINY, (7, 5, 9), seed=2)
    cells = (*alike(14, 1), *alike(10, 2, (None, "END")))
    sweep = asked(prompts, cells, method, metric)
    each = [run(tiny, plan(tiny, replace(sweep, cells=(cell,)))).values[0] for cell in cells]
    order = np.random.default_rng(3).permutation(len(cells)).tolist()
    groups = [tuple(order[i : i + together]) for i in range(0, len(order), together)]
    tasks = tuple(Task(0, len(prompts), group, 1.0) for group in groups)
    shared = run(tiny, replace(plan(tiny, sweep), tasks=tasks)).values
    assert_allclose(shared, np.stack(each), rtol=1e-9, atol=1e-9)


def test_a_circuit_with_one_edge_less_costs_what_follows_the_edge(tiny: HookedGPT2) -> None:
    prompts = random_prompts(TINY, (7, 5, 9), seed=2)
    late = WHOLE.exists.copy()
    late[-1, -1] = False  # what the last MLP writes
    early = WHOLE.exists.copy()
    early[WHOLE.inputs(1).start, 0] = False  # a query of the second layer reads no tokens
    most, *others = ((Kept.only(WHOLE, mask),) for mask in (WHOLE.exists, late, early))

    def operations(cells: Sequence[CircuitCell]) -> int:
        sweep = asked(prompts, cells)
        tasks = tuple(Task(0, len(prompts), (i,), 1.0) for i in range(len(cells)))
        planned = replace(plan(tiny, sweep), tasks=tasks)
        with FlopCounterMode(display=False) as counter:
            run(tiny, planned)
        return counter.get_total_flops()

    alone = operations([others[1]]) - operations([])
    first, second = (operations([most, other]) - operations([most]) for other in others)
    assert first < 0.1 * alone
    assert second < 0.7 * alone


def test_tokens_are_followed_from_the_first_that_differs_to_the_last_that_is_read() -> None:
    prompts = random_prompts(TINY, (7, 7), seed=2)
    corrupted = prompts.tokens.clone()
    corrupted[0, 3] = (corrupted[0, 3] + 1) % TINY.d_vocab
    prompts = replace(prompts, corrupted=corrupted)
    sweep = asked(prompts, alike(1, 1), metric="logit_diff")
    reads = sweep.metric.positions(prompts)
    last = reads[0].nonzero().max()
    followed = CircuitRoutes(sweep).followed
    assert followed[0].nonzero().flatten().tolist() == list(range(3, int(last) + 1))
    assert torch.equal(followed[1], reads[1])
    zeros = CircuitRoutes(asked(prompts, alike(1, 1), "zero", "logit_diff")).followed
    assert zeros[0].nonzero().flatten().tolist() == list(range(int(last) + 1))
