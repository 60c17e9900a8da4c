"""Generation of text: whole characters, stop texts, and the forms of the result."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import randomized
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.errors import TokenError
from circuits.generation import Step, generate, stream
from circuits.hooks import HookPoint, Hooks
from circuits.tokenizer import END_OF_TEXT, Tokenizer

WORDS = [" the", " end", "ab", "cd"]
TOKENIZER = Tokenizer(
    {bytes([i]): i for i in range(256)} | {w.encode(): 256 + i for i, w in enumerate(WORDS)},
    {END_OF_TEXT: 260},
    name="bytes and words",
)
EOT = 260
CFG = ModelConfig(n_layers=1, n_heads=2, d_model=16, n_ctx=60, d_vocab=261, model_name="scribe")
MODEL = randomized(CFG, tokenizer=TOKENIZER)


def saying(prompts: list[str], texts: list[str | bytes | list[int]]) -> Hooks:
    """Hooks that dictate each row's continuation, wherever the tokens are computed."""
    starts = torch.tensor([1 + len(TOKENIZER.encode(prompt)) for prompt in prompts])
    rows = [TOKENIZER.encode(text) if isinstance(text, str) else list(text) for text in texts]

    def dictate(logits: Tensor, hook: HookPoint) -> None:
        assert hook.positions is not None
        nth = hook.positions + 1 - starts[:, None]
        for row, pos in (nth >= 0).nonzero().tolist():
            if nth[row, pos] < len(rows[row]):
                logits[row, pos, rows[row][nth[row, pos]]] = 1e6

    return [("unembed.hook_out", dictate)]


def pieces(prompt: str, text: str | bytes | list[int], n: int, **options) -> list[Step]:
    hooks = saying([prompt], [text])
    return list(stream(MODEL, prompt, max_new_tokens=n, fwd_hooks=hooks, **options))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aé", ["a", "", "é"]),
        ("🙂!", ["", "", "", "🙂", "!"]),
        (b"\xf0\x9f a", ["", "", "\ufffd ", "a"]),  # two bytes of an emoji that never completes
        (b"x\xe2\x82", ["x", "", "\ufffd"]),  # the end flushes what is left
        ("\ufffd.", ["", "", "", "\ufffd."]),  # the replacement character itself
    ],
)
def test_text_comes_in_whole_characters(text: str | bytes, expected: list[str]) -> None:
    n = len(TOKENIZER.encode(text) if isinstance(text, str) else text)
    assert [step.text[0] for step in pieces("Hi", text, n)] == expected


@settings(max_examples=30, deadline=None)
@given(
    prompts=st.lists(st.text(max_size=4), min_size=1, max_size=3),
    ids=st.lists(st.integers(0, EOT - 1), min_size=1, max_size=10),
)
def test_the_pieces_are_the_text(prompts: list[str], ids: list[int]) -> None:
    hooks = saying(prompts, [ids] * len(prompts))
    how = {"max_new_tokens": len(ids), "seed": 0, "fwd_hooks": hooks}
    steps = list(stream(MODEL, prompts, **how))
    for i, prompt in enumerate(prompts):
        new = "".join(step.text[i] for step in steps)
        assert new == TOKENIZER.decode(ids)
        assert generate(MODEL, prompts, **how)[i] == prompt + new


def test_a_prompt_of_tokens_may_end_inside_a_character() -> None:
    smile = list("🙂".encode())

    def finish(logits: Tensor, hook: HookPoint) -> None:
        assert hook.positions is not None
        logits[0, -1, smile[int(hook.positions[0, -1]) + 1]] = 1e6

    steps = list(
        stream(MODEL, [smile[:2]], max_new_tokens=2, fwd_hooks=[("unembed.hook_out", finish)])
    )
    assert [step.text[0] for step in steps] == ["", "🙂"]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (".", "one."),  # one token
        ("e. t", "one. the"),  # several tokens, the last of which goes on
        ("cd", "one. the abcd"),
        ("bc", "one. the abcd"),  # the end of one token and the start of the next
        ("b", "one. the ab"),  # inside a token
        ([ord("t"), 258], "one. the ab"),  # ids match whole tokens: " the" is no "t"
        ([".", "o"], "o"),  # the first of several
        (["never", ord("!")], "one. the abcd end!"),
        (EOT, "one. the abcd end!" + END_OF_TEXT),
        (END_OF_TEXT, "one. the abcd end!" + END_OF_TEXT),
    ],
)
def test_stops(stop, expected: str) -> None:
    text = "one. the abcd end!" + END_OF_TEXT + "more"
    hooks = saying(["o.b!"], [text])  # what the prompt contains does not stop its continuation
    how = {"max_new_tokens": 20, "seed": 0, "stop": stop, "stop_at_eos": False}
    assert generate(MODEL, "o.b!", fwd_hooks=hooks, **how) == "o.b!" + expected


