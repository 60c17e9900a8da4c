"""Prompts of different lengths: a padded batch equals its prompts one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_tokens, randomized, seeds, tiny_configs
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.batch import Batch, PaddingSide, as_batch, causal_mask, one_prompt, pad_rows
from circuits.cache import Cache
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, TokenError
from circuits.hooks import HookPoint, position_axis
from circuits.tokenizer import END_OF_TEXT, Tokenizer

TOKENIZER = Tokenizer.characters("AB", [END_OF_TEXT])
WRITER = randomized(
    ModelConfig(n_layers=1, n_heads=1, d_model=4, n_ctx=9, d_vocab=3), tokenizer=TOKENIZER
)
both_sides = pytest.mark.parametrize("side", ["left", "right"])
EXPLICIT = [(lambda name: name.endswith("attn_scores"), lambda value, hook: None)]


@st.composite
def batches(draw: st.DrawFn) -> tuple[HookedGPT2, list[list[int]]]:
    """A small model, and prompts of several lengths."""
    cfg = draw(tiny_configs())
    token = st.integers(0, cfg.d_vocab - 1)
    rows = draw(st.lists(st.lists(token, min_size=1, max_size=cfg.n_ctx), min_size=1, max_size=4))
    return randomized(cfg, seed=draw(seeds)), rows


def real_part(name: str, value: Tensor, mask: Tensor) -> Tensor:
    """One prompt's value [1 ...] at its real positions (and keys)."""
    value = value.index_select(position_axis(name) % value.ndim, mask.nonzero()[:, 0])
    is_pair = name.endswith(("attn_scores", "pattern"))
    return value[..., mask] if is_pair else value


def check_cache_equals_one_by_one(model: HookedGPT2, rows: list[list[int]], cache: Cache) -> None:
    for i, row in enumerate(rows):
        _, alone = model.run_with_cache([row], names_filter=list(cache))
        mask = torch.ones(len(cache["embed"][0]), dtype=torch.bool)
        mask = mask if cache.mask is None else cache.mask[i]
        for name, value in alone.items():
            ours = real_part(name, cache[name][i : i + 1], mask)
            torch.testing.assert_close(ours, value, atol=1e-9, rtol=0, msg=name)


@both_sides
@settings(max_examples=25)
@given(drawn=batches())
def test_logits_and_losses(side: PaddingSide, drawn: tuple[HookedGPT2, list[list[int]]]) -> None:
    model, rows = drawn
    _, mask = pad_rows(rows, 0, side)
    logits = model(rows, padding_side=side)
    with model.hooks(EXPLICIT):
        explicit = model(rows, padding_side=side)
    for i, row in enumerate(rows):
        alone = model([row])[0]
        torch.testing.assert_close(logits[i, mask[i]], alone, atol=1e-9, rtol=0)
        torch.testing.assert_close(explicit[i, mask[i]], alone, atol=1e-9, rtol=0)
    assert logits.isfinite().all()
    targets = [row for row in rows if len(row) > 1]
    if targets:
        losses = [model([row], return_type="loss", loss_per_token=True)[0] for row in targets]
        each = model(rows, padding_side=side, return_type="loss", loss_per_token=True)
        torch.testing.assert_close(each.sum(), torch.cat(losses).sum(), atol=1e-9, rtol=0)
        mean = model(rows, padding_side=side, return_type="loss")
        torch.testing.assert_close(mean, torch.cat(losses).mean(), atol=1e-9, rtol=0)


@both_sides
@settings(max_examples=15)
@given(drawn=batches())
def test_every_site(side: PaddingSide, drawn: tuple[HookedGPT2, list[list[int]]]) -> None:
    model, rows = drawn
    _, cache = model.run_with_cache(rows, names_filter=list(model.hook_dict), padding_side=side)
    check_cache_equals_one_by_one(model, rows, cache)


@both_sides
@settings(max_examples=25)
@given(drawn=batches(), data=st.data())
def test_hooks(
    side: PaddingSide, drawn: tuple[HookedGPT2, list[list[int]]], data: st.DataObject
) -> None:
    """A hook that goes by its positions and mask does to a batch what it does to each prompt."""
    model, rows = drawn
    site = data.draw(st.sampled_from([n for n in model.hook_dict if position_axis(n) != -1]))

    def edit(value: Tensor, hook: HookPoint) -> Tensor:
        assert hook.positions is not None
        axis = position_axis(hook.name) % value.ndim
        shape = [1] * value.ndim
        shape[0], shape[axis] = hook.positions.shape
        return value * (1 + 0.3 * hook.positions.double().cos()).reshape(shape)

    logits = model.run_with_hooks(rows, fwd_hooks=[(site, edit)], padding_side=side)
    _, mask = pad_rows(rows, 0, side)
    for i, row in enumerate(rows):
        alone = model.run_with_hooks([row], fwd_hooks=[(site, edit)])[0]
        torch.testing.assert_close(logits[i, mask[i]], alone, atol=1e-9, rtol=0)


@both_sides
def test_hooks_see_positions_and_mask(tiny: HookedGPT2, side: PaddingSide) -> None:
    seen: list[Any] = []

    def note(value: Tensor, hook: HookPoint) -> None:
        assert hook.run.mask is not None
        assert hook.positions is not None
        seen.append((hook.run.mask.int().tolist(), hook.positions.tolist()))

    tiny.run_with_hooks([[1, 2, 3], [4]], fwd_hooks=[("embed", note)], padding_side=side)
    short = {"left": ([0, 0, 1], [0, 0, 0]), "right": ([1, 0, 0], [0, 0, 0])}[side]
    assert seen == [([[1, 1, 1], short[0]], [[0, 1, 2], short[1]])]


