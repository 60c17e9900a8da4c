"""One more token by the plain steps alone is the pass with all its sites, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from decoder_models import SHAPES, decoder
from random_models import TINY, random_tokens, randomized
from torch import Tensor, nn

from circuits.architectures import HookedGPT2
from circuits.architectures.gpt2 import GPT2MLP
from circuits.batch import pad_rows
from circuits.hooks import HookPoint
from circuits.kv_cache import KVCache
from circuits.model import Transformer


def by_sites(model: Transformer, tokens: Tensor, past: KVCache) -> Tensor:
    """The same logits by the whole pass."""
    logits: Tensor = model(tokens, past_kv_cache=past)
    return logits[:, -1]


def compare(model: Transformer, prompt: Tensor, mask: Tensor | None, more: Tensor) -> None:
    ours, theirs = KVCache(), KVCache()
    with torch.no_grad():
        for past in (ours, theirs):
            model(prompt, attention_mask=mask, past_kv_cache=past)
        assert model.is_bare()
        for tokens in more.T[..., None]:
            got = model.next_logits(tokens, ours)
            torch.testing.assert_close(got, by_sites(model, tokens, theirs), atol=1e-12, rtol=0)
    for layer, stored in theirs.layers.items():
        for one, other in zip(ours.layers[layer], stored, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_a_stepper_serves_all_further_tokens() -> None:
    model, tokens = randomized(), random_tokens(TINY, 2, 9)
    ours, theirs = KVCache(), KVCache()
    with torch.no_grad():
        assert model.stepper(ours) is None  # nothing is stored that could be continued
        for past in (ours, theirs):
            model(tokens[:, :3], past_kv_cache=past)
        step = model.stepper(ours)
        assert step is not None
        for new in tokens[:, 3:].T[..., None]:
            torch.testing.assert_close(step(new), by_sites(model, new, theirs), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_architecture(shape: str) -> None:
    model = decoder(shape)
    tokens = random_tokens(model.cfg, 2, 16)
    compare(model, tokens[:, :3], None, tokens[:, 3:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths(side: str) -> None:
    prompt, mask = pad_rows([[1, 2, 3], [4]], 0, "left" if side == "left" else "right")
    compare(randomized(), prompt, mask, random_tokens(TINY, 2, 5))


def test_a_window_and_no_window() -> None:
    model = randomized()
    model.blocks[1].attn.window = 3
    compare(model, random_tokens(TINY, 1, 4), None, random_tokens(TINY, 1, 5))


def squared(module: nn.Module, given: object, value: Tensor) -> Tensor:
    return value + value.square()


class Silent(GPT2MLP):
    """Writes nothing, in a way that only `forward` knows of."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def exchange(model: HookedGPT2) -> None:
    model.blocks[0].mlp = Silent(model.cfg, model.backend).double()


def assign(model: HookedGPT2) -> None:
    model.blocks[0].mlp.forward = torch.zeros_like  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.blocks[1].attn.register_forward_hook(squared),
        lambda model: model.blocks[1].register_forward_hook(squared),
        lambda model: model.ln_final.register_forward_hook(squared),
        lambda model: model.unembed.register_forward_hook(squared),
        exchange,
        assign,
    ],
)
def test_what_others_put_into_a_model_still_acts(change: Callable[[HookedGPT2], object]) -> None:
    model = randomized()
    tokens, more = random_tokens(TINY, 1, 3), random_tokens(TINY, 1, 1)
    with torch.no_grad():
        past = KVCache()
        model(tokens, past_kv_cache=past)
        plain = model.next_logits(more, past)
        change(model)
        assert not model.is_bare()
        ours, theirs = KVCache(), KVCache()
        for cache in (ours, theirs):
            model(tokens, past_kv_cache=cache)
        changed = model.next_logits(more, ours)
        torch.testing.assert_close(changed, by_sites(model, more, theirs), atol=1e-12, rtol=0)
    assert (changed - plain).abs().max() > 1e-3


def test_hooks_see_every_token() -> None:
    model, seen = randomized(), []

    def note(value: Tensor, hook: HookPoint) -> None:
        seen.append(value.shape[1])

    model.generate(
        random_tokens(TINY, 1, 3), max_new_tokens=4, fwd_hooks=[("blocks.0.hook_resid_pre", note)]
    )
    assert seen == [3, 1, 1, 1]


def test_keys_that_somebody_exchanged_or_took_away_are_not_written_over() -> None:
    model, tokens = randomized(), random_tokens(TINY, 1, 6)
    with torch.no_grad():
        past = KVCache()
        model(tokens[:, :4], past_kv_cache=past)
        model(tokens[:, 4:5], past_kv_cache=past)  # from now on there is room behind
        whole = dict(past.layers)
        kept = {i: (k.clone(), v.clone()) for i, (k, v) in whole.items()}
        past.layers = {i: (k[:, :4], v[:, :4]) for i, (k, v) in whole.items()}
        again = model(tokens[:, 5:], past_kv_cache=past)
    for i, (keys, values) in whole.items():
        assert torch.equal(keys, kept[i][0])
        assert torch.equal(values, kept[i][1])
    wanted = model(torch.cat([tokens[:, :4], tokens[:, 5:]], 1))[:, -1:]
    torch.testing.assert_close(again, wanted, atol=1e-9, rtol=0)


def test_a_cache_goes_on_in_and_out_of_inference_mode() -> None:
    model, tokens = randomized(), random_tokens(TINY, 1, 7)
    past = KVCache()
    for mode, at in ((torch.inference_mode, 3), (torch.no_grad, 5), (torch.inference_mode, 6)):
        with mode():
            start = past.n_tokens
            parts = [model(tokens[:, i : i + 1], past_kv_cache=past) for i in range(start, at + 1)]
    torch.testing.assert_close(parts[-1], model(tokens)[:, -1:], atol=1e-9, rtol=0)
