"""Hooks: what they are given, what they may return, and that nothing of them stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.errors import SiteError
from circuits.hooks import HookPoint, site_names, take

SITES = site_names(TINY.n_layers)
TOKENS = random_tokens(TINY, batch=2, pos=6)
RESID = "blocks.1.hook_resid_pre"


def watched(model: HookedGPT2) -> list[str]:
    return [name for name, hook in model.hook_dict.items() if hook.watched]


def test_a_model_has_these_sites(tiny: HookedGPT2) -> None:
    assert list(tiny.hook_dict) == SITES
    assert len(SITES) == 7 + 23 * TINY.n_layers
    assert all(hook.name == name for name, hook in tiny.hook_dict.items())


@pytest.mark.parametrize("site", SITES)
def test_a_hook_may_return_nothing_the_value_or_a_new_one(tiny: HookedGPT2, site: str) -> None:
    """The first two change nothing; a new value, or an edit in place, does, at every site."""

    def new(value: Tensor, hook: HookPoint) -> Tensor:
        if site == "hook_tokens":
            return (value + 1) % TINY.d_vocab
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        return value + noise.abs()

    def in_place(value: Tensor, hook: HookPoint) -> None:
        value[:] = new(value, hook)

    plain = tiny(TOKENS)
    for fn in (lambda value, hook: None, lambda value, hook: value):
        same = tiny.run_with_hooks(TOKENS, fwd_hooks=[(site, fn)])
        torch.testing.assert_close(same, plain, atol=1e-12, rtol=0)
    edited = tiny.run_with_hooks(TOKENS, fwd_hooks=[(site, new)])
    assert (edited - plain).abs().max() > 1e-3
    assert torch.equal(tiny.run_with_hooks(TOKENS, fwd_hooks=[(site, in_place)]), edited)


@pytest.mark.parametrize("wrong", [1.0, "x", torch.zeros(3), torch.zeros(2, 6, 15)])
def test_a_hook_that_returns_something_else(tiny: HookedGPT2, wrong: Any) -> None:
    with pytest.raises(SiteError, match=rf"hook on '{RESID}' returned .* shape \(2, 6, 16\)"):
        tiny.run_with_hooks(TOKENS, fwd_hooks=[(RESID, lambda value, hook: wrong)])


def test_hooks_know_where_they_are(tiny: HookedGPT2) -> None:
    seen = []

    def note(value: Tensor, hook: HookPoint) -> None:
        assert hook.positions is not None
        seen.append((hook.name, hook.layer(), hook.positions.tolist(), hook.run.mask))

    tiny.run_with_hooks(TOKENS[:1, :3], fwd_hooks=[(RESID, note)])
    assert seen == [(RESID, 1, [[0, 1, 2]], None)]
    with pytest.raises(SiteError, match="'hook_embed' is outside the blocks"):
        tiny.hook_dict["hook_embed"].layer()


def test_several_hooks_act_in_their_order(tiny: HookedGPT2) -> None:
    def double(value: Tensor, hook: HookPoint) -> Tensor:
        return value * 2

    def one_more(value: Tensor, hook: HookPoint) -> Tensor:
        return value + 1

    def run(*fns: Any) -> Tensor:
        _, cache = tiny.run_with_cache(TOKENS, fwd_hooks=[(RESID, fn) for fn in fns])
        return cache[RESID]

    plain = run(double) / 2
    torch.testing.assert_close(run(double, one_more), plain * 2 + 1)
    torch.testing.assert_close(run(one_more, double), plain * 2 + 2)
    torch.testing.assert_close(run(double, double), plain * 4)


def test_hooks_may_take_their_point_by_name(tiny: HookedGPT2) -> None:
    """As hooks written for TransformerLens do, often through `functools.partial`."""

    def scale(value: Tensor, factor: float, hook: HookPoint) -> Tensor:
        assert hook.name == RESID
        return value * factor

    by_name = tiny.run_with_hooks(TOKENS, fwd_hooks=[(RESID, partial(scale, factor=2.0))])
    by_place = tiny.run_with_hooks(TOKENS, fwd_hooks=[(RESID, lambda value, point: value * 2)])
    assert torch.equal(by_name, by_place)
    zeros = tiny.run_with_hooks(TOKENS, fwd_hooks=[(RESID, lambda value, hook: value * 0)])
    assert not torch.equal(by_name, zeros)


@pytest.mark.parametrize(
    ("names", "n_sites"),
    [
        (RESID, 1),
        ("pattern1", 1),
        (["embed", RESID], 2),
        (lambda name: name.endswith("hook_z"), TINY.n_layers),
        (None, len(SITES)),
    ],
)
def test_ways_to_name_sites(tiny: HookedGPT2, names: Any, n_sites: int) -> None:
    seen: list[str] = []
    hooks = [(names, lambda value, hook: seen.append(hook.name))]
    tiny.run_with_hooks(TOKENS, fwd_hooks=hooks)
    assert len(seen) == n_sites
    assert seen == [site for site in SITES if site in seen]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("blocks.0.hook_residpre", "no site 'blocks.0.hook_residpre'.*did you mean 'blocks.0.hoo"),
        ("blocks.0.attn.hook_zz", "did you mean 'blocks.0.attn.hook_z'"),
        ("blocks.7.hook_resid_pre", "its blocks are 0 to 1"),
        ("pattern5", "no site 'pattern5' in this model; its blocks are 0 to 1"),
        (["hook_embed", "hook_embedd"], "no site 'hook_embedd'.*did you mean 'hook_embed'"),
        ("nonsense", r"no site 'nonsense' in this model.*\(model.hook_dict lists them\)"),
        (lambda name: "hook_q_in" in name and "5" in name, "matches none of the 53 sites"),
        ([], "names filter is empty"),
    ],
)
@pytest.mark.parametrize("kind", ["fwd_hooks", "bwd_hooks"])
def test_sites_that_do_not_exist(tiny: HookedGPT2, names: Any, message: str, kind: str) -> None:
    with pytest.raises(SiteError, match=message) as error:
        tiny.run_with_hooks(TOKENS, **{kind: [(names, lambda value, hook: None)]})
    assert not str(error.value).startswith('"')  # a KeyError would print the message's repr
    assert not watched(tiny)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ("blocks.1.hook_mlp_out", {"stop_at_layer": 1}),
        (["hook_embed", "unembed.hook_out"], {"stop_at_layer": 1}),
        ("hook_embed", {"start_at_layer": 1}),
        (lambda name: "blocks.1" in name, {"stop_at_layer": 1}),
    ],
)
def test_hooks_that_never_fired(tiny: HookedGPT2, names: Any, options: dict[str, int]) -> None:
    given = torch.zeros(1, 2, 16).double() if "start_at_layer" in options else TOKENS
    with pytest.raises(SiteError, match="hooked but never reached: '.*check start_at_layer"):
        tiny.run_with_hooks(given, fwd_hooks=[(names, lambda value, hook: None)], **options)
    assert not watched(tiny)


def test_a_family_of_sites_may_be_reached_in_part(tiny: HookedGPT2) -> None:
    seen: list[str] = []
    hooks = [(lambda name: "resid_pre" in name, lambda value, hook: seen.append(hook.name))]
    tiny.run_with_hooks(TOKENS, fwd_hooks=hooks, stop_at_layer=1)
    assert seen == ["blocks.0.hook_resid_pre"]


def test_a_hook_in_a_block_without_a_run(tiny: HookedGPT2) -> None:
    with (
        pytest.raises(SiteError, match="never reached: 'hook_embed'; run the model inside"),
        tiny.hooks([("hook_embed", lambda value, hook: None)]),
    ):
        pass


def test_hooks_are_gone_after_an_exception(tiny: HookedGPT2) -> None:
    plain = tiny(TOKENS)
    double, fail = (lambda value, hook: value * 2), (lambda value, hook: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny.run_with_hooks(TOKENS, fwd_hooks=[(RESID, double), ("embed", fail)])
    with pytest.raises(ZeroDivisionError):
        tiny.run_with_cache(TOKENS, fwd_hooks=[("blocks.1.attn.hook_z", fail)])
    with pytest.raises(ZeroDivisionError), tiny.hooks([(RESID, double)], [("embed", fail)]):
        tiny(TOKENS, return_type="loss").backward()
    with pytest.raises(KeyboardInterrupt), tiny.hooks([(RESID, double)]):
        raise KeyboardInterrupt
    assert not watched(tiny)
    assert torch.equal(tiny(TOKENS), plain)


def test_hooks_nest_and_each_removes_its_own(tiny: HookedGPT2) -> None:
    counts = [0, 0]

    def count(i: int, value: Tensor, hook: HookPoint) -> None:
        counts[i] += 1

    with tiny.hooks([(RESID, partial(count, 0))]):
        with tiny.hooks([(RESID, partial(count, 1))]):
            tiny(TOKENS)
        tiny(TOKENS)
        tiny.run_with_cache(TOKENS)
    tiny(TOKENS)
    assert counts == [3, 1]


def test_two_models_do_not_share_hooks(tiny: HookedGPT2) -> None:
    other = HookedGPT2.random(TINY).double()
    with tiny.hooks([(RESID, lambda value, hook: value * 0)]):
        assert not watched(other)
        plain = other(TOKENS)
        tiny(TOKENS)
    assert torch.equal(other(TOKENS), plain)


def test_in_place_edits_do_not_reach_a_cache_of_the_same_call(tiny: HookedGPT2) -> None:
    """`resid_post` of block 0, `resid_pre` of block 1 and others are the same stream."""
    _, plain = tiny.run_with_cache(TOKENS)

    def wipe(value: Tensor, hook: HookPoint) -> None:
        value.zero_()

    _, cache = tiny.run_with_cache(TOKENS, fwd_hooks=[(RESID, wipe)])
    upstream = SITES[: SITES.index(RESID)]
    for site in upstream:
        if site in plain:
            assert torch.equal(cache[site], plain[site]), site
    assert not cache[RESID].any()


def test_editing_a_value_that_was_kept_changes_no_run(tiny: HookedGPT2) -> None:
    """A hook that keeps its value and writes into it later writes into its own copy."""
    kept: list[Tensor] = []
    plain = tiny(TOKENS)

    def keep(value: Tensor, hook: HookPoint) -> None:
        kept.append(value)

    def spoil(value: Tensor, hook: HookPoint) -> None:
        kept[0].detach().zero_()

    hooks = [(RESID, keep), ("blocks.1.ln1.hook_normalized", spoil)]
    run = tiny.run_with_hooks(TOKENS, fwd_hooks=hooks)
    assert not torch.equal(run, plain)  # the copy is the value that goes on
    assert torch.equal(tiny(TOKENS), plain)


def test_a_copy_of_a_model_has_no_hooks(tiny: HookedGPT2) -> None:
    plain = tiny(TOKENS)
    with tiny.hooks([(RESID, lambda value, hook: value * 0)]):
        twin = copy.deepcopy(tiny)
        assert not watched(twin)
        assert torch.equal(twin(TOKENS), plain)
        tiny(TOKENS)


@pytest.mark.parametrize("site", SITES)
def test_a_hook_that_returns_another_kind_of_number(tiny: HookedGPT2, site: str) -> None:
    wrong = torch.int32 if site == "hook_tokens" else torch.float32
    name = str(wrong).removeprefix("torch.")
    message = rf"the hook on '{site}' returned \(.*\), {name} on cpu; return .*(float64|int64) on"
    for fn in (lambda value, hook: value.to(wrong), lambda value, hook: value.to(wrong, copy=True)):
        with pytest.raises(SiteError, match=message):
            tiny.run_with_hooks(TOKENS, fwd_hooks=[(site, fn)])


def test_a_hook_that_returns_a_value_of_another_device(tiny: HookedGPT2) -> None:
    with pytest.raises(SiteError, match=rf"'{RESID}' returned .*float64 on meta; .*float64 on cpu"):
        tiny.run_with_hooks(TOKENS, fwd_hooks=[(RESID, lambda value, hook: value.to("meta"))])


def gradient(model: HookedGPT2, returned: Callable[[Tensor], Any]) -> Tensor:
    with model.hooks(bwd_hooks=[(RESID, lambda grad, hook: returned(grad))]):
        loss = model(TOKENS, return_type="loss")
        (grad,) = torch.autograd.grad(loss, model.blocks[0].mlp.b_out)
        return grad


def test_a_backward_hook_may_return_a_tuple_as_torch_does(tiny: HookedGPT2) -> None:
    plain = gradient(tiny, lambda grad: None)
    assert torch.equal(gradient(tiny, lambda grad: (grad * 2,)), plain * 2)
    assert torch.equal(gradient(tiny, lambda grad: grad * 2), plain * 2)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda grad: (grad, grad), "tuple"),
        (lambda grad: (), "tuple"),
        (lambda grad: 1.0, "float"),
        (lambda grad: (1.0,), "float"),
        (lambda grad: grad[0], r"\(6, 16\), float64"),
        (lambda grad: grad.float(), r"\(2, 6, 16\), float32"),
    ],
)
def test_a_backward_hook_that_returns_something_else(
    tiny: HookedGPT2, returned: Callable[[Tensor], Any], got: str
) -> None:
    message = rf"the backward hook on '{RESID}' returned {got}.* shape \(2, 6, 16\), float64 on cpu"
    with pytest.raises(SiteError, match=message):
        gradient(tiny, returned)


def test_backward_hooks_know_the_positions_of_their_pass(tiny: HookedGPT2) -> None:
    seen: list[Any] = []

    def note(grad: Tensor, hook: HookPoint) -> None:
        assert hook.positions is not None
        seen.append(hook.positions.tolist())

    with tiny.hooks(bwd_hooks=[(RESID, note)]):
        loss = tiny([[1, 2, 3], [4]], return_type="loss")
        tiny(TOKENS)  # another pass before the gradients are asked for
        loss.backward()
    assert seen == [[[0, 1, 2], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("pos_slice", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (2, 2),
        (-1, 3),
        (slice(1, 3), [1, 2]),
        ((0, 4, 2), [0, 2]),
        ([3, 0], [3, 0]),
        (torch.tensor([1, 1]), [1, 1]),
    ],
)
def test_ways_to_take_positions(pos_slice: Any, expected: Any) -> None:
    assert take(torch.arange(4), pos_slice, -1).tolist() == expected
    assert take(torch.arange(4)[None, :, None], pos_slice, -2).flatten().tolist() == (
        expected if isinstance(expected, list) else [expected]
    )
