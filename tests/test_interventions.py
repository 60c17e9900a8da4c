"""Writing values at components: against the model's own arithmetic."""

from __future__ import annotations

import pytest
import torch
from einops import einsum
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_tokens, randomized

from circuits.architectures import HookedGPT2
from circuits.batch import pad_rows
from circuits.components import Component, all_heads, parse
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.interventions import (
    METHODS,
    Into,
    Reference,
    Source,
    get_method,
    partners,
    replacements,
    require_change,
    write_hook,
)

PARTS = ["a1.h2", "a0", "m1", "m0.n3", "embed", "pos", "resid_mid.1", "a1.h0<k>"]


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return randomized()


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return random_tokens(TINY, batch=3, pos=6)


def ablated(model: HookedGPT2, tokens: torch.Tensor, parts: list[str], method: str) -> torch.Tensor:
    components = [parse(part) for part in parts]
    values = replacements(model, components, method, tokens)
    hooks = [write_hook(c, value) for c, value in zip(components, values, strict=True)]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def test_a_zeroed_head_takes_its_own_output_away(model: HookedGPT2, tokens: torch.Tensor) -> None:
    _, clean = model.run_with_cache(tokens)
    (value,) = replacements(model, [parse("a1.h2")], "zero", tokens)
    _, edited = model.run_with_cache(tokens, fwd_hooks=[write_hook(parse("a1.h2"), value)])
    written = einsum(clean["z", 1][:, :, 2], model.W_O[1, 2], "b p e, e d -> b p d")
    torch.testing.assert_close(edited["attn_out", 1], clean["attn_out", 1] - written)
    assert torch.equal(edited["z", 1][:, :, 3], clean["z", 1][:, :, 3])


def test_without_heads_the_bias_stays(model: HookedGPT2, tokens: torch.Tensor) -> None:
    heads = [head for head in all_heads(TINY) if head.layer == 0]
    values = replacements(model, heads, "zero", tokens)
    hooks = [write_hook(head, value) for head, value in zip(heads, values, strict=True)]
    _, cache = model.run_with_cache(tokens, fwd_hooks=hooks)
    torch.testing.assert_close(cache["attn_out", 0], model.b_O[0].expand(3, 6, -1))
    _, cache = model.run_with_cache(
        tokens, fwd_hooks=[write_hook(parse("a0"), torch.zeros(1, 1, 16))]
    )
    assert not cache["attn_out", 0].any()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_changes_every_part(
    model: HookedGPT2, tokens: torch.Tensor, part: str, method: str
) -> None:
    component = parse(part)
    source = tokens.roll(1, 0)
    (value,) = replacements(model, [component], method, source)
    edited = model.run_with_hooks(tokens, fwd_hooks=[write_hook(component, value)])
    # Position embeddings are the same in every prompt: another prompt's change nothing.
    if (part, method) == ("pos", "resample"):
        with pytest.raises(CircuitsError, match="resampling pos changed nothing"):
            require_change(model(tokens), edited, "resampling pos")
    elif (part, method) == ("pos", "position-mean"):
        torch.testing.assert_close(edited, model(tokens))
    else:
        require_change(model(tokens), edited, f"{method} ablation of {part}")
    _, cache = model.run_with_cache(
        tokens, names_filter=component.site, fwd_hooks=[write_hook(component, value)]
    )
    at = cache[component.site][component.within]
    assert torch.equal(at, value.expand_as(at))


@pytest.mark.parametrize("part", PARTS)
def test_resampling_from_itself_is_a_no_op(
    model: HookedGPT2, tokens: torch.Tensor, part: str
) -> None:
    # Watching a costly site takes another path through attention, so it is watched in both runs.
    watch = [(parse(part).site, lambda value, hook: None)]
    clean = model.run_with_hooks(tokens, fwd_hooks=watch)
    assert torch.equal(ablated(model, tokens, [part], "resample"), clean)
    with pytest.raises(CircuitsError, match="resampling changed nothing"):
        require_change(clean, ablated(model, tokens, [part], "resample"), "resampling")


def test_resampling_takes_row_by_row(model: HookedGPT2, tokens: torch.Tensor) -> None:
    other = random_tokens(TINY, batch=3, pos=6, seed=5)
    (value,) = replacements(model, [parse("embed")], "resample", other)
    edited = model.run_with_hooks(tokens, fwd_hooks=[write_hook(parse("embed"), value)])
    torch.testing.assert_close(edited, model(other))


