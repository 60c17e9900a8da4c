"""Padding that no mask declares: counted where nothing else can be meant, asked about elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_models import randomized

from circuits.architectures import HookedGPT2
from circuits.batch import one_prompt
from circuits.components import parse
from circuits.config import ModelConfig
from circuits.detectors import detect_head
from circuits.errors import TokenError
from circuits.generation import generate, stream
from circuits.interventions import replacements
from circuits.kv_cache import KVCache
from circuits.padding import PadTokens
from circuits.tokenizer import END_OF_TEXT, Roles, Tokenizer

A, B, C, D, E, P, Q, R = range(8)  # five letters, and three special tokens


def model_of(special: list[str], roles: Roles | None = None) -> HookedGPT2:
    letters = Tokenizer.characters("ABCDE", special)
    tokenizer = Tokenizer(letters.ranks, letters.special, name="letters", roles=roles)
    cfg = ModelConfig(n_layers=2, n_heads=2, d_model=8, n_ctx=12, d_vocab=5 + len(special))
    return randomized(cfg, tokenizer=tokenizer)


GPT2_LIKE = model_of([END_OF_TEXT])  # P starts, ends and pads
THREE = model_of(["<s>", "</s>", "<pad>"])  # P starts, Q ends, R pads
NO_PAD = model_of(["<s>", "</s>"])
BANG = model_of(["<s>", "</s>"], Roles(P, (Q,), A))  # pads with an ordinary token


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GPT2_LIKE, PadTokens(None, (P,), P)),
        (THREE, PadTokens(R, (), P)),
        (NO_PAD, PadTokens(None, (P, Q), P)),
        (BANG, PadTokens(None, (A,), P)),
    ],
)
def test_which_tokens_pad(model: HookedGPT2, expected: PadTokens) -> None:
    assert PadTokens.of(model.tokenizer) == expected
    assert PadTokens.of(None) == PadTokens(None, (), None)


LEGITIMATE: list[tuple[HookedGPT2, list[list[int]]]] = [
    (GPT2_LIKE, [[P, A, B], [P, C, D]]),  # start tokens
    (GPT2_LIKE, [[P, A, B]]),
    (GPT2_LIKE, [[P, P, A, B]]),  # a start token, and the end of the document before
    (GPT2_LIKE, [[P, P, A], [P, P, B]]),
    (GPT2_LIKE, [[A, B, P]]),  # a text that ends
    (GPT2_LIKE, [[P, A, P], [P, B, P]]),
    (GPT2_LIKE, [[P]]),  # where a text starts
    (GPT2_LIKE, [[P], [P], [P]]),
    (GPT2_LIKE, [[P], [A]]),
    (GPT2_LIKE, [[P, P, P, P]]),
    (GPT2_LIKE, [[A, P, B], [C, D, E]]),  # the end of a document inside
    (GPT2_LIKE, [[P, A, B, A, B], [P, C, D, C, D]]),  # repeated tokens
    (NO_PAD, [[P, A, Q], [P, B, Q]]),
    (NO_PAD, [[P, Q, A], [P, B, A]]),
    (BANG, [[P, P, P, B], [C, D, D, Q]]),  # its pad token is another one
    (BANG, [[A, B, C]]),
    (THREE, [[P, P, P, B], [C, D, D, Q]]),
]


@pytest.mark.parametrize(("model", "rows"), LEGITIMATE)
def test_legitimate_tokens_are_read_as_they_are(model: HookedGPT2, rows: list[list[int]]) -> None:
    for given in (torch.tensor(rows), rows):
        logits, cache = model.run_with_cache(given)
        assert cache.mask is None
        alone = torch.cat([model([row]) for row in rows])
        torch.testing.assert_close(logits, alone, atol=1e-9, rtol=0)
        if len(rows[0]) > 1:
            mean = torch.cat([model([row], return_type="loss")[None] for row in rows]).mean()
            ours = model(given, return_type="loss")
            torch.testing.assert_close(ours, mean, atol=1e-9, rtol=0)
        made = generate(model, given, max_new_tokens=2, seed=0, stop_at_eos=False)
        assert [row[:-2] for row in (made if isinstance(made, list) else made.tolist())] == rows


DOUBTFUL_STARTS: list[tuple[HookedGPT2, list[list[int]], str]] = [
    (GPT2_LIKE, [[A, B, C], [P, D, E]], "row 1 begins with token 5, which may also pad"),
    (GPT2_LIKE, [[P, P, D], [A, B, C]], "row 0 begins with several start tokens"),
    (GPT2_LIKE, [[P, A, B], [P, P, C]], "row 1 begins with several start tokens"),
    (GPT2_LIKE, [[P, P, P, A], [P, P, A, B]], "row 0 begins with several start tokens"),
    (GPT2_LIKE, [[P, P, P, A]], "row 0 begins with several start tokens"),
    (GPT2_LIKE, [[P, P, P, P, A], [P, P, P, B, C]], "row 0 begins with several start tokens"),
    (GPT2_LIKE, [[P, P, P, P], [P, P, P, A]], "row 1 begins with several start tokens"),
    (GPT2_LIKE, [[P, P], [P, A]], "row 0 begins with several start tokens"),
    (NO_PAD, [[P, A, B], [Q, P, C]], "row 0 begins with token 5, which may also pad"),
    (NO_PAD, [[Q, Q, Q, P, A]], "row 0 begins with token 6, which may also pad"),
    (BANG, [[A, P, B], [P, B, C]], "row 0 begins with token 0, which may also pad"),
]


@pytest.mark.parametrize(("model", "rows", "message"), DOUBTFUL_STARTS)
def test_starts_that_may_be_padding(model: HookedGPT2, rows: list[list[int]], message: str) -> None:
    """Refused wherever tokens are read; a mask settles it either way."""
    tokens = torch.tensor(rows)
    calls: list[Any] = [
        lambda: model(tokens),
        lambda: model(rows),
        lambda: model(tokens.to(torch.int16)),
        lambda: model(tokens.numpy()),
        lambda: model({"input_ids": tokens}),
        lambda: model(tokens, return_type="loss"),
        lambda: model.run_with_cache(tokens),
        lambda: model.run_with_hooks(tokens),
        lambda: generate(model, tokens),
        lambda: stream(model, tokens),
        lambda: detect_head(model, tokens, "previous_token_head"),
        lambda: replacements(model, [parse("a0.h1")], "mean", tokens),
    ]
    for call in calls:
        with pytest.raises(TokenError, match=rf"{message}.*pass attention_mask \(1 at real"):
            call()
    as_text = model(tokens, attention_mask=torch.ones_like(tokens))
    real = torch.tensor([[0] * (len(row) - 1) + [1] for row in rows])
    as_padding = model(tokens, attention_mask=real)
    for row, text, padded in zip(rows, as_text, as_padding, strict=True):
        expected = model([row[-1:]])[0, -1]
        torch.testing.assert_close(padded[-1], expected, atol=1e-9, rtol=0)
        assert not torch.allclose(text[-1], expected)


DOUBTFUL_ENDS: list[tuple[HookedGPT2, list[list[int]], str]] = [
    (GPT2_LIKE, [[A, B, C], [D, E, P]], "row 1 of 2 ends with 1 of token 5"),
    (GPT2_LIKE, [[P, A, B], [P, C, P]], "row 1 of 2 ends with 1 of token 5"),
    (GPT2_LIKE, [[A, B, P, P], [A, B, C, D]], "row 0 of 2 ends with 2 of token 5"),
    (GPT2_LIKE, [[A, B, P], [C, P, P]], "row 1 of 2 ends with 2 of token 5"),
    (GPT2_LIKE, [[A, P, P]], "row 0 of 1 ends with 2 of token 5"),
    (NO_PAD, [[P, A, B, Q], [P, C, Q, Q]], "row 1 of 2 ends with 2 of token 6"),
    (NO_PAD, [[P, A, B, C], [P, C, P, P]], "row 1 of 2 ends with 2 of token 5"),
    (BANG, [[P, B, C], [P, C, A]], "row 1 of 2 ends with 1 of token 0"),
]


@pytest.mark.parametrize(("model", "rows", "message"), DOUBTFUL_ENDS)
def test_ends_that_may_be_padding(model: HookedGPT2, rows: list[list[int]], message: str) -> None:
    """Refused where they count. Logits and values of what stands before do not depend on them."""
    tokens = torch.tensor(rows)
    logits = model(tokens)
    cached = model.run_with_cache(tokens)[0]
    torch.testing.assert_close(cached, logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(logits[:, :1], model(tokens[:, :1]), atol=1e-9, rtol=0)
    calls: list[Any] = [
        lambda: model(tokens, return_type="loss"),
        lambda: model(rows, return_type="both", loss_per_token=True),
        lambda: model.run_with_cache(tokens, incl_bwd=True),
        lambda: generate(model, tokens),
        lambda: stream(model, rows),
        lambda: detect_head(model, tokens, "previous_token_head"),
        lambda: replacements(model, [parse("a0.h1")], "mean", tokens),
    ]
    for call in calls:
        with pytest.raises(TokenError, match=rf"{message}, which may also pad.* attention_mask"):
            call()
    ones = torch.ones_like(tokens)
    loss = model(tokens, attention_mask=ones, return_type="loss")
    each = -logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])
    torch.testing.assert_close(loss, each.mean(), atol=1e-9, rtol=0)
    made = generate(model, tokens, attention_mask=ones, max_new_tokens=1, stop_at_eos=False)
    assert made[:, :-1].tolist() == rows


@pytest.mark.parametrize(
    ("rows", "real"),
    [
        ([[P, A, B], [P, C, R]], [[1, 1, 1], [1, 1, 0]]),
        ([[P, A, B], [R, P, C]], [[1, 1, 1], [0, 1, 1]]),
        ([[R, R, A, B]], [[0, 0, 1, 1]]),
        ([[R, A, R, B, R]], [[0, 1, 1, 1, 0]]),  # inside it is no padding
        ([[A, Q, R], [B, C, Q]], [[1, 1, 0], [1, 1, 1]]),
    ],
)
def test_a_pad_token_of_its_own_counts_as_padding(
    rows: list[list[int]], real: list[list[int]]
) -> None:
    """As if the mask had been given: logits, loss, cache, text and generation."""
    tokens, mask = torch.tensor(rows), torch.tensor(real)
    options: dict[str, Any] = {"max_new_tokens": 2, "seed": 0, "stop_at_eos": False}
    for given in (tokens, rows, tokens.numpy(), {"input_ids": rows}):
        ours, expected = THREE(given), THREE(tokens, attention_mask=mask)
        assert torch.equal(ours[mask.bool()], expected[mask.bool()])
        _, cache = THREE.run_with_cache(given)
        assert cache.mask is not None
        assert cache.mask.int().tolist() == real
        assert torch.equal(
            THREE(given, return_type="loss"),
            THREE(tokens, attention_mask=mask, return_type="loss"),
        )
        declared = generate(THREE, tokens, attention_mask=mask, **options)
        made = generate(THREE, given, **options)
        assert [[*row] for row in made] == [[*row] for row in declared]
    if len(rows) == 1:
        assert one_prompt(THREE, tokens).tolist() == [tokens[mask.bool()].tolist()]
    as_text = THREE(tokens, attention_mask=torch.ones_like(mask))
    assert (as_text - expected)[mask.bool()].abs().max() > 1e-3 or mask[:, 0].all()


def test_texts_are_padded_with_the_pad_token_and_read_back() -> None:
    tokens = THREE.to_tokens(["ABC", "D"])
    assert tokens.tolist() == [[P, A, B, C], [P, D, R, R]]
    assert torch.equal(THREE(tokens, return_type="loss"), THREE(["ABC", "D"], return_type="loss"))
    left = THREE.to_tokens(["ABC", "D"], padding_side="left")
    assert left.tolist() == [[P, A, B, C], [R, R, P, D]]
    torch.testing.assert_close(THREE(left)[1, -1], THREE("D")[0, -1], atol=1e-9, rtol=0)


def test_a_row_of_padding_alone() -> None:
    with pytest.raises(TokenError, match="prompt 1 of 2 is all padding"):
        THREE(torch.tensor([[P, A], [R, R]]))


def test_tokens_that_continue_a_cache_are_no_padding() -> None:
    cache = KVCache()
    first, later = torch.tensor([[P, A], [P, B]]), torch.tensor([[P, P, P, C], [D, E, A, B]])
    GPT2_LIKE(first, past_kv_cache=cache)
    ours = GPT2_LIKE(later, past_kv_cache=cache)
    tokens = torch.cat([first, later], 1)
    expected = GPT2_LIKE(tokens, attention_mask=torch.ones_like(tokens))[:, 2:]
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)


def test_generation_may_pass_an_end_of_text() -> None:
    """Rows that have drawn it begin and end as they like, with and without the cache."""
    options: dict[str, Any] = {"max_new_tokens": 5, "seed": 3, "stop_at_eos": False}
    made: list[list[list[int]]] = []
    rows = torch.tensor([[P, A], [B, P], [P, P]])
    for use in (True, False):
        made.append(
            generate(
                GPT2_LIKE,
                rows,
                attention_mask=torch.ones_like(rows),
                use_past_kv_cache=use,
                **options,
            ).tolist()
        )
    assert made[0] == made[1]
    assert [row[:2] for row in made[0]] == rows.tolist()


def test_without_a_tokenizer_nothing_is_known_to_pad() -> None:
    bare = randomized(GPT2_LIKE.cfg)
    assert bare(torch.tensor([[0, 0, 0, 1], [5, 5, 2, 3]])).shape == (2, 4, 6)
    assert bare(torch.tensor([[1, 0, 0], [2, 3, 4]]), return_type="loss").isfinite()
