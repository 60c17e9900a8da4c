"""Generation: the same text alone, in a batch, with and without the key-value cache."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import reference_gpt2 as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, randomized, seeds
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError, SiteError, TokenError
from circuits.generation import Step, generate, stream
from circuits.hooks import HookPoint

MODEL = randomized()
token = st.integers(0, TINY.d_vocab - 1)
ragged = st.lists(st.lists(token, min_size=1, max_size=6), min_size=1, max_size=4)
options = st.sampled_from(
    [
        {"do_sample": False},
        {"temperature": 0.7},
        {"temperature": 1.5, "top_k": 5},
        {"top_p": 0.8},
        {"top_k": 8, "top_p": 0.5},
    ]
)


def test_greedy_agrees_with_numpy() -> None:
    arrays = {name: weight.numpy() for name, weight in MODEL.state_dict().items()}
    for prompt in ([3, 1, 4], [2]):
        expected = reference.generate(prompt, arrays, TINY.n_heads, n_new=9)
        assert generate(MODEL, [prompt], max_new_tokens=9, do_sample=False) == [expected]
        assert generate(MODEL, [prompt], max_new_tokens=9, temperature=0) == [expected]
        assert len(set(expected)) > 3


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(prompts=ragged, seed=seeds, how=options, stops=st.sets(token, max_size=4))
def test_a_batch_equals_its_prompts_alone(prompts, seed, how, stops) -> None:
    how = how | {"seed": seed, "stop": sorted(stops), "max_new_tokens": 6}
    together = generate(MODEL, prompts, **how)
    assert together == generate(MODEL, prompts, use_past_kv_cache=False, **how)
    for i, prompt in enumerate(prompts):
        if prompt not in prompts[:i] or how.get("do_sample") is False:
            assert generate(MODEL, [prompt], **how) == [together[i]]
        new = together[i][len(prompt) :]
        assert together[i][: len(prompt)] == prompt
        assert not stops.intersection(new[:-1])
        assert len(new) == 6 or new[-1] in stops


def test_copies_of_a_prompt_differ_and_seeds_repeat() -> None:
    prompts = [[1, 2]] * 4
    first, again, other = (
        generate(MODEL, prompts, max_new_tokens=10, seed=seed) for seed in (5, 5, 6)
    )
    assert len(set(map(tuple, first))) == 4
    assert first == again != other
    unseeded = [generate(MODEL, prompts, max_new_tokens=10) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_more_tokens_begin_with_the_same_ones() -> None:
    few = generate(MODEL, [[7, 8]], max_new_tokens=3, seed=1)
    assert generate(MODEL, [[7, 8]], max_new_tokens=11, seed=1)[0][:5] == few[0]


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    before = torch.get_rng_state(), random.getstate()
    first = generate(MODEL, [[1]], seed=3, max_new_tokens=5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    torch.manual_seed(12345)
    assert generate(MODEL, [[1]], seed=3, max_new_tokens=5) == first


def test_each_token_is_computed_once(tiny: HookedGPT2) -> None:
    seen: list[list[list[int]]] = []

    def note(value: Tensor, hook: HookPoint) -> None:
        assert hook.positions is not None
        seen.append(hook.positions.tolist())

    generate(tiny, [[1, 2, 3], [4]], max_new_tokens=4, fwd_hooks=[("hook_tokens", note)])
    assert seen == [[[0, 1, 2], [0, 0, 0]], [[3], [1]], [[4], [2]], [[5], [3]]]


@pytest.mark.parametrize("site", ["hook_embed", "blocks.1.attn.hook_z", "blocks.0.hook_mlp_out"])
def test_a_hook_that_goes_by_positions_acts_alike_without_the_cache(site: str) -> None:
    def edit(value: Tensor, hook: HookPoint) -> Tensor:
        assert hook.positions is not None
        here = (hook.positions == 5).reshape(*hook.positions.shape, *[1] * (value.ndim - 2))
        return torch.where(here, value.flip(-1) * 3, value)

    how = {"max_new_tokens": 9, "temperature": 0}
    prompts = [[1, 2, 3], [4], [9, 9]]
    edited = generate(MODEL, prompts, fwd_hooks=[(site, edit)], **how)
    slow = generate(MODEL, prompts, fwd_hooks=[(site, edit)], use_past_kv_cache=False, **how)
    plain = generate(MODEL, prompts, **how)
    assert edited == slow != plain
    for ours, theirs in zip(edited, plain, strict=True):
        assert ours[:6] == theirs[:6]  # token 5 is the last that was chosen before the edit


@pytest.mark.parametrize("site", ["unembed.hook_out", "unembed.hook_in", "ln_final.hook_scale"])
def test_hooks_after_the_last_block_act_too(site: str) -> None:
    plain = generate(MODEL, [[1, 2], [3]], max_new_tokens=6, temperature=0)
    same = generate(
        MODEL,
        [[1, 2], [3]],
        max_new_tokens=6,
        temperature=0,
        fwd_hooks=[(site, lambda value, hook: None)],
    )
    ban = [("unembed.hook_out", lambda value, hook: value.index_fill(-1, banned, -torch.inf))]
    banned = torch.tensor(plain[0][2:])
    banned_text = generate(MODEL, [[1, 2]], max_new_tokens=6, temperature=0, fwd_hooks=ban)
    assert plain == same
    assert not set(banned_text[0][2:]).intersection(banned.tolist())


def watched(model: HookedGPT2) -> list[str]:
    return [name for name, hook in model.hook_dict.items() if hook.watched]


def test_hooks_and_no_grad_are_off_between_the_steps(tiny: HookedGPT2) -> None:
    kept: list[Tensor] = []
    hooks = [("blocks.0.hook_resid_pre", lambda value, hook: kept.append(value))]
    for step in stream(tiny, [[1]], max_new_tokens=3, fwd_hooks=hooks):
        assert isinstance(step, Step)
        assert torch.is_grad_enabled()
        assert not watched(tiny)
    # What a hook kept is an ordinary tensor, which a later computation may differentiate.
    tiny(kept[0], start_at_layer=0).sum().backward()
    assert tiny.W_E.grad is not None


def test_hooks_are_gone_after_an_exception_or_an_abandoned_stream(tiny: HookedGPT2) -> None:
    with pytest.raises(ZeroDivisionError):
        generate(tiny, [[1]], fwd_hooks=[("hook_embed", lambda v, hook: 1 / 0)], max_new_tokens=2)
    assert not watched(tiny)
    assert torch.is_grad_enabled()
    steps = stream(tiny, [[1]], max_new_tokens=3, fwd_hooks=[("hook_embed", lambda v, hook: None)])
    next(steps)
    assert not watched(tiny)


def test_outer_hooks_act(tiny: HookedGPT2) -> None:
    plain = generate(tiny, [[1, 2]], max_new_tokens=5, temperature=0)
    with tiny.hooks([("blocks.0.hook_attn_out", lambda value, hook: value * -3)]):
        edited = generate(tiny, [[1, 2]], max_new_tokens=5, temperature=0)
    assert edited != plain


def test_a_hook_on_a_site_that_does_not_exist(tiny: HookedGPT2) -> None:
    with pytest.raises(SiteError, match=r"did you mean 'blocks.0.hook_resid_pre'"):
        generate(
            tiny, [[1]], max_new_tokens=2, fwd_hooks=[("blocks.0.hook_residpre", lambda v, h: v)]
        )


def test_log_probabilities_are_the_models_own() -> None:
    prompt = [5, 6]
    steps = list(stream(MODEL, [prompt], max_new_tokens=6, temperature=0.3, top_k=4, seed=2))
    text = torch.tensor([prompt + [int(step.tokens) for step in steps]])
    losses = MODEL(text, return_type="loss", loss_per_token=True)[0, 1:].detach()
    ours = torch.cat([step.logprobs for step in steps])
    torch.testing.assert_close(ours, -losses, atol=1e-9, rtol=0)


def test_ended_rows_say_so() -> None:
    whole = generate(MODEL, [[1, 2], [3]], max_new_tokens=6, temperature=0)
    early, late = (row[-6:] for row in whole)
    stop = next(token for token in early[:5] if token not in late)
    n = early.index(stop) + 1
    steps = list(stream(MODEL, [[1, 2], [3]], max_new_tokens=6, temperature=0, stop=stop))
    assert [int(step.tokens[0]) for step in steps] == early[:n] + [-1] * (6 - n)
    assert [int(step.tokens[1]) for step in steps] == late
    assert [step.finished.tolist() for step in steps] == [[i >= n, i == 6] for i in range(1, 7)]
    assert [float(step.logprobs[0]) == 0 for step in steps] == [i > n for i in range(1, 7)]
    only_early = list(stream(MODEL, [[1, 2]], max_new_tokens=6, temperature=0, stop=stop))
    assert len(only_early) == n


@pytest.fixture
def never_run(tiny: HookedGPT2) -> Iterator[HookedGPT2]:
    """A model that says so if anything is computed."""

    def refuse(value: Tensor, hook: HookPoint) -> None:
        raise AssertionError("the model ran")

    with pytest.raises(SiteError, match="never reached"), tiny.hooks([("hook_tokens", refuse)]):
        yield tiny


@pytest.mark.parametrize(
    ("prompts", "changes", "error", "message"),
    [
        (
            [[1] * 5],
            {"max_new_tokens": 9},
            TokenError,
            "prompt of 5 tokens .* room for 8 .*reads 12",
        ),
        ([[1], [1] * 12], {"max_new_tokens": 2}, TokenError, "prompt of 12 tokens .* room for 1 "),
        ([[1] * 13], {}, TokenError, "13 tokens, and gpt2 reads at most 12"),
        ([[1]], {"max_new_tokens": 0}, CircuitsError, "max_new_tokens=0: choose at least 1"),
        ([[]], {}, TokenError, "prompt 0 of 1 has no tokens"),
        ([], {}, TokenError, "no prompts were given"),
        ([[1], [31]], {}, TokenError, "token id 31 is outside the vocabulary of gpt2, 0 to 30"),
        ([1, 2], {}, TokenError, r"1 is no row of token ids; .*\[\[5, 6\], \[7\]\]"),
        ([[1.5]], {}, TokenError, r"\[1.5\] is no row of token ids"),
        ("text", {}, TokenError, "has no tokenizer; give token ids"),
        ([[1]], {"stop": 31}, TokenError, "stop token 31 is outside the vocabulary .* 0 to 30"),
        ([[1]], {"stop": [3, -1]}, TokenError, "stop token -1 is outside"),
        ([[1]], {"stop": "."}, TokenError, "has no tokenizer"),
        ([[1]], {"temperature": -1.0}, CircuitsError, "temperature=-1.0"),
        ([[1]], {"top_k": 0}, CircuitsError, "top_k=0"),
        ([[1]], {"top_p": 1.5}, CircuitsError, "top_p=1.5"),
    ],
)
def test_what_is_refused_before_anything_is_computed(
    never_run: HookedGPT2, prompts, changes, error: type[Exception], message: str
) -> None:
    for call in (stream, generate):  # stream too refuses at the call, not at the first step
        with pytest.raises(error, match=message):
            call(never_run, prompts, **{"max_new_tokens": 3} | changes)


def test_unknown_return_type(never_run: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match="return_type='embeds'; choose 'input', 'str' or"):
        generate(never_run, [[1]], return_type="embeds")


def test_the_last_token_need_not_be_read() -> None:
    """A sorter of six letters reads 6 + 5 tokens and writes the sixth of the answer."""
    text = generate(MODEL, [[1] * 5, [2]], max_new_tokens=TINY.n_ctx + 1 - 5, seed=0)
    assert [len(row) for row in text] == [TINY.n_ctx + 1, TINY.n_ctx + 1 - 4]


def test_logits_that_are_no_numbers(tiny: HookedGPT2) -> None:
    def spoil(value: Tensor, hook: HookPoint) -> None:
        value[1] = torch.nan

    with pytest.raises(CircuitsError, match="row 1 are not finite numbers"):
        generate(tiny, [[1, 2], [3]], max_new_tokens=2, fwd_hooks=[("hook_embed", spoil)])


def test_tensors_give_tensors() -> None:
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    grown = generate(MODEL, tokens, max_new_tokens=4, temperature=0)
    assert grown.shape == (2, 7)
    assert grown.dtype == torch.long
    assert torch.equal(grown[:, :3], tokens)
    assert grown.tolist() == generate(MODEL, tokens.tolist(), max_new_tokens=4, temperature=0)
    assert torch.equal(generate(MODEL, tokens[0], max_new_tokens=4, temperature=0), grown[:1])
    stop = next(int(token) for token in grown[1, 3:6] if token not in grown[0])
    n = 3 + grown[1, 3:].tolist().index(stop) + 1
    uneven = generate(MODEL, tokens, max_new_tokens=4, temperature=0, stop=stop)
    assert uneven == [grown[0].tolist(), grown[1, :n].tolist()]


def test_bfloat16() -> None:
    model = randomized(dtype=torch.bfloat16)
    prompts = [[1, 2, 3], [4]]
    first = generate(model, prompts, max_new_tokens=8, seed=0)
    assert [len(row) for row in first] == [11, 9]
    assert first == generate(model, prompts, max_new_tokens=8, seed=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_text() -> None:
    prompts = [[1, 2, 3], [4]]
    there = randomized().to("cuda")
    for how in ({"temperature": 0}, {"seed": 7}, {"seed": 7, "top_k": 5, "top_p": 0.9}):
        ours = generate(there, prompts, max_new_tokens=8, **how)
        assert ours == generate(MODEL, prompts, max_new_tokens=8, **how)
    tokens = torch.tensor([[1, 2]], device="cuda")
    assert generate(there, tokens, max_new_tokens=2).device == tokens.device
