"""Names of sites: each real one has its short names, and what names none is an error."""

from __future__ import annotations

import pytest
from random_models import TINY, random_tokens

from circuits.architectures import HookedGPT2
from circuits.errors import SiteError
from circuits.hooks import take
from circuits.sites import (
    BLOCK_SITES,
    MORE_SITES,
    full_name,
    get_act_name,
    layer_of,
    position_axis,
    site_names,
)

SITES = site_names(TINY.n_layers)
OTHERS = [site for sites in MORE_SITES.values() for site in sites]


def test_names_of_sites() -> None:
    assert get_act_name("resid_pre", 3) == "blocks.3.hook_resid_pre"
    assert [layer_of(site) for site in site_names(2)].count(1) == 23
    assert layer_of("ln_final.hook_scale") is None


@pytest.mark.parametrize("site", [*SITES, *(f"blocks.3.{site}" for site in OTHERS)])
def test_a_full_name_is_its_own(site: str) -> None:
    assert get_act_name(site) == site


@pytest.mark.parametrize("site", [*BLOCK_SITES, *OTHERS])
def test_a_short_name_and_a_layer_are_enough(site: str) -> None:
    kind, _, short = site.rpartition("hook_")
    norm = kind.rstrip(".") if kind.startswith("ln") else None
    for layer in (5, "5"):
        assert get_act_name(short, layer, norm) == f"blocks.5.{site}"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("rot_z", 5), r"no site 'blocks.5.hook_rot_z' in any model .* mean 'rot_q'"),
        (("mid", 5), "no site 'blocks.5.hook_mid'"),
        (("mlp_mid", 5), "no site 'blocks.5.hook_mlp_mid' .* mean 'mlp_in'|.*"),
        (("patern", 5), r"asked for by 'patern', 5\); did you mean 'pattern'"),
        (("pattern",), "no site 'attn.hook_pattern' .* with its layer if it is in a block"),
        (("pattern", -1), "no site 'blocks.-1.attn.hook_pattern'"),
        (("scale", 3), "no site 'blocks.3.hook_scale'"),
        (("embed", 3), "no site 'blocks.3.hook_embed'"),
        (("resid_pre", 3, "mlp"), "no site 'blocks.3.mlp.hook_resid_pre'"),
        (("blocks.0.hook_q",), "no site 'blocks.0.hook_q'"),
        (("hook_nothing",), "no site 'hook_nothing'"),
        (("nonsense",), "no site 'hook_nonsense'"),
    ],
)
def test_what_is_no_site_is_an_error(asked: tuple[str, ...], message: str) -> None:
    with pytest.raises(SiteError, match=message):
        get_act_name(*asked)
    assert full_name(*asked)


def test_a_name_may_be_of_another_architecture(tiny: HookedGPT2) -> None:
    assert get_act_name("rot_q", 5) == "blocks.5.attn.hook_rot_q"
    assert get_act_name("pre_linear", 5) == "blocks.5.mlp.hook_pre_linear"
    _, cache = tiny.run_with_cache(random_tokens(TINY, batch=1, pos=3))
    assert ("rot_q", 0) not in cache
    with pytest.raises(SiteError, match="'blocks.0.attn.hook_rot_q' does not exist"):
        cache["rot_q", 0]
    with pytest.raises(SiteError, match="no site 'rot_q0' in this model"):
        tiny.run_with_cache(random_tokens(TINY, batch=1, pos=3), names_filter="rot_q0")


def test_positions_are_on_this_axis(tiny: HookedGPT2) -> None:
    """Shapes of all sites, and where in them the 6 query positions are."""
    _, cache = tiny.run_with_cache(random_tokens(TINY, batch=2, pos=6), names_filter=SITES)
    heads, d_head, d_mlp = TINY.n_heads, TINY.d_head, TINY.d_mlp
    shapes = {
        **dict.fromkeys(["q", "k", "v", "z"], (2, 6, heads, d_head)),
        **dict.fromkeys(["attn_in", "q_input", "k_input", "v_input", "result"], (2, 6, heads, 16)),
        **dict.fromkeys(["attn_scores", "pattern"], (2, heads, 6, 6)),
        **dict.fromkeys(["pre", "post"], (2, 6, d_mlp)),
        "scale": (2, 6, 1),
        "tokens": (2, 6),
        "out": (2, 6, TINY.d_vocab),
    }
    for name, value in cache.items():
        assert value.shape == shapes.get(name.rpartition("hook_")[2], (2, 6, 16)), name
        assert value.shape[position_axis(name)] == 6
        assert take(value, 4, position_axis(name)).ndim == value.ndim - 1
