"""Hooks act on the passes of their own thread; a pass made inside another is one by itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.cache import Cache
from circuits.errors import SiteError
from circuits.hooks import HookPoint

TOKENS = random_tokens(TINY, batch=2, pos=6)
RESID = "blocks.1.hook_resid_pre"


def watched(model: HookedGPT2) -> list[str]:
    return [name for name, hook in model.hook_dict.items() if hook.watched]


def elsewhere(fn: Callable[[], Any]) -> Any:
    """What comes of this in another thread?"""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn).result()


def test_hooks_act_in_their_own_thread(tiny: HookedGPT2) -> None:
    plain = tiny(TOKENS)
    seen: list[Any] = []

    def wipe(value: Tensor, hook: HookPoint) -> Tensor:
        seen.append(hook.positions)
        return value * 0

    with tiny.hooks([(RESID, wipe)]):
        assert torch.equal(elsewhere(lambda: tiny(TOKENS)), plain)
        assert elsewhere(lambda: watched(tiny)) == []
        assert elsewhere(lambda: tiny.run_with_cache(TOKENS[:, :2])[0]).shape[1] == 2
        assert seen == []
        assert watched(tiny) == [RESID]
        wiped = tiny(TOKENS)
    assert [where.tolist() for where in seen] == [[[0, 1, 2, 3, 4, 5]] * 2]
    assert not torch.allclose(wiped, plain)


def test_a_hook_of_one_thread_is_not_reached_by_another(tiny: HookedGPT2) -> None:
    with (
        pytest.raises(SiteError, match=f"hooked but never reached: '{RESID}'"),
        tiny.hooks([(RESID, lambda value, hook: None)]),
    ):
        elsewhere(lambda: tiny(TOKENS))


def test_threads_hook_one_model_at_the_same_time(tiny: HookedGPT2) -> None:
    """Each gets what it gets alone, however their passes meet."""

    def run(factor: float) -> Tensor:
        hooks = [(RESID, lambda value, hook: value * factor)]
        return torch.stack([tiny.run_with_hooks(TOKENS, fwd_hooks=hooks) for _ in range(10)])

    factors = [0.0, 1.0, 2.0, 3.0]
    expected = [run(factor) for factor in factors]
    with ThreadPoolExecutor(4) as pool:
        for ours, alone in zip(pool.map(run, factors * 3), expected * 3, strict=True):
            assert torch.equal(ours, alone)
    assert not watched(tiny)
    assert not any(hook.watchers for hook in tiny.hook_dict.values())


def test_a_pass_that_a_hook_makes_is_another_one(tiny: HookedGPT2) -> None:
    """Also in another thread: neither its mask and positions nor its values get into ours."""
    rows = [[1, 2, 3], [4]]
    _, alone = tiny.run_with_cache(rows)
    plain, positions = tiny(TOKENS), []

    def run_another(value: Tensor, hook: HookPoint) -> None:
        assert torch.equal(elsewhere(lambda: tiny(TOKENS)), plain)
        assert torch.equal(tiny(TOKENS), plain)

    def note(value: Tensor, hook: HookPoint) -> None:
        assert hook.positions is not None
        positions.append(hook.positions.tolist())

    hooks = [("blocks.0.hook_resid_mid", run_another), (RESID, note)]
    _, cache = tiny.run_with_cache(rows, fwd_hooks=hooks)
    assert positions == [[[0, 1, 2], [0, 0, 0]]]
    assert cache.mask is not None
    assert cache.mask.tolist() == [[True, True, True], [True, False, False]]
    assert {*cache} == {*alone}
    assert all(torch.equal(cache[name], alone[name]) for name in alone)


def test_a_metric_may_run_the_model(tiny: HookedGPT2) -> None:
    """Its pass is not the one whose values, gradients and mask are asked for."""

    def metric(output: Tensor) -> Tensor:
        factor = float(tiny(TOKENS).detach().std())
        return output.sum() * factor

    def gradients(metric: Callable[[Tensor], Tensor]) -> Cache:
        options: dict[str, Any] = {"incl_bwd": True, "metric": metric, "names_filter": RESID}
        return tiny.run_with_cache([[1, 2, 3], [4]], **options)[1]

    cache, factor = gradients(metric), float(tiny(TOKENS).detach().std())
    expected = gradients(lambda output: output.sum() * factor)
    assert cache.mask is not None
    assert cache.mask.tolist() == [[True, True, True], [True, False, False]]
    assert all(torch.equal(cache[name], expected[name]) for name in (RESID, f"{RESID}_grad"))
