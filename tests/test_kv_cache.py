"""A pass that continues from a key-value cache equals one pass over everything."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_tokens, randomized, seeds, tiny_configs
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.batch import PaddingSide, pad_rows
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, TokenError
from circuits.hooks import HookPoint
from circuits.kv_cache import KVCache

PATTERNS = [(lambda name: name.endswith("hook_pattern"), lambda value, hook: None)]
both_attentions = pytest.mark.parametrize("hooks", [[], PATTERNS], ids=["fused", "explicit"])


def chunks(tokens: Tensor, cuts: set[int]) -> list[Tensor]:
    edges = [0, *sorted(cuts), tokens.shape[1]]
    return [tokens[:, start:end] for start, end in pairwise(edges)]


@pytest.mark.slow
@both_attentions
@settings(max_examples=25, deadline=None)
@given(cfg=tiny_configs(), seed=seeds, data=st.data())
def test_chunks_equal_one_pass(hooks, cfg: ModelConfig, seed: int, data: st.DataObject) -> None:
    model = randomized(cfg, seed=seed)
    tokens = random_tokens(cfg, batch=2, pos=cfg.n_ctx, seed=seed)
    cuts = data.draw(st.sets(st.integers(1, cfg.n_ctx - 1)))
    cache = KVCache()
    with model.hooks(hooks):
        parts = [model(part, past_kv_cache=cache) for part in chunks(tokens, cuts)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=1e-9, rtol=0)
    assert (cache.n_tokens, cache.n_past) == (cfg.n_ctx, cfg.n_ctx)


@both_attentions
@pytest.mark.parametrize("side", ["left", "right"])
@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=seeds)
def test_padded_prompts_continue_as_if_alone(
    hooks, side: PaddingSide, data: st.DataObject, seed: int
) -> None:
    model = randomized(seed=seed)
    token = st.integers(0, TINY.d_vocab - 1)
    first = data.draw(st.lists(st.lists(token, min_size=1, max_size=6), min_size=2, max_size=3))
    more = random_tokens(TINY, batch=len(first), pos=6, seed=seed)
    tokens, mask = pad_rows(first, pad_id=0, side=side)
    cache = KVCache()
    with model.hooks(hooks):
        prefix = model(tokens, attention_mask=mask, past_kv_cache=cache)
        parts = [
            model(part, past_kv_cache=cache)
            for part in chunks(more, data.draw(st.sets(st.integers(1, 5))))
        ]
    for i, row in enumerate(first):
        alone = model([row + more[i].tolist()])[0]
        torch.testing.assert_close(prefix[i][mask[i]], alone[: len(row)], atol=1e-9, rtol=0)
        torch.testing.assert_close(torch.cat(parts, 1)[i], alone[len(row) :], atol=1e-9, rtol=0)


def test_hooks_are_told_the_positions(tiny: HookedGPT2) -> None:
    seen: list[list[list[int]]] = []

    def note(value: Tensor, hook: HookPoint) -> None:
        assert hook.positions is not None
        assert value.shape[:2] == hook.positions.shape
        seen.append(hook.positions.tolist())

    cache = KVCache()
    with tiny.hooks([("blocks.1.hook_resid_pre", note)]):
        tiny([[1, 2, 3], [4]], padding_side="left", past_kv_cache=cache)
        tiny(torch.tensor([[5, 6], [7, 8]]), past_kv_cache=cache)
        resid = torch.zeros(2, 1, TINY.d_model, dtype=torch.float64)
        tiny(resid, start_at_layer=0, past_kv_cache=cache)
    assert seen == [[[0, 1, 2], [0, 0, 0]], [[3, 4], [1, 2]], [[5], [3]]]


def test_what_was_edited_stays_edited(tiny: HookedGPT2) -> None:
    """Values written while the prefix was read act on the tokens that come later."""
    tokens = random_tokens(TINY, batch=1, pos=6)

    def lift(value: Tensor, hook: HookPoint) -> Tensor:
        assert hook.positions is not None
        return torch.where((hook.positions == 1)[..., None, None], value + 3.0, value)

    hooks = [("blocks.0.attn.hook_v", lift)]
    whole = tiny.run_with_hooks(tokens, fwd_hooks=hooks)
    cache = KVCache()
    tiny.run_with_hooks(tokens[:, :4], fwd_hooks=hooks, past_kv_cache=cache)
    rest = tiny(tokens[:, 4:], past_kv_cache=cache)
    torch.testing.assert_close(rest, whole[:, 4:], atol=1e-9, rtol=0)
    assert not torch.allclose(rest, tiny(tokens)[:, 4:])


def test_gradients_flow_through_the_cache(tiny: HookedGPT2) -> None:
    tokens = random_tokens(TINY, batch=1, pos=5)
    cache = KVCache()
    tiny(tokens[:, :3], past_kv_cache=cache)
    loss = tiny(tokens[:, 3:], past_kv_cache=cache)[0, -1, 0]
    wanted = tiny(tokens)[0, -1, 0]
    ours, theirs = (torch.autograd.grad(x, tiny.blocks[0].attn.W_QKV)[0] for x in (loss, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    assert theirs.abs().max() > 1e-3


def test_the_context_counts_what_is_stored(tiny: HookedGPT2) -> None:
    cache = KVCache()
    tiny(random_tokens(TINY, batch=1, pos=TINY.n_ctx), past_kv_cache=cache)
    with pytest.raises(TokenError, match=f"has {TINY.n_ctx + 1} tokens.*at most {TINY.n_ctx}"):
        tiny(torch.tensor([[1]]), past_kv_cache=cache)


def test_a_cache_that_cannot_be_continued(tiny: HookedGPT2) -> None:
    one, two = random_tokens(TINY, batch=1, pos=1), random_tokens(TINY, batch=2, pos=3)
    partly, other_batch, interrupted = KVCache(), KVCache(), KVCache()
    tiny(one, stop_at_layer=1, past_kv_cache=partly)
    tiny(two, past_kv_cache=other_batch)

    def fail(value: Tensor, hook: HookPoint) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        tiny.run_with_hooks(
            one, fwd_hooks=[("blocks.1.hook_resid_mid", fail)], past_kv_cache=interrupted
        )
    for cache in (partly, other_batch, interrupted):
        with pytest.raises(CircuitsError, match=r"cannot be continued by 1 .* start with a new"):
            tiny(one, past_kv_cache=cache)


def test_an_interrupted_padded_pass_cannot_be_continued(tiny: HookedGPT2) -> None:
    cache = KVCache()
    with pytest.raises(ZeroDivisionError):
        tiny.run_with_hooks(
            [[1, 2], [3]],
            fwd_hooks=[("blocks.0.hook_resid_pre", lambda value, hook: 1 / 0)],
            past_kv_cache=cache,
        )
    with pytest.raises(CircuitsError, match="cannot be continued"):
        tiny([[1], [2]], past_kv_cache=cache)