def test_text_ends_at_the_end_of_text_token() -> None:
    hooks = saying(["A", "longer"], ["b" + END_OF_TEXT + "c" * 9, "a b c d e f"])
    how = {"max_new_tokens": 9, "seed": 0, "fwd_hooks": hooks}
    ended, whole = generate(MODEL, ["A", "longer"], **how)
    assert (ended, whole) == ("Ab" + END_OF_TEXT, "longera b c d e")
    on = generate(MODEL, ["A", "longer"], stop_at_eos=False, **how)
    assert on == ["Ab" + END_OF_TEXT + "c" * 7, whole]
    custom = generate(MODEL, ["A", "longer"], eos_token_id=[ord("c"), ord("d")], **how)
    assert custom == ["Ab" + END_OF_TEXT + "c", "longera b c"]


def test_forms_of_the_result() -> None:
    how = {"max_new_tokens": 3, "seed": 0, "stop_at_eos": False}
    hooks = saying(["Hi"], ["abcd!"])
    text = generate(MODEL, "Hi", fwd_hooks=hooks, **how)
    assert text == "Hiabcd!"
    assert generate(MODEL, ["Hi"], fwd_hooks=hooks, return_type="str", **how) == [text]
    tokens = generate(MODEL, "Hi", fwd_hooks=hooks, return_type="tokens", **how)
    assert tokens.tolist() == [[EOT, *b"Hi", 258, 259, ord("!")]]
    again = generate(MODEL, tokens[:, :3], fwd_hooks=hooks, **how)
    assert torch.equal(again, tokens)
    as_text = generate(MODEL, tokens[:, :3], fwd_hooks=hooks, return_type="str", **how)
    assert as_text == [END_OF_TEXT + text]
    bare = generate(MODEL, "Hi", prepend_bos=False, return_type="tokens", **how)
    assert bare[0, :2].tolist() == list(b"Hi")
    uneven = generate(MODEL, ["Hi", "there"], return_type="tokens", **how)
    assert [len(row) for row in uneven] == [6, 9]
    assert MODEL.generate("Hi", fwd_hooks=hooks, **how) == text


def test_options_known_from_hooked_transformer_change_nothing_else() -> None:
    prompts = ["Hi", "there"]
    plain = generate(MODEL, prompts, max_new_tokens=4, seed=0)
    for side in ("left", "right"):
        same = generate(MODEL, prompts, max_new_tokens=4, seed=0, padding_side=side, verbose=True)
        assert same == plain


def test_no_tokenizer_no_text() -> None:
    model = HookedGPT2.random(CFG)
    assert [step.text for step in stream(model, [[1]], max_new_tokens=2)] == [(), ()]


@pytest.mark.parametrize(
    ("prompt", "changes", "message"),
    [
        ("Hi", {"stop": ""}, "stop text is empty"),
        ("Hi", {"stop": [".", 261]}, "stop token 261 is outside the vocabulary of scribe"),
        ("", {"prepend_bos": False}, "prompt 0 of 1 has no tokens.*prepend_bos=True"),
        (["Hi", ""], {"prepend_bos": False}, "prompt 1 of 2 has no tokens"),
        ("x" * 50, {"max_new_tokens": 11}, "51 tokens .the start token included. .* room for 10 "),
    ],
)
def test_what_is_refused(prompt, changes, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        generate(MODEL, prompt, **changes)


def test_a_stop_that_the_vocabulary_cannot_write() -> None:
    letters = Tokenizer.characters("abc")
    model = HookedGPT2.random(
        ModelConfig(n_layers=1, n_heads=1, d_model=4, n_ctx=9, d_vocab=3), tokenizer=letters
    )
    with pytest.raises(TokenError, match="'z'"):
        generate(model, "ab", max_new_tokens=2, prepend_bos=False, stop="z")