def test_mean_over_a_constant_set_is_a_no_op(model: HookedGPT2) -> None:
    same = torch.full((4, 1), 7)
    for part in PARTS:
        torch.testing.assert_close(ablated(model, same, [part], "mean"), model(same))


def test_means_by_position_need_prompts_alike(model: HookedGPT2) -> None:
    tokens, mask = pad_rows([[1, 2, 3], [4, 5, 6], [7, 8]], pad_id=0)
    (value,) = replacements(model, [parse("m0")], "position-mean", tokens[:2], mask[:2])
    (each,) = replacements(model, [parse("m0")], "resample", tokens[:2], mask[:2])
    torch.testing.assert_close(value, each.mean(0, keepdim=True).expand_as(value))
    with pytest.raises(CircuitsError, match="of 2 tokens the reference set has 1 prompts"):
        replacements(model, [parse("m0")], "position-mean", tokens, mask)
    left, real = pad_rows([[1, 2], [4, 5, 6]], pad_id=0, side="left")
    with pytest.raises(CircuitsError, match="padded on the right"):
        replacements(model, [parse("m0")], "position-mean", left, real)


def test_noise_has_the_mean_and_spread_of_the_reference(model: HookedGPT2) -> None:
    tokens = random_tokens(TINY, batch=600, pos=6)
    (real,) = replacements(model, [parse("a0.h1")], "resample", tokens)
    (drawn,) = replacements(model, [parse("a0.h1")], "noise", tokens)
    assert drawn.shape == real.shape
    for statistic in (torch.mean, torch.std):
        value, expected = (statistic(x.flatten(0, 1), 0) for x in (drawn, real))
        torch.testing.assert_close(value, expected, rtol=0.05, atol=0.1)
    between = torch.corrcoef(drawn.flatten(0, 1).T).fill_diagonal_(0)
    assert between.abs().max() < 0.1  # the numbers of one token are independent
    assert torch.equal(drawn, replacements(model, [parse("a0.h1")], "noise", tokens)[0])
    site = parse("a0.h1").site
    other = Reference(model, Source("noise", tokens, torch.ones_like(tokens), 1), [site])
    into = Into(torch.ones_like(tokens).bool(), 0, [], {})
    assert not torch.equal(drawn, other.write(into)[site][:, :, 1])


def test_noise_is_drawn_for_real_tokens(model: HookedGPT2) -> None:
    rows, part = [[1, 2, 3], [4, 5]], parse("m0")
    values = [
        replacements(model, [part], "noise", *pad_rows(rows, pad_id=0, side=side))[0]
        for side in ("left", "right")
    ]
    torch.testing.assert_close(values[0][1, 1:], values[1][1, :2])
    assert values[0][1, 1:].std() > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_needs(name: str) -> None:
    method = get_method(name)
    assert method is METHODS[name]
    assert method.name == name
    words = {"which": "these", "n_tokens": 3, "alike": "as long", "seed": 0, "others": "others"}
    assert method.source.format(**words)
    assert not method.copies or method.needs == "rows"


