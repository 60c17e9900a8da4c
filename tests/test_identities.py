"""What must hold for every GPT-2 and every input, whatever the weights are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from einops import einsum
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_tokens, randomized, seeds, tiny_configs
from torch import Tensor

from circuits import decompose
from circuits.architectures import HookedGPT2
from circuits.cache import Cache
from circuits.hooks import HookPoint, Hooks, site_names

SITES = site_names(TINY.n_layers)
TOKENS = random_tokens(TINY, batch=2, pos=8, seed=1)
OTHERS = random_tokens(TINY, batch=2, pos=8, seed=2)
SCORES = [(lambda name: name.endswith("attn_scores"), lambda value, hook: None)]
a_run = settings(max_examples=20, deadline=None)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@st.composite
def runs(draw: st.DrawFn) -> tuple[HookedGPT2, list[list[int]], Tensor, Cache]:
    """A model of any small shape, prompts of any lengths, and everything that passed its sites."""
    cfg = draw(tiny_configs())
    row = st.lists(st.integers(0, cfg.d_vocab - 1), min_size=1, max_size=cfg.n_ctx)
    rows = draw(st.lists(row, min_size=1, max_size=3))
    model = randomized(cfg, seed=draw(seeds))
    side = draw(st.sampled_from(["left", "right"]))
    with torch.no_grad():
        found = model.run_with_cache(rows, names_filter=list(model.hook_dict), padding_side=side)
    return model, rows, *found


Run = tuple[HookedGPT2, list[list[int]], Tensor, Cache]


@a_run
@given(run=runs())
def test_a_layers_heads_and_bias_sum_to_its_output(run: Run) -> None:
    model, _, _, cache = run
    for layer, block in enumerate(model.blocks):
        total = cache["result", layer].sum(2) + block.attn.b_O
        assert_close(cache["attn_out", layer], total.detach())


@a_run
@given(run=runs())
def test_the_stream_is_the_sum_of_what_was_written(run: Run) -> None:
    model, _, _, cache = run
    stream = cache["embed"] + cache["pos_embed"]
    for layer in range(model.cfg.n_layers):
        assert_close(cache["resid_pre", layer], stream)
        stream = stream + cache["attn_out", layer]
        assert_close(cache["resid_mid", layer], stream)
        stream = stream + cache["mlp_out", layer]
        assert_close(cache["resid_post", layer], stream)


@a_run
@given(run=runs(), data=st.data())
def test_all_parts_project_to_the_logit_difference(run: Run, data: st.DataObject) -> None:
    model, _, logits, cache = run
    token = st.integers(0, model.cfg.d_vocab - 1)
    right, wrong = data.draw(st.lists(token, min_size=2, max_size=2, unique=True))
    parts = cache.get_full_resid_decomposition()
    assert len(parts) == model.cfg.n_layers * (model.cfg.n_heads + model.cfg.d_mlp) + 3
    attributed = cache.logit_attrs(parts, right, wrong).sum(0)
    bias = decompose.logit_bias(model, right, wrong)
    assert_close((attributed + bias).detach(), logits[..., right] - logits[..., wrong])


@a_run
@given(run=runs())
def test_attention_looks_back_and_at_real_tokens_only(run: Run) -> None:
    model, _, _, cache = run
    for layer in range(model.cfg.n_layers):
        pattern = cache["pattern", layer]
        assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        assert not pattern.triu(1).any()  # exactly 0, not nearly
        assert (cache["attn_scores", layer].triu(1) <= 0).all()
        if cache.mask is not None:
            between = cache.mask[:, None, :, None] & ~cache.mask[:, None, None, :]
            assert not pattern[between.expand_as(pattern)].any()


@a_run
@given(run=runs())
def test_every_site_follows_from_those_before_it(run: Run) -> None:
    model, _, logits, cache = run
    for layer, block in enumerate(model.blocks):
        for norm, name, stream in (
            (block.ln1, "ln1", cache["resid_pre", layer]),
            (block.ln2, "ln2", cache["resid_mid", layer]),
        ):
            check_layer_norm(cache, (name, layer), stream, norm.eps)
        scores = einsum(cache["q", layer], cache["k", layer], "b q h e, b k h e -> b h q k")
        scores = scores / math.sqrt(model.cfg.d_head)
        seen = cache["attn_scores", layer].isfinite()
        assert_close(cache["attn_scores", layer][seen], scores[seen])
        assert_close(cache["pattern", layer], cache["attn_scores", layer].softmax(-1))
        z = einsum(cache["pattern", layer], cache["v", layer], "b h q k, b k h e -> b q h e")
        assert_close(cache["z", layer], z)
        assert_close(cache["post", layer], F.gelu(cache["pre", layer], approximate="tanh"))
        for site in ("attn_in", "q_input", "k_input", "v_input"):
            stream = cache["resid_pre", layer].unsqueeze(2)
            assert torch.equal(cache[site, layer], stream.expand_as(cache[site, layer]))
        assert torch.equal(cache["mlp_in", layer], cache["resid_mid", layer])
    check_layer_norm(cache, (None, None), cache["resid_post", -1], model.ln_final.eps)
    read = cache["normalized"] * model.ln_final.w + model.ln_final.b
    assert_close(cache["unembed.hook_in"], read.detach())
    assert_close(logits, (read @ model.W_U + model.b_U).detach())


def check_layer_norm(
    cache: Cache, where: tuple[str | None, int | None], stream: Tensor, eps: float
) -> None:
    name, layer = where
    centered = stream - stream.mean(-1, keepdim=True)
    scale = (centered.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    assert_close(cache["scale", layer, name], scale)
    assert_close(cache["normalized", layer, name], centered / scale)


@a_run
@given(run=runs())
def test_fused_attention_is_explicit_attention(run: Run) -> None:
    model, rows, *_ = run
    for side in ("left", "right"):
        fused = model(rows, padding_side=side)
        with model.hooks(SCORES):
            assert_close(model(rows, padding_side=side), fused)


# --- watching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_watching_a_site_never_changes_a_logit(site: str) -> None:
    for dtype, noise in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        model = randomized(dtype=dtype)
        for given_input in (TOKENS, [[1, 2, 3], [4]]):
            plain = model(given_input)
            watched, _ = model.run_with_cache(given_input, names_filter=site)
            torch.testing.assert_close(watched, plain, atol=noise, rtol=0)
    assert plain.std() > 0.5


def test_watching_all_sites_changes_no_logit(tiny: HookedGPT2) -> None:
    logits, cache = tiny.run_with_cache(TOKENS, names_filter=SITES)
    assert list(cache) == SITES
    torch.testing.assert_close(logits, tiny(TOKENS), atol=1e-12, rtol=0)
    for site in SITES:
        _, alone = tiny.run_with_cache(TOKENS, names_filter=site)
        torch.testing.assert_close(alone[site], cache[site], atol=1e-12, rtol=0)


# --- patching -----------------------------------------------------------------------------------


def patches(cache: Cache, *sites: str) -> Hooks:
    return [(sites, lambda value, hook: cache[hook.name])]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_patching_a_run_into_itself_changes_no_bit(site: str, dtype: torch.dtype) -> None:
    model = randomized(dtype=dtype)
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS, names_filter=site)
        assert torch.equal(model.run_with_hooks(TOKENS, fwd_hooks=patches(cache, site)), logits)
    assert logits.std() > 0.5


def test_patching_a_whole_run_into_itself_changes_no_bit(tiny: HookedGPT2) -> None:
    logits, cache = tiny.run_with_cache(TOKENS, names_filter=SITES)
    assert torch.equal(tiny.run_with_hooks(TOKENS, fwd_hooks=patches(cache, *SITES)), logits)


def test_patching_everything_gives_the_other_run(tiny: HookedGPT2) -> None:
    other, cache = tiny.run_with_cache(OTHERS, names_filter=SITES)
    plain = tiny(TOKENS)
    everything = [
        ("hook_tokens",),
        ("hook_embed",),  # positions are the same in both
        ("blocks.0.hook_resid_pre",),
        ("blocks.1.hook_resid_pre",),
        ("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"),
        ("ln_final.hook_normalized",),
        ("unembed.hook_out",),
    ]
    for sites in everything:
        patched = tiny.run_with_hooks(TOKENS, fwd_hooks=patches(cache, *sites))
        assert_close(patched, other)
    assert (plain - other).abs().max() > 0.5
    assert torch.equal(tiny.run_with_hooks(TOKENS, fwd_hooks=[]), plain)


@pytest.mark.parametrize("layer", range(TINY.n_layers))
def test_patching_every_head_is_patching_the_layer(tiny: HookedGPT2, layer: int) -> None:
    _, cache = tiny.run_with_cache(OTHERS, names_filter=SITES)

    def by_head(value: Tensor, hook: HookPoint) -> None:
        for head in range(TINY.n_heads):
            value[:, :, head] = cache[hook.name][:, :, head]

    whole = tiny.run_with_hooks(TOKENS, fwd_hooks=patches(cache, f"blocks.{layer}.hook_attn_out"))
    for site in ("hook_z", "hook_result"):
        hooks = [(f"blocks.{layer}.attn.{site}", by_head)]
        assert_close(tiny.run_with_hooks(TOKENS, fwd_hooks=hooks), whole)
    qkv = [f"blocks.{layer}.attn.hook_{x}" for x in "qkv"]
    assert_close(tiny.run_with_hooks(TOKENS, fwd_hooks=patches(cache, *qkv)), whole)
    assert (whole - tiny(TOKENS)).abs().max() > 1e-3


def test_nothing_before_a_patched_position_changes(tiny: HookedGPT2) -> None:
    def at_4(value: Tensor, hook: HookPoint) -> None:
        value[:, 4] = 1.0

    plain = tiny(TOKENS)
    patched = tiny.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_resid_pre", at_4)])
    assert_close(patched[:, :4], plain[:, :4])
    assert ((patched - plain)[:, 4:].abs().amax(-1) > 1e-3).all()


def test_attribution_is_patching_where_the_metric_is_linear(tiny: HookedGPT2) -> None:
    """(clean - corrupted) . gradient is the effect of the patch: nothing bends in between."""

    def metric(stream: Tensor) -> Tensor:
        return (stream * torch.arange(16)).sum()

    for site, stop in (("blocks.1.hook_mlp_out", 2), ("blocks.0.hook_mlp_out", 1)):
        _, other = tiny.run_with_cache(OTHERS, names_filter=site)
        stream, cache = tiny.run_with_cache(
            TOKENS, names_filter=site, incl_bwd=True, metric=metric, stop_at_layer=stop
        )
        patched = tiny.run_with_hooks(TOKENS, fwd_hooks=patches(other, site), stop_at_layer=stop)
        effect = metric(patched) - metric(stream)
        assert_close(((other[site] - cache[site]) * cache[site + "_grad"]).sum(), effect)
        assert effect.abs() > 1
