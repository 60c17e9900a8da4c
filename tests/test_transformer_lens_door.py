"""Hooks, caches and passes at the door, value by value against TransformerLens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lens_door import SITE, TEXTS, TOKENS, assert_close, assert_folded, double, their_model, twin
from lens_twin import IGNORE_DEPRECATION
from torch import Tensor, nn

from circuits.transformer_lens import (
    ActivationCache,
    HookedRootModule,
    HookedTransformer,
    HookPoint,
)

transformer_lens = pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return their_model()


@pytest.fixture
def ours(theirs: Any) -> HookedTransformer:
    return twin(theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_type": "loss"},
        {"return_type": "loss", "loss_per_token": True},
        {"return_type": "both"},
        {"stop_at_layer": 1},
        {"stop_at_layer": -1},
        {"prepend_bos": False},
        {"padding_side": "left", "return_type": "loss"},
        {"padding_side": "right", "return_type": "loss"},
    ],
    ids=str,
)
@pytest.mark.parametrize("given", [TOKENS, TEXTS[0], TEXTS], ids=["tokens", "text", "texts"])
def test_forward_is_theirs(
    given: Any, options: dict[str, Any], ours: HookedTransformer, theirs: Any
) -> None:
    mine, other = (model(given, **options) for model in (ours, theirs))
    if options.get("return_type") == "both":
        assert_close(mine.loss, other.loss)
        mine, other = mine.logits, other.logits
    if options.get("padding_side") == "left" and mine.ndim == 3:
        mine, other = mine[:, -1], other[:, -1]  # padding itself is read differently
    assert_close(mine, other)


def test_the_same_sites_pass_by_default_and_behind_flags(
    ours: HookedTransformer, theirs: Any
) -> None:
    flags = ("attn_result", "split_qkv_input", "hook_mlp_in", "attn_in")
    for flag in (None, *flags):
        for model in (ours, theirs):
            for name in flags:
                getattr(model, f"set_use_{name}")(name == flag)
        for wanted in (None, lambda name: True):
            mine, other = (m.run_with_cache(TOKENS, names_filter=wanted)[1] for m in (ours, theirs))
            assert {*mine} == {*other}
            assert flag or list(mine) == list(other)
            for name, value in other.items():
                if mine[name].shape == value.shape:  # norms see heads apart there
                    assert_close(mine[name], value, msg=lambda text, name=name: f"{name}: {text}")
    for name in flags:
        getattr(theirs, f"set_use_{name}")(False)


def test_gradients_are_cached_alike(ours: HookedTransformer, theirs: Any) -> None:
    mine, other = (
        model.run_with_cache(TOKENS, return_type="loss", incl_bwd=True)[1]
        for model in (ours, theirs)
    )
    assert {*mine} == {*other}
    for name, value in other.items():
        if ".ln1." not in name:  # theirs keeps one of three branches
            assert_close(mine[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_hooks_stay_until_they_are_reset(ours: HookedTransformer, theirs: Any) -> None:
    plain = ours(TOKENS)
    outputs: list[list[Tensor]] = []
    for model in (ours, theirs):
        seen: list[Tensor] = []

        def note(value: Tensor, hook: Any, seen: list[Tensor] = seen) -> None:
            hook.ctx["sum"] = value.sum().item()
            seen.append(value.detach().clone())

        model.add_hook(SITE, double, level=1)
        model.add_hook(SITE, note, prepend=True)
        model.add_perma_hook("blocks.0.attn.hook_z", double)
        seen.append(model(TOKENS))
        assert len(model.hook_dict[SITE].fwd_hooks) == 2
        assert "sum" in model.hook_dict[SITE].ctx
        model.reset_hooks(level=1)
        seen.append(model(TOKENS))
        model.reset_hooks()
        assert not model.hook_dict[SITE].ctx
        seen.append(model(TOKENS))
        model.reset_hooks(including_permanent=True)
        seen.append(model(TOKENS))
        outputs.append(seen)
    for mine, other in zip(*outputs, strict=True):
        assert_close(mine, other)
    assert_close(outputs[0][-1], plain)


def test_hooks_are_as_lenient_as_there(ours: HookedTransformer, theirs: Any) -> None:
    for parameter in [*ours.parameters(), *theirs.parameters()]:
        parameter.requires_grad_(False)
    outputs = []
    for model in (ours, theirs):
        model.add_hook(lambda name: False, double)
        with model.hooks([(lambda name: True, lambda value, hook: None)]):
            model(TOKENS)
        model.add_hook(SITE, lambda grad, hook: None, dir="bwd")
        model.add_hook("hook_embed", lambda value, hook: value.mean((0, 1), keepdim=True))

        def zero(value: Tensor, hook: Any) -> None:
            value[:, 2] = 0

        model.hook_dict["blocks.0.attn.hook_q"].add_hook(zero)
        outputs.append(model(TOKENS))
        model.reset_hooks()
    for parameter in theirs.parameters():
        parameter.requires_grad_(True)
    assert_close(*outputs)


def test_backward_hooks_stay_where_asked(ours: HookedTransformer, theirs: Any) -> None:
    grads = []
    for model in (ours, theirs):
        seen: list[Tensor] = []
        hooks = [(SITE, lambda grad, hook, seen=seen: seen.append(grad))]
        model.run_with_hooks(
            TOKENS, return_type="loss", bwd_hooks=hooks, reset_hooks_end=False
        ).backward()
        model.reset_hooks()
        grads.append(seen[0])
    assert_close(*grads)


def test_caching_hooks_fill_a_dictionary(ours: HookedTransformer, theirs: Any) -> None:
    caches = []
    for model in (ours, theirs):
        cache = model.add_caching_hooks(lambda name: name.endswith("hook_z"))
        some: dict[str, Tensor] = {}
        model.cache_some(some, lambda name: name == SITE)
        model(TOKENS)
        model.reset_hooks()
        caches.append(cache | some)
    assert list(caches[0]) == list(caches[1])
    assert_close(*caches)
    _, as_dict = ours.run_with_cache(TOKENS, return_cache_object=False)
    assert type(as_dict) is dict


def test_hook_points_are_modules_and_can_be_replaced(ours: HookedTransformer) -> None:
    class Twice(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return value * 2

    expected = ours.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_result", double)])
    assert isinstance(ours.mod_dict["blocks.0.attn.hook_result"], nn.Module)
    ours.blocks[0].attn.hook_result = Twice()
    assert_close(ours(TOKENS), expected)


def test_the_cache_has_their_methods(ours: HookedTransformer, theirs: Any) -> None:
    ours.process_weights_()
    other_model = copy.deepcopy(theirs)
    other_model.process_weights_()
    mine, other = (m.run_with_cache(TOKENS)[1] for m in (ours, other_model))
    assert isinstance(mine, ActivationCache)
    for method, *given in (
        ("accumulated_resid", -1, True, True),
        ("decompose_resid", 1, True, "attn", True),
        ("stack_head_results", -1, False, True, None, True),
        ("stack_neuron_results", 2, -1, (1, 4), False, True),
        ("get_neuron_results", 1, [2, 5], 3),
        ("get_full_resid_decomposition", None, False, True, True),
    ):
        assert_folded(
            getattr(mine, method)(*given),
            getattr(other, method)(*given),
            msg=lambda text, method=method: f"{method}: {text}",
        )
    for cache in (mine, other):
        cache.compute_head_results()
    assert_folded(mine.cache_dict["blocks.1.attn.hook_result"], other["result", 1])
    stack = mine.decompose_resid()
    assert_folded(mine.logit_attrs(stack, 3, 5), other.logit_attrs(stack, 3, 5))
    bare = ours.run_with_cache(TOKENS[:1])[1]
    assert bare.remove_batch_dim() is bare
    assert bare["z", 0].ndim == 3


def test_attribution_on_raw_weights_tells_of_the_difference(ours: HookedTransformer) -> None:
    _, cache = ours.run_with_cache(TOKENS)
    with pytest.warns(UserWarning, match="not folded"):
        cache.apply_ln_to_stack(cache.decompose_resid())


def test_toy_modules_are_hooked() -> None:
    class Toy(HookedRootModule):
        def __init__(self) -> None:
            super().__init__()
            self.hook_x = HookPoint()
            self.setup()

        def forward(self, x: Tensor) -> Tensor:
            return self.hook_x(x) + 1

    out, cache = Toy().run_with_cache(torch.ones(2, 3))
    assert torch.equal(out, cache["hook_x"] + 1)
