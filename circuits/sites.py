"""The names of sites, and what a name says: where in the model, and which axis counts positions.

The names are those of TransformerLens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from circuits.errors import SiteError, nearest

# A block's sites, and which sites follow them in other architectures that can be adapted.
BLOCK_SITES = tuple(
    "hook_resid_pre ln1.hook_scale ln1.hook_normalized hook_attn_in hook_q_input hook_k_input "
    "hook_v_input attn.hook_q attn.hook_k attn.hook_v attn.hook_attn_scores attn.hook_pattern "
    "attn.hook_z attn.hook_result hook_attn_out hook_resid_mid hook_mlp_in ln2.hook_scale "
    "ln2.hook_normalized mlp.hook_pre mlp.hook_post hook_mlp_out hook_resid_post".split()
)
MORE_SITES: Mapping[str, tuple[str, ...]] = {
    "attn.hook_v": ("attn.hook_rot_q", "attn.hook_rot_k"),
    "mlp.hook_pre": ("mlp.hook_pre_linear",),
    "attn.hook_result": ("ln1_post.hook_scale", "ln1_post.hook_normalized"),
    "mlp.hook_post": ("ln2_post.hook_scale", "ln2_post.hook_normalized"),
}
_BEFORE = ("hook_tokens", "hook_embed", "hook_pos_embed")
_AFTER = ("ln_final.hook_scale", "ln_final.hook_normalized", "unembed.hook_in", "unembed.hook_out")


def site_names(n_layers: int) -> list[str]:
    """The sites of a GPT-2 of `n_layers`, in the order of the forward pass.

    >>> site_names(1)[:4]
    ['hook_tokens', 'hook_embed', 'hook_pos_embed', 'blocks.0.hook_resid_pre']
    """
    blocks = [f"blocks.{layer}.{site}" for layer in range(n_layers) for site in BLOCK_SITES]
    return [*_BEFORE, *blocks, *_AFTER]


def every_site(n_layers: int) -> list[str]:
    """The sites of all architectures, in the order of the forward pass.

    >>> [site for site in every_site(1) if "rot" in site]
    ['blocks.0.attn.hook_rot_q', 'blocks.0.attn.hook_rot_k']
    """
    every: list[str] = []
    for site in site_names(n_layers):
        block = f"blocks.{layer_of(site)}."
        more = MORE_SITES.get(site.removeprefix(block), ())
        every += [site, *(block + name for name in more)]
    return every


def layer_of(name: str) -> int | None:
    """The layer of the site called `name`; None outside the blocks.

    >>> layer_of("blocks.3.attn.hook_z"), layer_of("hook_embed")
    (3, None)
    """
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" else None


_KNOWN = (*_BEFORE, *BLOCK_SITES, *(s for more in MORE_SITES.values() for s in more), *_AFTER)
_ATTN_SITES = tuple(s.removeprefix("attn.hook_") for s in _KNOWN if s.startswith("attn."))
_MLP_SITES = tuple(s.removeprefix("mlp.hook_") for s in _KNOWN if s.startswith("mlp."))
_LN_SITES = ("scale", "normalized")
_LAYER_TYPES = {"a": "attn", "attention": "attn", "m": "mlp"} | dict.fromkeys(
    ("b", "block", "blocks"), ""
)
_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_post": "post",
}


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full name of the site known as `name`.

    The short names and their expansion are those of ``transformer_lens.utils.get_act_name``.

    >>> get_act_name("pattern", 5)
    'blocks.5.attn.hook_pattern'
    >>> get_act_name("resid_pre", 3), get_act_name("scale", 3, "ln1"), get_act_name("embed")
    ('blocks.3.hook_resid_pre', 'blocks.3.ln1.hook_scale', 'hook_embed')
    >>> get_act_name("k6"), get_act_name("scale4ln1")
    ('blocks.6.attn.hook_k', 'blocks.4.ln1.hook_scale')

    Raises:
        SiteError: for what names no site of any architecture, with the nearest ones.
    """
    full = full_name(name, layer, layer_type)
    match = re.fullmatch(r"blocks\.\d+\.(.+)", full)
    outside = (*_BEFORE, *_AFTER)
    if full in outside or (match is not None and match[1] in _KNOWN and match[1] not in outside):
        return full
    given = ", ".join(repr(part) for part in (name, layer, layer_type) if part is not None)
    prefix, short = full.rpartition("hook_")[::2]
    block = prefix.startswith("blocks.")
    close = nearest(short, dict.fromkeys(s.rpartition("hook_")[2] for s in _KNOWN))
    needs = "" if block or f"hook_{short}" in outside else ", with its layer if it is in a block"
    raise SiteError(
        f"there is no site {full!r} in any model (asked for by {given}){close}; name one such as "
        f"'pattern' or 'resid_pre'{needs} (circuits.sites.site_names lists GPT-2's)"
    )


def full_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """What `get_act_name` expands a short name to, whether or not there is such a site.

    >>> full_name("pattern", 5), full_name("patern", 5)
    ('blocks.5.attn.hook_pattern', 'blocks.5.hook_patern')
    """
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    if layer is None and layer_type is None:
        name, layer, layer_type = _split_short_name(name)
    layer_type = _LAYER_TYPES.get(layer_type or "", layer_type)
    name = _ALIASES.get(name, name)
    if name in _ATTN_SITES:
        layer_type = "attn"
    elif name in _MLP_SITES:
        layer_type = "mlp"
    prefix = f"blocks.{layer}." if layer is not None else ""
    if name in _LN_SITES and layer is None and layer_type is None:
        layer_type = "ln_final"
    return f"{prefix}{layer_type + '.' if layer_type else ''}hook_{name}"


def _split_short_name(name: str) -> tuple[str, str | None, str | None]:
    """`scale4ln1` is the site `scale`, layer 4, in `ln1`."""
    match = re.fullmatch(r"([a-z_]+)(\d+)([a-z]\w*)?", name)
    return (match[1], match[2], match[3]) if match else (name, None, None)


_PER_HEAD = "q k v rot_q rot_k z result attn_in q_input k_input v_input".split()


def position_axis(name: str) -> int:
    """The axis of this site's value that counts (query) positions, from the end.

    >>> position_axis("blocks.0.attn.hook_z"), position_axis("blocks.0.attn.hook_pattern")
    (-3, -2)
    >>> position_axis("hook_tokens")
    -1
    """
    site = name.removesuffix("_grad").rpartition("hook_")[2]
    if site == "tokens":
        return -1
    return -3 if site in _PER_HEAD else -2