@both_sides
def test_a_padded_tensor_with_its_mask(tiny: HookedGPT2, side: PaddingSide) -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    tokens, mask = pad_rows(rows, pad_id=9, side=side)
    logits = tiny(rows, padding_side=side)
    for given_mask in (mask, mask.int(), mask.double()):
        ours = tiny(tokens, attention_mask=given_mask)
        torch.testing.assert_close(ours[mask], logits[mask], atol=1e-12, rtol=0)


def test_padding_never_matters(tiny: HookedGPT2) -> None:
    rows = [[1, 2, 3], [4]]
    for side in ("left", "right"):
        tokens, mask = pad_rows(rows, pad_id=0, side=side)
        other = tokens.where(mask, 7)
        first, second = (tiny(t, attention_mask=mask)[mask] for t in (tokens, other))
        torch.testing.assert_close(first, second, atol=1e-12, rtol=0)


def test_undeclared_left_padding_is_refused() -> None:
    padded = WRITER.to_tokens(["ABA", "B"], padding_side="left")
    assert padded.tolist() == [[2, 0, 1, 0], [2, 2, 2, 1]]
    with pytest.raises(TokenError, match=r"row 1 begins with several start tokens.*attention_mask"):
        WRITER(padded)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    alone = WRITER("B")[0, -1]
    torch.testing.assert_close(WRITER(padded, attention_mask=mask)[1, -1], alone)
    assert WRITER(WRITER.to_tokens(["ABA", "B"])).shape == (2, 4, 3)


def test_facts_about_a_batch(tiny: HookedGPT2) -> None:
    right = as_batch(tiny, [[1, 2, 3], [4]])
    assert (right.lengths.tolist(), right.last.tolist()) == ([3, 1], [2, 0])
    left = as_batch(tiny, [[1, 2, 3], [4]], padding_side="left")
    assert (left.lengths.tolist(), left.last.tolist()) == ([3, 1], [2, 2])
    assert left.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    even = as_batch(tiny, [[1, 2], [3, 4]])
    assert even.mask is None
    assert (even.lengths.tolist(), even.last.tolist()) == ([2, 2], [1, 1])
    assert even.positions.tolist() == [[0, 1], [0, 1]]
    later = as_batch(tiny, [[1, 2], [3, 4]], n_past=5)
    assert later.positions.tolist() == [[5, 6], [5, 6]]
    assert isinstance(later, Batch)


@given(
    rows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=5),
    side=st.sampled_from(["left", "right"]),
)
def test_padding_can_be_undone(rows: list[list[int]], side: PaddingSide) -> None:
    tokens, mask = pad_rows(rows, pad_id=99, side=side)
    assert [t[real].tolist() for t, real in zip(tokens, mask, strict=True)] == rows
    assert (tokens[~mask] == 99).all()
    column = -1 if side == "left" else 0
    assert mask[:, column].all()
    assert tokens.shape == (len(rows), max(map(len, rows)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no prompts were given"),
        ([[1], []], "prompt 1 of 2 has no tokens.*prepend_bos=True"),
    ],
)
def test_rows_that_cannot_be_padded(rows: list[list[int]], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        pad_rows(rows, 0)
    with pytest.raises(TokenError, match=message):
        WRITER(rows)


def test_masks() -> None:
    cpu = torch.device("cpu")
    assert causal_mask(4, 4, None, cpu) is None
    assert causal_mask(1, 4, None, cpu) is None
    later = causal_mask(2, 4, None, cpu)
    assert later is not None
    assert later.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    right = torch.tensor([[True, True, False]])
    assert causal_mask(3, 3, right, cpu) is None  # padding lies in every real query's future
    left = causal_mask(3, 3, torch.tensor([[False, True, True]]), cpu)
    assert left is not None
    assert left[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    one = causal_mask(1, 4, torch.tensor([[True, False, True, True]]), cpu)
    assert one is not None
    assert one[0, 0].int().tolist() == [[1, 0, 1, 1]]


def test_a_start_token_is_prepended_to_texts_only() -> None:
    assert as_batch(WRITER, "AB").tokens.tolist() == [[2, 0, 1]]
    assert as_batch(WRITER, ["AB", "B"], prepend_bos=False).tokens.tolist() == [[0, 1], [1, 2]]
    assert as_batch(WRITER, [[0, 1]], prepend_bos=True).tokens.tolist() == [[0, 1]]
    assert as_batch(WRITER, "").tokens.tolist() == [[2]]
    bare = HookedGPT2.random(WRITER.cfg, tokenizer=Tokenizer.characters("ABC"))
    with pytest.raises(TokenError, match="has no start token; pass prepend_bos=False"):
        bare("AB")
    assert bare("AB", prepend_bos=False).shape == (1, 2, 3)


@both_sides
def test_gradients(tiny: HookedGPT2, side: PaddingSide) -> None:
    """The loss of a batch is the mean over its real targets, and so are its gradients."""
    rows = random_tokens(TINY, batch=3, pos=6).tolist()
    rows = [rows[0], rows[1][:3], rows[2][:2]]
    loss = tiny(rows, padding_side=side, return_type="loss")
    ours = torch.autograd.grad(loss, tiny.W_E)[0]
    alone = [tiny([row], return_type="loss", loss_per_token=True).sum() for row in rows]
    theirs = torch.autograd.grad(torch.stack(alone).sum() / 8, tiny.W_E)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_a_question_about_one_prompt_takes_one() -> None:
    model = randomized()
    assert one_prompt(model, [[1, 2, 3]]).tolist() == [[1, 2, 3]]
    with pytest.raises(CircuitsError, match="2 prompts were given"):
        one_prompt(model, [[1], [2, 3]])
