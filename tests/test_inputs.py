"""What may be given for a prompt: the numbers of `transformers` for its own, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from random_models import TINY, randomized
from torch import Tensor

from circuits.analyses.attention import attention
from circuits.analyses.logit_lens import logit_lens
from circuits.analyses.walkthrough import walkthrough
from circuits.analyses.why import why
from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.detectors import detect_head
from circuits.errors import CircuitsError, TokenError
from circuits.generation import stream
from circuits.inputs import read, texts_or_rows
from circuits.prompts.user import from_texts
from circuits.tokenizer import END_OF_TEXT, Tokenizer
from circuits.weights import fold_layer_norm

ROWS = [[5, 6, 7, 8], [9, 10]]
PADDED = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
ENCODED = {"input_ids": PADDED, "attention_mask": MASK}
TEXTS = ["Once upon a time there was a girl.", "The cat sat"]
WRITER = randomized(
    ModelConfig(n_layers=1, n_heads=1, d_model=4, n_ctx=12, d_vocab=4),
    tokenizer=Tokenizer.characters("ABC", [END_OF_TEXT]),
)
INTEGERS = [
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
]


# --- transformers -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(mini: HookedGPT2, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`mini` and its tokenizer in transformers, which pads with the end of text."""
    transformers = pytest.importorskip("transformers")
    from circuits.checkpoints import save

    folder = tmp_path_factory.mktemp("mini")
    save(mini, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval(), tokenizer


def expected(theirs: Any, encoded: Any) -> Tensor:
    """Their logits, with positions as their `generate` counts them."""
    positions = (encoded["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits: Tensor = theirs[0](**encoded, position_ids=positions).logits
    return logits


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_transformers_says_what_it_says_there(
    mini: HookedGPT2, theirs: Any, side: str
) -> None:
    tokenizer = theirs[1]
    tokenizer.padding_side = side
    encoded = tokenizer(TEXTS, return_tensors="pt", padding=True)
    logits, real = expected(theirs, encoded), encoded["attention_mask"].bool()
    for given in (
        encoded,
        tokenizer(TEXTS, return_tensors="np", padding=True),
        tokenizer(TEXTS, padding=True),
        {**encoded, "token_type_ids": torch.zeros_like(encoded["input_ids"])},
    ):
        with torch.no_grad():
            assert (mini(given) - logits)[real].abs().max() < 1e-3
            assert (mini.run_with_hooks(given) - logits)[real].abs().max() < 1e-3
            ours, cache = mini.run_with_cache(given)
        assert (ours - logits)[real].abs().max() < 1e-3
        assert torch.equal(cache.mask, real)
        assert torch.equal(mini.to_tokens(given), encoded["input_ids"])
        assert mini.to_string(given) == TEXTS
        strings = mini.to_str_tokens(given)
        assert ["".join(row) for row in strings] == TEXTS
        assert strings[1] == ["The", " cat", " sat"]


def test_the_loss_of_a_padded_batch_is_theirs(mini: HookedGPT2, theirs: Any) -> None:
    theirs[1].padding_side = "right"
    encoded = theirs[1](TEXTS, return_tensors="pt", padding=True)
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = float(theirs[0](**encoded, labels=labels).loss)
        assert float(mini(encoded, return_type="loss")) == pytest.approx(loss, abs=1e-4)
    with pytest.raises(TokenError, match=r"row 1 of 2 ends with 2 .*pass attention_mask"):
        mini(encoded["input_ids"], return_type="loss")


def test_generation_continues_the_real_tokens(mini: HookedGPT2, theirs: Any) -> None:
    model, tokenizer = theirs
    tokenizer.padding_side = "left"
    encoded = tokenizer(TEXTS, return_tensors="pt", padding=True)
    made = model.generate(
        **encoded, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.eos_token_id
    )
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "stop_at_eos": False}
    ours = mini.generate(encoded, **options)
    assert [row[-4:] for row in ours] == made[:, -4:].tolist()
    assert [row[:-4] for row in ours] == tokenizer(TEXTS)["input_ids"]
    assert mini.generate(tokenizer(TEXTS), **options) == ours
    assert mini.generate(tokenizer(TEXTS[1]), **options) == ours[1:]
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    assert mini.generate(ids, attention_mask=mask, **options) == ours
    steps = [*stream(mini, encoded, max_new_tokens=4, temperature=0.0)]
    assert [row[-4] for row in ours] == steps[0].tokens.tolist()


@pytest.mark.slow
def test_one_text_of_transformers_is_one_prompt_everywhere(mini: HookedGPT2, theirs: Any) -> None:
    """In analyses, too, where a padded prompt is read without its padding."""
    tokenizer, text = theirs[1], TEXTS[1]
    tokenizer.padding_side = "left"
    ids = tokenizer(text)["input_ids"]
    padded = tokenizer(text, padding="max_length", max_length=9, return_tensors="pt")
    for given in (tokenizer(text), tokenizer(text, return_tensors="pt"), padded):
        assert texts_or_rows(given) == [ids]
        assert from_texts(mini, given).tokens.tolist() == [ids]
        for ask in (
            lambda prompt: logit_lens(mini, prompt),
            lambda prompt: attention(mini, prompt, component="a1.h0"),
            lambda prompt: walkthrough(mini, prompt, steps=1),
            lambda prompt: why(mini, "a1.h0", prompt),
        ):
            found, plain = ask(given), ask([ids])
            pd.testing.assert_frame_equal(found.frame, plain.frame)
            assert json.loads(found.to_json())["provenance"]["arguments"]["prompt"] == [ids]
    assert len(detect_head(mini, padded, "previous_token_head")) == mini.cfg.n_layers
    with pytest.raises(CircuitsError, match="2 prompts were given; ask about one at a time"):
        attention(mini, tokenizer(TEXTS, padding=True))
    assert fold_layer_norm(mini, tokenizer(TEXTS, padding=True))[1].n_positions == 12


# --- what is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
def test_all_whole_numbers_are_token_ids(tiny: HookedGPT2, dtype: torch.dtype) -> None:
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    other = tokens.to(dtype)
    logits, loss = tiny(tokens, return_type="both")
    for given in (other, other.numpy(), other.numpy()[:, ::-1][:, ::-1], other.tolist()):
        ours = tiny(given, return_type="both")
        assert torch.equal(ours[0], logits)
        assert torch.equal(ours[1], loss)
        _, cache = tiny.run_with_cache(given)
        assert cache["hook_tokens"].dtype == torch.int64
        assert torch.equal(cache["hook_tokens"], tokens)
        made = tiny.generate(given, max_new_tokens=2, temperature=0.0)
        expected = tiny.generate(tokens, max_new_tokens=2, temperature=0.0).tolist()
        assert (made.tolist() if isinstance(made, Tensor) else made) == expected
    assert torch.equal(tiny(other[0]), tiny(tokens[:1]))
    letters = torch.tensor([2, 0, 1]).to(dtype)
    assert WRITER.to_string(letters) == "CAB"
    assert WRITER.to_str_tokens(letters) == ["C", "A", "B"]
    assert WRITER.to_string(letters[0]) == "C"


@pytest.mark.parametrize(
    "given",
    [
        ENCODED,
        {"input_ids": PADDED.tolist(), "attention_mask": MASK.tolist()},
        {"input_ids": list(PADDED), "attention_mask": list(MASK)},
        {"input_ids": PADDED.numpy(), "attention_mask": MASK.numpy().astype(bool)},
        {**ENCODED, "attention_mask": MASK.double(), "special_tokens_mask": 1 - MASK},
        {**ENCODED, "token_type_ids": [[0, 0, 0, 0], [0, 0, 0, 0]], "length": [4, 2]},
    ],
)
def test_a_mapping_is_its_tokens_and_mask(tiny: HookedGPT2, given: Any) -> None:
    logits, loss = tiny(PADDED, attention_mask=MASK, return_type="both")
    ours = tiny(given, return_type="both")
    assert torch.equal(ours[0], logits)
    assert torch.equal(ours[1], loss)
    assert torch.equal(tiny(given, attention_mask=MASK), logits)
    assert texts_or_rows(given) == ROWS


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"input_ids": [5, 6], "attention_mask": [1, 1]}, [[5, 6]]),
        ({"input_ids": torch.tensor([5, 6]), "attention_mask": torch.tensor([0, 1])}, [[6]]),
        ({"input_ids": ROWS, "attention_mask": [[1] * 4, [1] * 2]}, ROWS),
        ({"input_ids": ROWS}, ROWS),
        ([range(5, 7)], [[5, 6]]),
        ((torch.tensor([5, 6]), torch.tensor([7])), [[5, 6], [7]]),
        (np.array([5, 6], dtype=np.uint16), [[5, 6]]),
        (pd.DataFrame({"a": [5], "b": [6]}), [[5, 6]]),
        (np.array([[5, 6], [7]], dtype=object), [[5, 6], [7]]),
        ("AB", ["AB"]),
        (np.array(["AB", "C"]), ["AB", "C"]),
        (pd.Series(["AB", "C"]), ["AB", "C"]),
        (("AB", "C"), ["AB", "C"]),
    ],
)
def test_forms_of_prompts(given: Any, rows: Any) -> None:
    assert texts_or_rows(given) == rows
    assert read(given)[1] is None or rows == [[6]] or rows == [[5, 6]]


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": [1]}, "the input is a dict without 'input_ids'; give a text"),
        ({"input_ids": None}, "a dict without 'input_ids'"),
        ({"A", "B"}, "the input is a set; give a text"),
        (frozenset({1}), "the input is a frozenset"),
        (b"AB", "the input is a bytes"),
        (None, "the input is None"),
        (3, "the input is an int"),
        ((row for row in [[1]]), "the input is a generator"),
        ({"A": 1}.keys(), "the input is a dict_keys"),
        (Path("text"), "the input is a"),
        ({"input_ids": ["A", "B"]}, "'input_ids' are texts"),
        ({"input_ids": "A"}, "'input_ids' are texts"),
        ({**ENCODED, "position_ids": PADDED}, "'position_ids' beside 'input_ids' would not"),
        ({**ENCODED, "labels": PADDED, "x": 1}, "'labels', 'x' beside 'input_ids'"),
        ({**ENCODED, "token_type_ids": MASK}, "token_type_ids are not all 0"),
        ({"input_ids": ROWS, "attention_mask": [[1] * 4, [1, 0]]}, "different lengths and padding"),
        ({"input_ids": ROWS, "attention_mask": [[1], [1]]}, "differ in length"),
        ({"input_ids": PADDED, "attention_mask": MASK[:1]}, r"shape \(1, 4\), the tokens have"),
        ({"input_ids": PADDED, "attention_mask": (1 - MASK) * -1e4}, "other than 0 and 1"),
        ({"input_ids": PADDED, "attention_mask": MASK * 0}, "prompt 0 of 2 is all padding"),
        ({"input_ids": PADDED, "attention_mask": [["a"]]}, "attention_mask is .*give 1 or 0"),
        (torch.tensor([[True, False]]), "torch.bool tensor .*whole numbers as token ids"),
        (torch.tensor([[1.0]]), "torch.float32 tensor .*whole numbers as token ids"),
        (torch.tensor([[1j]]), "torch.complex64 tensor"),
        (np.array([[1.0]]), "float64 tensor"),
        (np.array([[True]]), "the input is a bool tensor"),
        ([[True, False]], r"\[True, False\] is no row of token ids"),
        ([[1, np.True_]], "is no row of token ids"),
        ([torch.tensor([True])], "is no row of token ids"),
        ([b"AB"], "b'AB' is no row of token ids"),
        ([{"input_ids": [1]}], "is no row of token ids"),
        ([[2**70]], "is outside any vocabulary"),
        (torch.tensor([[2**16 - 1]], dtype=torch.uint16), "token id 65535 is outside"),
    ],
)
def test_everything_else_is_refused(tiny: HookedGPT2, given: Any, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        tiny(given)


def test_two_masks_that_differ(tiny: HookedGPT2) -> None:
    with pytest.raises(TokenError, match="given twice.* the two differ"):
        tiny(ENCODED, attention_mask=torch.ones_like(MASK))
    resid = tiny(PADDED, attention_mask=MASK, stop_at_layer=1)
    with pytest.raises(TokenError, match="other than 0 and 1"):
        tiny(resid, start_at_layer=1, attention_mask=MASK * 2)
    with pytest.raises(TokenError, match=r"shape \(2, 3\), the tokens have \(2, 4\)"):
        tiny(resid, start_at_layer=1, attention_mask=MASK[:, :3])
    assert torch.equal(
        tiny(resid, start_at_layer=1, attention_mask=MASK.tolist()),
        tiny(PADDED, attention_mask=MASK),
    )


def test_to_string_takes_token_ids_only() -> None:
    for wrong in (torch.tensor([1.5]), 1.5, [0.5], torch.tensor([True]), torch.tensor(1.5)):
        with pytest.raises(TokenError):
            WRITER.to_string(wrong)
    assert WRITER.to_string([]) == ""
    assert WRITER.to_string(torch.tensor([[0, 1], [2, 0]])) == ["AB", "CA"]
    assert WRITER.to_string(
        {"input_ids": [[0, 1], [2, 3]], "attention_mask": [[1, 1], [1, 0]]}
    ) == [
        "AB",
        "C",
    ]


def test_a_model_without_a_tokenizer_says_for_what_it_needs_one() -> None:
    bare = HookedGPT2.random(TINY)
    with pytest.raises(TokenError, match="no tokenizer; give token ids, or set model.tokenizer"):
        bare("A")
    for ask in (
        lambda: bare.to_str_tokens([[1, 2]]),
        lambda: bare.to_string([1, 2]),
        lambda: bare.generate([[1, 2]], return_type="str", max_new_tokens=1),
        lambda: logit_lens(bare, [[1, 2]]),
        lambda: attention(bare, [[1, 2]]),
        lambda: bare.to_single_token("A"),
    ):
        with pytest.raises(TokenError, match="has no tokenizer.*set model.tokenizer") as error:
            ask()
        assert "give token ids" not in str(error.value)


def test_padding_between_real_tokens_is_never_read(mini: HookedGPT2) -> None:
    """As in transformers: a query that was padded on the right, and its answer behind it."""
    query = mini.to_tokens("When Mary and John went to the garden,")
    answer = mini.to_tokens(" John gave a letter to", prepend_bos=False)
    padding = torch.full((1, 3), 8191)
    tokens = torch.cat([query, padding, answer], 1)
    real = tokens.new_ones(tokens.shape).bool()
    real[:, query.shape[1] : -answer.shape[1]] = False
    plain = mini(torch.cat([query, answer], 1))
    for given in ({"input_ids": tokens, "attention_mask": real}, tokens.tolist()):
        mask = None if isinstance(given, dict) else real
        logits = mini(given, attention_mask=mask)[real][None]
        torch.testing.assert_close(logits, plain, atol=1e-4, rtol=1e-4)


def test_a_mask_beside_rows_of_one_length(mini: HookedGPT2) -> None:
    rows, mask = [[8191, 8191, 373], [8191, 373, 1641]], [[0, 1, 1], [1, 1, 1]]
    torch.testing.assert_close(
        mini(rows, attention_mask=mask)[0, 1:], mini(rows[:1], attention_mask=mask[:1])[0, 1:]
    )
    with pytest.raises(TokenError, match="attention_mask belongs to token ids"):
        mini(["a", "b"], attention_mask=mask)


def test_ids_beyond_64_bits_are_named_as_they_are(mini: HookedGPT2) -> None:
    with pytest.raises(TokenError, match="token id 9223372036854775808 is outside"):
        mini(np.array([[2**63]], dtype=np.uint64))
