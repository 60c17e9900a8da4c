"""Our sites as hook points of their model, and the flags that have to be on to see some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from einops import rearrange, repeat
from torch import Tensor

from circuits.adapter.config import BRIDGE, AdaptedConfig, class_of
from circuits.errors import CircuitsError, SiteError
from circuits.hooks import HookPoint
from circuits.sites import MORE_SITES, site_names

Points = dict[str, Any]  # our names of sites -> their hook points
# Sites that their model computes only when it is told to.
_FLAGS = {
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "attn.hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
}
_UNGROUP = "ungroup_grouped_query_attention"
_GROUPED = ("attn.hook_k", "attn.hook_v", "attn.hook_rot_k", "hook_k_input", "hook_v_input")
_MID = "hook_resid_mid"


def points_of(theirs: Any, cfg: AdaptedConfig) -> Points:
    """The hook points of the sites that can be offered, in the order of the forward pass."""
    has, bridged = theirs.hook_dict, class_of(theirs) == BRIDGE
    absent = {_MID, "hook_mlp_in"} if cfg.parallel or cfg.attn_only else set()
    if cfg.n_key_value_heads and not bridged:
        absent.add("hook_attn_in")
    if cfg.positional_embedding_type != "standard":
        absent.add("hook_pos_embed")
    prefixes = ("hook_mlp", "mlp.", "ln2.") if cfg.attn_only else ()
    points: Points = {}
    for site in site_names(cfg.n_layers):
        block, in_block = _split(site)
        for name in (in_block, *MORE_SITES.get(in_block, ())):
            theirs_name = "embed.hook_in" if bridged and name == "hook_tokens" else block + name
            if name not in absent and theirs_name in has and not name.startswith(prefixes):
                points[block + name] = has[theirs_name]
    return points


@contextmanager
def listening(
    theirs: Any, cfg: AdaptedConfig, points: Points, hooks: Mapping[str, HookPoint]
) -> Iterator[None]:
    """Let values pass our watched hooks while their model runs; afterwards it is as it was.

    Raises:
        CircuitsError: for sites that their model cannot show, or not together.
    """
    watched = {name: hook for name, hook in hooks.items() if hook.watched}
    bridged = class_of(theirs) == BRIDGE
    _require_compatible(watched, bridged)
    with ExitStack() as stack:
        stack.enter_context(_switched(theirs, watched, grouped=bool(cfg.n_key_value_heads)))
        for name, hook in watched.items():
            site = _split(name)[1]
            if bridged and site == _MID:
                continue
            pass_on = _grouped(hook, cfg) if site in _GROUPED else hook
            stack.enter_context(hooked(points[name], pass_on))
        # After the hooks above, so that it sees what they leave.
        for name in [name for name in watched if bridged and name.endswith(_MID)]:
            stack.enter_context(_middle(points, name.removesuffix(_MID), watched[name]))
        yield


def _split(site: str) -> tuple[str, str]:
    """``blocks.3.attn.hook_z`` is ``attn.hook_z`` of ``blocks.3.``."""
    if not site.startswith("blocks."):
        return "", site
    layer, _, in_block = site.removeprefix("blocks.").partition(".")
    return f"blocks.{layer}.", in_block


def _require_compatible(watched: Mapping[str, HookPoint], bridged: bool) -> None:
    sites = {_split(name)[1] for name in watched}
    split = {site for site, flag in _FLAGS.items() if flag == "use_split_qkv_input"} & sites
    # HookedTransformer normalizes each head's stream by itself when it has one.
    norm = set() if bridged else {site for site in sites if site.startswith("ln1.")}
    attn_in = sites & {"hook_attn_in"}
    for these, those in ((attn_in, split), (attn_in | split, norm)):
        if these and those:
            raise CircuitsError(
                f"{min(these)} and {min(those)} cannot be watched in the same run of a "
                "transformer_lens model; watch them in two"
            )


@contextmanager
def _switched(theirs: Any, watched: Mapping[str, HookPoint], *, grouped: bool) -> Iterator[None]:
    """Switch on exactly the flags that these sites need, inside."""
    sites = {_split(name)[1] for name in watched}
    needed = {_FLAGS[site] for site in sites if site in _FLAGS}
    if grouped and sites & set(_GROUPED):
        needed.add(_UNGROUP)
    flags = [flag for flag in (*_FLAGS.values(), _UNGROUP) if hasattr(theirs, f"set_{flag}")]
    before = {flag: bool(getattr(theirs.cfg, flag)) for flag in dict.fromkeys(flags)}
    try:
        _set(theirs, {flag: flag in needed for flag in before})
        yield
    finally:
        _set(theirs, before)


def _set(theirs: Any, flags: Mapping[str, bool]) -> None:
    """Set these flags, those that go off first: two of them exclude each other."""
    for flag, on in sorted(flags.items(), key=lambda item: item[1]):
        if bool(getattr(theirs.cfg, flag)) == on:
            continue
        try:
            getattr(theirs, f"set_{flag}")(on)
        except (
            AssertionError,
            RuntimeError,
            ValueError,
        ) as error:  # as it refuses, by architecture
            raise CircuitsError(
                f"{theirs.cfg.model_name} cannot show what {flag} is for: {error}"
            ) from error


@contextmanager
def hooked(point: Any, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let their hook point pass its value through this function, inside."""

    def call(value: Tensor, hook: Any) -> Tensor | None:
        new = function(value)
        return None if new is value else new

    point.add_hook(call)
    handle = point.fwd_hooks[-1]
    try:
        yield
    finally:
        handle.hook.remove()
        point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


def _grouped(hook: HookPoint, cfg: AdaptedConfig) -> Callable[[Tensor], Tensor]:
    """Show keys and values that heads share once for each of them: [b p g e] as [b p h e]."""

    def pass_on(value: Tensor) -> Tensor:
        groups = value.shape[2]
        if groups == cfg.n_heads:
            return hook(value)
        shown = repeat(value, "b p g e -> b p (g n) e", n=cfg.n_heads // groups)
        new = hook(shown)
        if new is shown:
            return value
        by_group = rearrange(new, "b p (g n) e -> b p g n e", g=groups)
        if not bool((by_group == by_group[:, :, :, :1]).all()):
            raise SiteError(
                f"{cfg.n_heads // groups} heads share what passes {hook.name!r}; write the same to "
                f"all of them (heads 0 to {cfg.n_heads // groups - 1}, and so on)"
            )
        return by_group.mean(3)

    return pass_on


@contextmanager
def _middle(points: Points, block: str, hook: HookPoint) -> Iterator[None]:
    """The stream between attention and MLP, where theirs can only be read.

    A `TransformerBridge` shows only what ln2 reads of the stream: an edit there would not stay in
    the stream. So the same change is made to what attention writes.
    """
    entry: list[Tensor] = []

    def record(stream: Tensor) -> Tensor:
        entry[:] = [stream]
        return stream

    def write(attn_out: Tensor) -> Tensor:
        stream = entry[0] + attn_out
        new = hook(stream)
        return attn_out if new is stream else new - entry[0]

    with (
        hooked(points[block + "hook_resid_pre"], record),
        hooked(points[block + "hook_attn_out"], write),
    ):
        yield
