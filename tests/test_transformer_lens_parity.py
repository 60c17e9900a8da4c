"""The model against TransformerLens' `HookedTransformer`: every site, gradients, and its tools."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lens_twin import IGNORE_DEPRECATION, lens_twin
from random_models import TINY, random_tokens, randomized

from circuits.analyses.patch import patch
from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.errors import SiteError
from circuits.prompts import Example, assemble
from circuits.sites import BLOCK_SITES, MORE_SITES, get_act_name, site_names
from circuits.tokenizer import END_OF_TEXT, Tokenizer

pytest.importorskip("transformer_lens")
from transformer_lens import HookedTransformer, head_detector, patching

pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)

SITES = site_names(TINY.n_layers)
TOKENS = random_tokens(TINY, batch=3, pos=8)
FLAGS = {  # what HookedTransformer has to be told before it has the site
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
}
assert_close = partial(torch.testing.assert_close, atol=1e-10, rtol=1e-10)


@pytest.fixture(scope="module")
def ours() -> HookedGPT2:
    return randomized()


@pytest.fixture
def theirs(ours: HookedGPT2) -> HookedTransformer:
    return lens_twin(ours, use_hook_tokens=True)


def flag_of(site: str) -> str | None:
    return FLAGS.get(site.removesuffix("_grad").rpartition(".")[2])


def set_flag(theirs: HookedTransformer, wanted: str | None) -> None:
    """One flag at a time: with two, HookedTransformer's sites change shape."""
    for flag in set(FLAGS.values()):
        getattr(theirs, f"set_{flag}")(flag == wanted)


def every_site(theirs: HookedTransformer, **options: Any) -> dict[str, torch.Tensor]:
    """Each site's value, in the run that has only the flag that this site needs."""
    values = {}
    for flag in [None, *set(FLAGS.values())]:
        set_flag(theirs, flag)
        _, cache = theirs.run_with_cache(TOKENS, **options)
        values |= {name: value for name, value in cache.items() if flag_of(name) == flag}
    return values


def is_lens_2(theirs: HookedTransformer) -> bool:
    """TransformerLens 2 hooks no unembedding, and `hook_normalized` after LayerNorm's w and b."""
    return "unembed.hook_in" not in theirs.hook_dict


def comparable(theirs: HookedTransformer, site: str) -> bool:
    return not (is_lens_2(theirs) and ("unembed." in site or "normalized" in site))