@settings(max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_means_leave_padding_out(lengths: list[int]) -> None:
    model = randomized()
    rows = [random_tokens(TINY, 1, n, seed=n)[0].tolist() for n in lengths]
    part = parse("a1.h1")
    one_by_one = torch.cat([model.run_with_cache([row])[1]["z", 1][0, :, 1] for row in rows])
    for side in ("right", "left"):
        tokens, mask = pad_rows(rows, pad_id=3, side=side)  # type: ignore[arg-type]
        (value,) = replacements(model, [part], "mean", tokens, mask)
        torch.testing.assert_close(value[0, 0], one_by_one.mean(0))


def test_one_position_only(model: HookedGPT2, tokens: torch.Tensor) -> None:
    component = parse("a0.h1@3")
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[:, 3] = True
    _, clean = model.run_with_cache(tokens)
    hook = write_hook(component, torch.zeros(1, 1, TINY.d_head), where)
    _, edited = model.run_with_cache(tokens, fwd_hooks=[hook])
    assert not edited["z", 0][:, 3, 1].any()
    elsewhere = [0, 1, 2, 4, 5]
    assert torch.equal(edited["z", 0][:, elsewhere], clean["z", 0][:, elsewhere])
    assert torch.equal(edited["resid_post", 1][:, :3], clean["resid_post", 1][:, :3])
    assert not torch.equal(edited["resid_post", 1][:, 5], clean["resid_post", 1][:, 5])
    with pytest.raises(CircuitsError, match="say which tokens"):
        write_hook(component, torch.zeros(1, 1, TINY.d_head))


def test_only_this_heads_query_reads_another_input(model: HookedGPT2, tokens: torch.Tensor) -> None:
    hook = write_hook(parse("a1.h0<q>"), torch.zeros(1, 1, TINY.d_model))
    names = ["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"]
    watch = ("blocks.1.hook_q_input", lambda value, hook: None)
    _, clean = model.run_with_cache(tokens, names_filter=names, fwd_hooks=[watch])
    _, edited = model.run_with_cache(tokens, names_filter=names, fwd_hooks=[hook])
    assert not torch.equal(edited["q", 1][:, :, 0], clean["q", 1][:, :, 0])
    assert torch.equal(edited["q", 1][:, :, 1:], clean["q", 1][:, :, 1:])
    assert torch.equal(edited["k", 1], clean["k", 1])


def test_several_parts_at_once(model: HookedGPT2, tokens: torch.Tensor) -> None:
    both = ablated(model, tokens, ["a0.h1", "a0.h2", "m1"], "mean")
    assert not torch.equal(both, ablated(model, tokens, ["a0.h1", "m1"], "mean"))
    one = replacements(model, [parse("a0.h1")], "mean", tokens)
    three = replacements(model, [parse(p) for p in ("m1", "a0.h2", "a0.h1")], "mean", tokens)
    assert torch.equal(one[0], three[2])


def test_writing_keeps_the_value_it_is_given() -> None:
    value, current = torch.zeros(1, 1, 2), torch.ones(2, 3, 4, 2)
    name, write = write_hook(Component("head", 0, 1), value)
    edited = write(current, HookPoint(name))
    assert bool(current.all())
    assert edited is not None
    assert not edited[:, :, 1].any()
    assert bool(edited[:, :, [0, 2, 3]].all())


def test_a_gradient_flows_around_the_edit(model: HookedGPT2, tokens: torch.Tensor) -> None:
    value = torch.zeros(1, 1, TINY.d_head, dtype=torch.float64, requires_grad=True)
    model.run_with_hooks(tokens, fwd_hooks=[write_hook(parse("a0.h1"), value)]).sum().backward()
    assert value.grad is not None
    assert bool(value.grad.any())


def test_values_that_do_not_fit(model: HookedGPT2, tokens: torch.Tensor) -> None:
    (value,) = replacements(model, [parse("m0")], "resample", tokens[:2])
    with pytest.raises(CircuitsError, match=r"m0 writes \(3, 6, 16\) here, .* \(2, 6, 16\)"):
        model.run_with_hooks(tokens, fwd_hooks=[write_hook(parse("m0"), value)])


@pytest.mark.parametrize(
    ("part", "method", "n", "message"),
    [
        (
            "a1.h2",
            "mena",
            2,
            "choose mean, .*noise, .*position-mean, .*zero; did you mean 'mean'",
        ),
        ("a1.h2", "mean", 0, "the reference set for 'mean' is empty"),
        ("a9.h2", "zero", 2, "there is no layer 9: gpt2 has layers 0 to 1"),
    ],
)
def test_what_cannot_be_written(
    model: HookedGPT2, tokens: torch.Tensor, part: str, method: str, n: int, message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        replacements(model, [parse(part)], method, tokens[:n])


def test_a_reference_of_padding_alone_is_empty(model: HookedGPT2, tokens: torch.Tensor) -> None:
    with pytest.raises(CircuitsError, match="reference set for 'mean' is empty"):
        replacements(model, [parse("m0")], "mean", tokens, torch.zeros_like(tokens))


@given(st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=12), st.integers(0, 99))
def test_partners_are_others_of_the_same_length(lengths: list[int], seed: int) -> None:
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    alone = [i for i, n in enumerate(lengths) if lengths.count(n) == 1]
    if alone:
        with pytest.raises(CircuitsError, match="is the only one of"):
            partners(mask, seed)
        return
    chosen = partners(mask, seed)
    assert sorted(chosen.tolist()) == list(range(len(lengths)))
    assert not (chosen == torch.arange(len(lengths))).any()
    assert torch.equal(mask[chosen], mask)
    assert torch.equal(chosen, partners(mask, seed))
