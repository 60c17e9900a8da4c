"""Gradients at every site: against finite differences, and one way of asking against the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError, SiteError
from circuits.hooks import HookPoint, site_names

SITES = [site for site in site_names(TINY.n_layers) if site != "hook_tokens"]
TOKENS = random_tokens(TINY, batch=2, pos=6)
PADDED = [[1, 2, 3, 4], [5, 6]]


def metric(logits: Tensor) -> Tensor:
    """A number in which every position and token has a say, and not a linear one."""
    weights = torch.linspace(-1, 1, logits[0].numel(), dtype=logits.dtype).view_as(logits[0])
    return (logits.log_softmax(-1) * weights).sum()


@pytest.mark.parametrize("site", SITES)
def test_finite_differences(tiny: HookedGPT2, site: str) -> None:
    _, cache = tiny.run_with_cache(TOKENS, names_filter=site, incl_bwd=True, metric=metric)
    gradient = cache[site + "_grad"]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
    if site.endswith("attn_scores"):
        direction = direction.tril()  # above the diagonal a score is minus infinity

    def at(step: float) -> float:
        hooks = [(site, lambda value, hook: value + step * direction)]
        with torch.no_grad():
            return float(metric(tiny.run_with_hooks(TOKENS, fwd_hooks=hooks)))

    step = 1e-5
    slope = (at(step) - at(-step)) / (2 * step)
    assert abs(slope) > 1e-3
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def by_autograd(model: HookedGPT2, site: str, given: object) -> Tensor:
    kept: list[Tensor] = []

    def keep(value: Tensor, hook: HookPoint) -> Tensor:
        value.requires_grad_() if not value.requires_grad else None
        kept.append(value)
        return value

    logits = model.run_with_hooks(given, fwd_hooks=[(site, keep)])
    return torch.autograd.grad(metric(logits), kept[0])[0]


@pytest.mark.parametrize("given", [TOKENS, PADDED], ids=["even", "padded"])
def test_three_ways_to_one_gradient(tiny: HookedGPT2, given: object) -> None:
    """`incl_bwd` of all sites at once, backward hooks, and autograd of one site at a time."""
    _, cache = tiny.run_with_cache(given, names_filter=SITES, incl_bwd=True, metric=metric)
    _, values = tiny.run_with_cache(given, names_filter=SITES)
    seen: dict[str, Tensor] = {}
    hooks = [(SITES, lambda grad, hook: seen.update({hook.name: grad.clone()}))]
    with tiny.hooks(bwd_hooks=hooks):
        metric(tiny(given)).backward()
    assert list(cache)[: len(SITES)] == SITES
    for site in SITES:
        torch.testing.assert_close(cache[site], values[site], atol=1e-12, rtol=0)
        gradient = cache[site + "_grad"]
        torch.testing.assert_close(gradient, seen[site], atol=1e-10, rtol=0, msg=site)
        alone = by_autograd(tiny, site, given)
        torch.testing.assert_close(gradient, alone, atol=1e-10, rtol=0, msg=site)


def test_the_default_metric_is_the_loss(tiny: HookedGPT2) -> None:
    logits, cache = tiny.run_with_cache(PADDED, incl_bwd=True, names_filter="hook_pos_embed")
    torch.testing.assert_close(logits, tiny(PADDED))
    loss = tiny(PADDED, return_type="loss")
    by_weight = torch.autograd.grad(loss, tiny.W_pos)[0]
    torch.testing.assert_close(
        cache["hook_pos_embed_grad"].sum(0), by_weight[:4], atol=1e-10, rtol=0
    )
    assert not cache["hook_pos_embed_grad"][1, 2:].any()  # padding
    same, _ = tiny.run_with_cache(PADDED, incl_bwd=True, return_type="loss")
    torch.testing.assert_close(same, loss)


def test_tokens_have_no_gradient(tiny: HookedGPT2) -> None:
    for names in ("hook_tokens", ["hook_tokens", "hook_embed"]):
        _, cache = tiny.run_with_cache(TOKENS, names_filter=names, incl_bwd=True)
        assert torch.equal(cache["hook_tokens"], TOKENS)
        assert "hook_tokens_grad" not in cache
        assert ("hook_embed_grad" in cache) == (names != "hook_tokens")


def test_a_site_without_influence_has_gradient_zero(tiny: HookedGPT2) -> None:
    last = "blocks.1.hook_mlp_out"
    _, cache = tiny.run_with_cache(
        TOKENS,
        incl_bwd=True,
        names_filter=[last, "blocks.1.hook_attn_out"],
        fwd_hooks=[("blocks.1.hook_resid_post", lambda value, hook: value.detach() * 1)],
        metric=metric,
    )
    assert not cache[last + "_grad"].any()
    assert cache[last].any()


def test_gradients_of_an_edited_run(tiny: HookedGPT2) -> None:
    """What a later edit throws away has no influence."""

    def z_grad(factor: float) -> Tensor:
        hooks = [("blocks.1.hook_attn_out", lambda value, hook: value * factor)]
        _, cache = tiny.run_with_cache(
            TOKENS, incl_bwd=True, fwd_hooks=hooks, names_filter="z1", metric=metric
        )
        return cache["z_grad", 1]

    assert not z_grad(0.0).any()
    assert z_grad(1.0).any()


def test_a_backward_hook_may_change_the_gradient(tiny: HookedGPT2) -> None:
    def through(site: str, factor: float) -> Tensor:
        with tiny.hooks(bwd_hooks=[(site, lambda grad, hook: grad * factor)]):
            return torch.autograd.grad(metric(tiny(TOKENS)), tiny.W_pos)[0]

    plain, none, double = (through("blocks.0.hook_attn_out", factor) for factor in (1.0, 0.0, 2.0))
    torch.testing.assert_close(plain, torch.autograd.grad(metric(tiny(TOKENS)), tiny.W_pos)[0])
    torch.testing.assert_close(double - plain, plain - none)
    assert not torch.allclose(double, plain)
    torch.testing.assert_close(through("hook_pos_embed", 3.0), plain * 3)


def test_slices_and_devices(tiny: HookedGPT2) -> None:
    _, whole = tiny.run_with_cache(TOKENS, incl_bwd=True)
    _, last = tiny.run_with_cache(TOKENS, incl_bwd=True, pos_slice=-1)
    for name in ("hook_embed_grad", "blocks.1.attn.hook_pattern_grad", "blocks.0.attn.hook_k_grad"):
        expected = whole[name][:, :, -1] if "pattern" in name else whole[name][:, -1]
        assert torch.equal(last[name], expected)
    _, meta = tiny.run_with_cache(TOKENS, incl_bwd=True, device="meta")
    assert meta["hook_embed_grad"].device.type == "meta"


def test_gradients_work_inside_no_grad(tiny: HookedGPT2) -> None:
    _, expected = tiny.run_with_cache(TOKENS, incl_bwd=True)
    with torch.no_grad():
        _, cache = tiny.run_with_cache(TOKENS, incl_bwd=True)
    for name, value in expected.items():
        torch.testing.assert_close(cache[name], value)


@pytest.mark.parametrize(
    "wrong",
    [lambda logits: logits, lambda logits: 1.0, lambda logits: logits.sum().detach()],
    ids=["tensor", "number", "detached"],
)
def test_metrics_that_have_no_gradient(tiny: HookedGPT2, wrong: object) -> None:
    with pytest.raises(CircuitsError, match="a metric that returns one number, a scalar tensor"):
        tiny.run_with_cache(TOKENS, incl_bwd=True, metric=wrong)


def test_a_backward_hook_without_gradients(tiny: HookedGPT2) -> None:
    with (
        torch.no_grad(),
        pytest.raises(SiteError, match="no gradient flows there; run with gradients enabled"),
    ):
        tiny.run_with_hooks(TOKENS, bwd_hooks=[("hook_embed", lambda grad, hook: None)])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_gradients_where_torch_records_none(tiny: HookedGPT2, mode: Any) -> None:
    """`incl_bwd` asks for gradients, whatever mode it is called in, and whatever was made there."""
    _, expected = tiny.run_with_cache([[1, 2, 3], [4]], incl_bwd=True)
    with mode():
        tokens, mask = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
        resid = tiny(tokens, attention_mask=mask, stop_at_layer=1)
        loss, cache = tiny.run_with_cache(tokens, attention_mask=mask, incl_bwd=True)
        _, rows = tiny.run_with_cache([[1, 2, 3], [4]], incl_bwd=True)
        _, later = tiny.run_with_cache(
            resid, start_at_layer=1, incl_bwd=True, metric=torch.sum, names_filter="resid_post1"
        )
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    for name, value in expected.items():
        assert torch.equal(cache[name], value), name
        assert torch.equal(rows[name], value), name
    assert bool(later["resid_post_grad", 1].any())
    assert not loss[0].is_inference()


def test_weights_made_in_inference_mode_have_no_gradients() -> None:
    with torch.inference_mode():
        model = HookedGPT2.random(TINY)
        with pytest.raises(CircuitsError, match="made in inference_mode; load or build the model"):
            model.run_with_cache([[1, 2]], incl_bwd=True)