def test_every_site_has_their_name_shape_and_value(
    ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    logits, cache = ours.run_with_cache(TOKENS, names_filter=SITES)
    expected = every_site(theirs)
    assert list(cache) == SITES == list(ours.hook_dict)
    assert set(expected) == {s for s in SITES if not (is_lens_2(theirs) and "unembed." in s)}
    assert_close(logits, theirs(TOKENS))
    for name, value in expected.items():
        assert cache[name].shape == value.shape, name
        if comparable(theirs, name):
            assert_close(cache[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_sites_pass_in_their_order(theirs: HookedTransformer) -> None:
    set_flag(theirs, None)
    passed = list(theirs.run_with_cache(TOKENS)[1])
    assert passed == [site for site in SITES if site in passed]
    assert len(passed) >= len(SITES) - 2 - len(FLAGS) * TINY.n_layers


@pytest.mark.parametrize("site", SITES)
def test_watching_one_site_shows_the_same(
    site: str, ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    logits, cache = ours.run_with_cache(TOKENS, names_filter=site)
    assert_close(logits, ours(TOKENS))
    if comparable(theirs, site):
        set_flag(theirs, flag_of(site))
        assert_close(cache[site], theirs.run_with_cache(TOKENS, names_filter=site)[1][site])


@pytest.mark.parametrize("site", SITES)
def test_an_edit_has_the_same_effect(
    site: str, ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    if not comparable(theirs, site):
        pytest.skip("this version of TransformerLens has another site of this name")

    def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:
        if not value.is_floating_point():
            return (value + 1) % TINY.d_vocab
        ramp = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)
        return value * ramp

    set_flag(theirs, flag_of(site))
    expected = theirs.run_with_hooks(TOKENS, fwd_hooks=[(site, edit)])
    assert (expected - theirs(TOKENS)).abs().max() > 1e-6
    assert_close(ours.run_with_hooks(TOKENS, fwd_hooks=[(site, edit)]), expected)


def test_gradients_agree_at_every_site(ours: HookedGPT2, theirs: HookedTransformer) -> None:
    sites = [site for site in SITES if site != "hook_tokens"]
    loss, cache = ours.run_with_cache(TOKENS, return_type="loss", incl_bwd=True, names_filter=sites)
    assert_close(loss, theirs(TOKENS, return_type="loss"))
    expected = every_site(theirs, return_type="loss", incl_bwd=True)
    gradients = {n: g for n, g in expected.items() if n.endswith("_grad")}
    assert len(gradients) >= len(sites) - 2
    for name, gradient in gradients.items():
        # HookedTransformer caches only one of the three branches (q, k, v) that read ln1.
        if comparable(theirs, name) and ".ln1." not in name:
            assert_close(cache[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("site", SITES[1:])
def test_a_backward_hook_sees_their_gradient(
    site: str, ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    if not comparable(theirs, site):
        pytest.skip("this version of TransformerLens has another site of this name")
    set_flag(theirs, flag_of(site))
    totals = []
    for model in (ours, theirs):
        seen: list[torch.Tensor] = []
        with model.hooks(
            bwd_hooks=[(site, lambda gradient, hook, seen=seen: seen.append(gradient))]
        ):
            model(TOKENS, return_type="loss").backward()
        model.zero_grad()
        # HookedTransformer runs ln1 three times, for queries, keys and values.
        assert len(seen) == 1 or (model is theirs and ".ln1." in site)
        totals.append(sum(seen))
    assert_close(*totals)


@pytest.mark.parametrize(
    "options",
    [
        {"return_type": "loss"},
        {"return_type": "loss", "loss_per_token": True},
        {"return_type": "both"},
        {"return_type": None},
        {"stop_at_layer": 1},
        {"stop_at_layer": 0},
        {"stop_at_layer": -1},
    ],
    ids=str,
)
def test_forward_takes_their_options(
    options: dict[str, Any], ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    mine, other = ours(TOKENS, **options), theirs(TOKENS, **options)
    if other is None:
        assert mine is None
    else:
        assert_close(mine, tuple(other) if isinstance(other, tuple) else other)


def test_forward_starts_and_stops_at_a_layer(ours: HookedGPT2, theirs: HookedTransformer) -> None:
    resid = theirs(TOKENS, stop_at_layer=1).detach()
    assert_close(ours(resid, start_at_layer=1), theirs(resid, start_at_layer=1))
    assert_close(
        ours(resid, start_at_layer=1, stop_at_layer=2),
        theirs(resid, start_at_layer=1, stop_at_layer=2),
    )


def test_weights_and_configuration_have_their_names(
    ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    names = "W_E W_pos W_Q W_K W_V W_O b_Q b_K b_V b_O W_in b_in W_out b_out W_U b_U".split()
    for name in names:
        assert_close(getattr(ours, name), getattr(theirs, name), msg=name)
    for name in (
        *("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab", "eps", "dtype"),
        *("act_fn", "normalization_type", "n_key_value_heads", "default_prepend_bos"),
    ):
        assert getattr(ours.cfg, name) == getattr(theirs.cfg, name), name
    assert torch.device(theirs.cfg.device) == ours.cfg.device
    ids = torch.tensor([3, 1])
    assert_close(ours.tokens_to_residual_directions(ids), theirs.tokens_to_residual_directions(ids))
    assert_close(ours.tokens_to_residual_directions(4), theirs.tokens_to_residual_directions(4))


short_names = st.sampled_from(
    "embed pos_embed tokens resid_pre resid_mid resid_post attn_out mlp_out attn_in mlp_in q_input "
    "k_input v_input q k v z result pattern attn_scores attn attn_logits key query value pre post "
    "mid mlp_pre mlp_mid mlp_post scale normalized rot_q rot_k pre_linear".split()
)
layer_types = st.sampled_from(
    [None, "", "a", "m", "b", "block", "blocks", "attn", "mlp", "attention", "ln1", "ln2"]
)


@given(name=short_names, layer=st.none() | st.integers(0, 120), layer_type=layer_types)
def test_short_names_mean_the_same(name: str, layer: int | None, layer_type: str | None) -> None:
    if layer is None:  # a part of a block that is in no block
        layer_type = None
    expected = patching.utils.get_act_name(name, layer, layer_type)
    assert_same_or_no_site(expected, name, layer, layer_type)


# Only names without an underscore: TransformerLens does not split `resid_pre3`.
@given(
    name=short_names.filter(lambda name: "_" not in name),
    layer=st.integers(0, 120),
    layer_type=layer_types.filter(bool),
)
def test_compact_names_mean_the_same(name: str, layer: int, layer_type: str) -> None:
    for compact in (f"{name}{layer}", f"{name}{layer}{layer_type}"):
        assert_same_or_no_site(patching.utils.get_act_name(compact), compact)


def assert_same_or_no_site(expected: str, *asked: str | int | None) -> None:
    """What they expand to a site is that site here; what they expand to none is an error."""
    block, _, rest = expected.partition(".")[2].partition(".")
    known = {*BLOCK_SITES, *(site for sites in MORE_SITES.values() for site in sites)}
    if expected in SITES or (block.isdigit() and rest in known):
        assert get_act_name(*asked) == expected  # type: ignore[arg-type]
    else:
        with pytest.raises(SiteError, match="there is no site"):
            get_act_name(*asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("site", SITES)
def test_a_full_name_is_its_own_short_name(site: str) -> None:
    assert get_act_name(site) == patching.utils.get_act_name(site) == site


PATCHES = [
    *("resid_pre", "resid_mid", "attn_out", "mlp_out"),
    *(f"attn_head_{part}_by_pos" for part in ("out", "q", "k", "v", "pattern")),
    *(f"attn_head_{part}_all_pos" for part in ("out", "q", "k", "v", "pattern")),
    "attn_head_pattern_dest_src_pos",
]


@pytest.mark.parametrize("what", PATCHES)
@pytest.mark.slow
def test_their_patching_works_on_ours(
    what: str, ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    clean, corrupted = random_tokens(TINY, batch=2, pos=4), random_tokens(TINY, 2, 4, seed=1)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[:, -1, 3] - logits[:, -1, 7]).mean()

    function = getattr(patching, f"get_act_patch_{what}")
    with torch.no_grad():
        mine, other = (
            function(model, corrupted, model.run_with_cache(clean)[1], metric)
            for model in (ours, theirs)
        )
    assert other.std() > 1e-3
    assert_close(mine, other, atol=1e-6, rtol=1e-6)


OURS = {
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "attn_out": "attn",
    "mlp_out": "mlp",
    **{
        f"attn_head_{slot}_{at}_pos": slot
        for slot in ("q", "k", "v", "pattern")
        for at in ("by", "all")
    },
    "attn_head_out_by_pos": "head",
    "attn_head_out_all_pos": "head",
}


@pytest.mark.parametrize("theirs_is", OURS)
@pytest.mark.slow
def test_our_patching_is_theirs(
    theirs_is: str, ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    clean, corrupted = random_tokens(TINY, batch=1, pos=4), random_tokens(TINY, 1, 4, seed=1)
    ids, twin = clean[0].tolist(), corrupted[0].tolist()
    example = Example("", ids, answer=3, distractor=7, corrupted=twin)
    asked = assemble(ours, [example], task="random", metric="logit_diff", prepend_bos=False)
    with torch.no_grad():
        expected = getattr(patching, f"get_act_patch_{theirs_is}")(
            theirs, corrupted, theirs.run_with_cache(clean)[1], lambda x: x[0, -1, 3] - x[0, -1, 7]
        )
    positions = None if theirs_is.endswith("all_pos") else "indices"
    found = patch(ours, what=OURS[theirs_is], positions=positions, task=asked).frame["patched"]
    values = torch.tensor(found.to_numpy(), dtype=expected.dtype)
    # Theirs: layer, position, head; for patterns layer, head, position.
    if theirs_is.endswith("by_pos") and "pattern" not in theirs_is:
        values = values.view(TINY.n_layers, TINY.n_heads, 4).transpose(1, 2)
    assert_close(values.reshape(expected.shape), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("every", ["attn_head_all_pos", "attn_head_by_pos", "block"])
def test_their_combined_patching_works_on_ours(
    every: str, ours: HookedGPT2, theirs: HookedTransformer
) -> None:
    clean, corrupted = random_tokens(TINY, batch=1, pos=4), random_tokens(TINY, 1, 4, seed=1)
    function = getattr(patching, f"get_act_patch_{every}_every")
    with torch.no_grad():
        mine, other = (
            function(model, corrupted, model.run_with_cache(clean)[1], lambda x: x[0, -1, 3])
            for model in (ours, theirs)
        )
    assert_close(mine, other, atol=1e-6, rtol=1e-6)


@pytest.fixture(scope="module")
def readers() -> tuple[HookedGPT2, HookedTransformer]:
    """Two models that read text, one token a byte."""
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)}, {END_OF_TEXT: 256}, name="bytes")
    cfg = ModelConfig(n_layers=2, n_heads=4, d_model=16, n_ctx=32, d_vocab=257)
    ours = randomized(cfg, tokenizer=tokenizer)
    theirs = lens_twin(ours)
    theirs.to_tokens = ours.to_tokens
    return ours, theirs


@pytest.mark.parametrize("pattern", head_detector.HEAD_NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"error_measure": "abs"},
        {"exclude_bos": True},
        {"exclude_current_token": True, "error_measure": "abs"},
        {"heads": [(0, 1), (1, 3)], "exclude_bos": True, "exclude_current_token": True},
        {"heads": {1: [0, 2]}},
    ],
    ids=str,
)
def test_their_head_detector_works_on_ours(
    pattern: str, options: dict[str, Any], readers: tuple[HookedGPT2, HookedTransformer]
) -> None:
    for text in ("one two one two one", ["abcabc", "xyxyxyxy"]):
        mine, other = (
            head_detector.detect_head(model, text, pattern, **options) for model in readers
        )
        assert mine.dtype == other.dtype == torch.float64
        assert_close(mine, other)
    assert other.shape == (2, 4)


def test_their_head_detector_takes_our_cache(
    readers: tuple[HookedGPT2, HookedTransformer],
) -> None:
    text, scores = "abcabcabc", []
    for model in readers:
        tokens = model.to_tokens(text)
        wanted = torch.eye(tokens.shape[1]).roll(1, 0).tril()
        _, cache = model.run_with_cache(tokens, remove_batch_dim=True)
        before = cache["pattern", 1].clone()
        scores.append(head_detector.detect_head(model, text, wanted, cache=cache))
        assert torch.equal(cache["pattern", 1], before)
    assert_close(*scores)
