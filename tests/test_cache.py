"""The cache: what is in it, how it is read, and how it survives a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens, randomized
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.cache import COSTLY, Cache
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, SiteError
from circuits.hooks import position_axis, site_names

SITES = site_names(TINY.n_layers)
TOKENS = random_tokens(TINY, batch=3, pos=7)
RAGGED = [[1, 2, 3], [4]]


@pytest.fixture
def cache(tiny: HookedGPT2) -> Cache:
    return tiny.run_with_cache(TOKENS)[1]


# --- what is kept -------------------------------------------------------------------------------


def test_the_output_is_forwards(tiny: HookedGPT2) -> None:
    logits, cache = tiny.run_with_cache(TOKENS)
    torch.testing.assert_close(logits, tiny(TOKENS), atol=1e-12, rtol=0)
    assert torch.equal(cache["unembed.hook_out"], logits)
    assert not cache["embed"].requires_grad
    loss, _ = tiny.run_with_cache(TOKENS, return_type="loss")
    torch.testing.assert_close(loss, tiny(TOKENS, return_type="loss"))
    stream, part = tiny.run_with_cache(TOKENS, stop_at_layer=1)
    assert torch.equal(stream, part["resid_post", 0])
    assert "blocks.1.hook_resid_pre" not in part


def test_everything_but_the_streams_of_each_head_is_kept(cache: Cache) -> None:
    costly = [name for name in SITES if name.endswith(COSTLY)]
    assert list(cache) == [name for name in SITES if name not in costly]
    assert len(costly) == 5 * TINY.n_layers


@pytest.mark.parametrize(
    ("names_filter", "kept"),
    [
        ("hook_embed", ["hook_embed"]),
        ("pattern1", ["blocks.1.attn.hook_pattern"]),
        (["blocks.1.attn.hook_result", "hook_embed"], ["hook_embed", "blocks.1.attn.hook_result"]),
        (lambda name: name.endswith("resid_mid"), [f"blocks.{i}.hook_resid_mid" for i in (0, 1)]),
        (SITES, SITES),
    ],
)
def test_names_filters(tiny: HookedGPT2, names_filter: Any, kept: list[str]) -> None:
    logits, cache = tiny.run_with_cache(TOKENS, names_filter=names_filter)
    assert list(cache) == kept
    torch.testing.assert_close(logits, tiny(TOKENS), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("names_filter", "options", "message"),
    [
        ("hook_embeds", {}, "did you mean 'hook_embed'"),
        (["hook_embed", "pattern7"], {}, "no site 'pattern7' in this model; its blocks are 0 to 1"),
        (lambda name: "mlp.hook_mid" in name, {}, "matches none of the 53 sites"),
        ([], {}, "the names filter is empty"),
        ("blocks.1.hook_resid_mid", {"stop_at_layer": 1}, "never reached: 'blocks.1.hook_resid_mi"),
    ],
)
@pytest.mark.parametrize("incl_bwd", [False, True])
def test_filters_that_keep_nothing(
    tiny: HookedGPT2, names_filter: Any, options: dict[str, int], message: str, incl_bwd: bool
) -> None:
    with pytest.raises(SiteError, match=message):
        tiny.run_with_cache(
            TOKENS, names_filter=names_filter, incl_bwd=incl_bwd, metric=torch.sum, **options
        )


@pytest.mark.parametrize(
    ("pos_slice", "kept"),
    [
        (3, 3),
        (-1, 6),
        (slice(2, 5), [2, 3, 4]),
        ((1, None, 3), [1, 4]),
        ([6, 0], [6, 0]),
        (torch.tensor([2]), [2]),
    ],
)
def test_pos_slice(tiny: HookedGPT2, pos_slice: Any, kept: int | list[int]) -> None:
    _, whole = tiny.run_with_cache(TOKENS, names_filter=SITES)
    logits, cache = tiny.run_with_cache(TOKENS, names_filter=SITES, pos_slice=pos_slice)
    assert logits.shape == (3, 7, TINY.d_vocab)
    for name, value in cache.items():
        assert torch.equal(value, index(whole[name], kept, position_axis(name))), name


def index(value: Tensor, kept: int | list[int], axis: int) -> Tensor:
    return (
        value.select(axis, kept)
        if isinstance(kept, int)
        else value.movedim(axis, 0)[kept].movedim(0, axis)
    )


def test_the_slice_of_transformer_lens_works_too(tiny: HookedGPT2) -> None:
    last = SimpleNamespace(apply=lambda value, dim: value.select(dim, -1))  # as its Slice does
    _, cache = tiny.run_with_cache(TOKENS, pos_slice=last)
    _, expected = tiny.run_with_cache(TOKENS, pos_slice=-1)
    for name, value in expected.items():
        assert torch.equal(cache[name], value)


def test_devices(tiny: HookedGPT2, cache: Cache) -> None:
    _, meta = tiny.run_with_cache(RAGGED, device="meta")
    assert {value.device.type for value in [*meta.values(), meta.mask]} == {"meta"}
    moved = cache.to("meta")
    assert {value.device.type for value in moved.values()} == {"meta"}
    assert list(moved) == list(cache)
    assert {value.device.type for value in cache.values()} == {"cpu"}
    assert tiny.run_with_cache(RAGGED)[1].to("meta").mask.device.type == "meta"


def test_edits_come_before_the_cache(tiny: HookedGPT2) -> None:
    site = "blocks.0.hook_attn_out"
    hooks = [(site, lambda value, hook: torch.zeros_like(value))]
    logits, cache = tiny.run_with_cache(TOKENS, fwd_hooks=hooks)
    assert not cache[site].any()
    assert torch.equal(cache["resid_mid", 0], cache["resid_pre", 0])
    edited = tiny.run_with_hooks(TOKENS, fwd_hooks=hooks)
    torch.testing.assert_close(logits, edited, atol=1e-12, rtol=0)


# --- reading it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("hook_embed", "hook_embed"),
        ("embed", "hook_embed"),
        (("pattern", 1), "blocks.1.attn.hook_pattern"),
        (("attn", 0), "blocks.0.attn.hook_pattern"),
        (("pattern", -1), "blocks.1.attn.hook_pattern"),
        (("pattern", 0, "attn"), "blocks.0.attn.hook_pattern"),
        (("scale", 1, "ln2"), "blocks.1.ln2.hook_scale"),
        (("resid_post", -2), "blocks.0.hook_resid_post"),
        (("embed",), "hook_embed"),
        (("scale", None), "ln_final.hook_scale"),
        ("q0", "blocks.0.attn.hook_q"),
    ],
)
def test_keys(cache: Cache, key: Any, name: str) -> None:
    assert cache[key] is cache[name]
    assert key in cache
    assert cache.get(key) is cache[name]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("hook_embeds", "site 'hook_embeds' does not exist; did you mean 'hook_embed'"),
        (("pattern", 2), "'blocks.2.attn.hook_pattern' does not exist; did you mean"),
        (("result", 0), "'blocks.0.attn.hook_result' was not cached; 43 were: see cache.keys()"),
        ("hook_embed_grad", "'hook_embed_grad' was not cached; 43 were"),
        (("pattern", -3), "does not exist"),
        (3, r"3 is no site; give a name, or a tuple such as \('pattern', 5\)"),
        ((), r"\(\) is no site"),
    ],
)
def test_keys_that_are_not_there(cache: Cache, key: Any, message: str) -> None:
    with pytest.raises(SiteError, match=message):
        cache[key]
    with pytest.raises(KeyError):
        cache[key]


def test_keys_of_gradients(tiny: HookedGPT2) -> None:
    _, cache = tiny.run_with_cache(TOKENS, incl_bwd=True)
    assert cache["z_grad", -1] is cache["blocks.1.attn.hook_z_grad"]
    assert cache["embed_grad"] is cache["hook_embed_grad"]
    assert cache["scale_grad", 0, "ln2"] is cache["blocks.0.ln2.hook_scale_grad"]


def test_a_cache_is_a_read_only_mapping(tiny: HookedGPT2, cache: Cache) -> None:
    assert isinstance(cache, Mapping)
    assert len(cache) == len(list(cache)) == len(cache.items()) == 43
    assert ("result", 0) not in cache
    assert "nonsense" not in cache
    with pytest.raises(TypeError, match="does not support item assignment"):
        cache["hook_embed"] = torch.zeros(1)
    with pytest.raises(TypeError, match="does not support item deletion"):
        del cache["hook_embed"]
    assert repr(cache) == "Cache(43 sites of gpt2)"
    assert cache.model is tiny


def test_stacking_layers(cache: Cache) -> None:
    stack = cache.stack_activation("pattern")
    assert torch.equal(stack, torch.stack([cache["pattern", 0], cache["pattern", 1]]))
    assert torch.equal(cache.stack_activation("scale", 1, "ln2")[0], cache["scale", 0, "ln2"])


# --- the batch axis -----------------------------------------------------------------------------


def test_the_batch_axis_is_kept_unless_asked(tiny: HookedGPT2) -> None:
    _, one = tiny.run_with_cache(TOKENS[:1])
    assert one["resid_pre", 0].shape == (1, 7, 16)
    _, bare = tiny.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    for cache in (bare, one.remove_batch_dim()):
        assert not cache.has_batch_dim
        for name, value in cache.items():
            assert torch.equal(value, one[name][0])
    assert bare.remove_batch_dim() is bare
    with pytest.raises(CircuitsError, match="holds 3 prompts; only one can be unwrapped"):
        tiny.run_with_cache(TOKENS, remove_batch_dim=True)


def test_some_prompts_of_a_cache(tiny: HookedGPT2) -> None:
    _, cache = tiny.run_with_cache([[1, 2, 3], [4], [5, 6]])
    two, one = cache.apply_slice_to_batch_dim(slice(1, 3)), cache.apply_slice_to_batch_dim(2)
    assert torch.equal(two["pattern", 1], cache["pattern", 1][1:])
    assert torch.equal(one["pattern", 1], cache["pattern", 1][2])
    assert (two.has_batch_dim, one.has_batch_dim) == (True, False)
    assert two.mask is not None
    assert one.mask is not None
    assert (two.mask.tolist(), one.mask.tolist()) == (
        [[True, False, False], [True, True, False]],
        [True, True, False],
    )


def test_the_mask_tells_real_tokens(tiny: HookedGPT2, cache: Cache) -> None:
    assert cache.mask is None
    _, padded = tiny.run_with_cache(RAGGED, padding_side="left")
    assert padded.mask is not None
    assert padded.mask.tolist() == [[True, True, True], [False, False, True]]


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_file_gives_the_same_cache(tmp_path: Path, dtype: torch.dtype) -> None:
    model = randomized(dtype=dtype)
    _, padded = model.run_with_cache(RAGGED, names_filter=SITES)
    _, grads = model.run_with_cache(TOKENS, incl_bwd=True)
    _, bare = model.run_with_cache(TOKENS[:1], pos_slice=-1, remove_batch_dim=True)
    for i, cache in enumerate((padded, grads, bare)):
        path = tmp_path / f"{i}.safetensors"
        cache.save(path)
        again = Cache.load(str(path), model)
        assert sorted(again) == sorted(cache)
        assert again.has_batch_dim == cache.has_batch_dim
        for name, value in cache.items():
            assert torch.equal(again[name], value)
            assert again[name].dtype == value.dtype
        assert (again.mask is None) == (cache.mask is None)
        if cache.mask is not None:
            assert torch.equal(again.mask, cache.mask)
    assert list(Cache.load(tmp_path / "0.safetensors", model)) == SITES
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{i}.safetensors" for i in (0, 1, 2)
    ]


def test_saving_over_a_file_replaces_it(tmp_path: Path, tiny: HookedGPT2, cache: Cache) -> None:
    path = tmp_path / "cache"
    path.write_text("old")
    cache.save(path)
    cache.save(path)
    assert torch.equal(Cache.load(path, tiny)["embed"], cache["embed"])


def test_damaged_files(tmp_path: Path, tiny: HookedGPT2, cache: Cache) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], whole[:4], b"", b"no tensors at all"):
        path.write_bytes(broken)
        with pytest.raises(CircuitsError, match=r"cannot read a cache from .*cache.safetensors"):
            Cache.load(path, tiny)
    with pytest.raises(CircuitsError, match="cannot read a cache from .*nowhere"):
        Cache.load(tmp_path / "nowhere", tiny)
    with pytest.raises(CircuitsError, match="cannot read a cache"):
        Cache.load(tmp_path, tiny)


def test_a_cache_of_another_model(tmp_path: Path, cache: Cache) -> None:
    path = tmp_path / "cache"
    cache.save(path)
    other = HookedGPT2(ModelConfig(1, 1, 4, 4, 9, model_name="other"))
    with pytest.raises(CircuitsError, match="holds the cache of 'gpt2', not of 'other'"):
        Cache.load(path, other)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, cache: Cache) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CircuitsError, match="cannot be written"):
        cache.save(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in ("missing/cache", "file/cache", "folder"):
        with pytest.raises(CircuitsError, match=f"{place} cannot be written"):
            cache.save(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
