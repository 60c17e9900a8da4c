"""Detectors score the heads they are named for and no others; `detect_head` is its model's best."""

from __future__ import annotations

from functools import partial
from typing import Any

import ground_truth
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.compiled import build
from circuits.detectors import (
    DETECTORS,
    attention_to,
    detect_head,
    duplicate_token,
    first_token,
    induction,
    score,
)
from circuits.errors import CircuitsError, TokenError

NAMES = ("previous_token_head", "duplicate_token_head", "induction_head")
close = partial(torch.testing.assert_close, atol=1e-6, rtol=1e-6)


def looking_back(by: int, n: int = 25, copies: int = 2) -> tuple[Tensor, Tensor]:
    """BOS + r + r ..., and a head that looks `by` tokens back where it can, else at BOS."""
    tokens = torch.cat([torch.zeros(1, dtype=torch.long), (torch.arange(n) + 1).repeat(copies)])
    pattern = torch.zeros(len(tokens), len(tokens))
    for i in range(len(tokens)):
        pattern[i, i - by if i > by else 0] = 1
    return pattern, tokens


def test_a_duplicate_only_pattern_is_no_induction_and_vice_versa() -> None:
    n = 25
    at_the_copy, tokens = looking_back(n, n)
    after_the_copy, _ = looking_back(n - 1, n)
    found = {name: float(score(name, at_the_copy, tokens)) for name in DETECTORS}
    assert found["duplicate-token"] == 1
    assert (found["induction"], found["current-token"]) == (0, 0)
    assert float(score("induction", after_the_copy, tokens)) == 1
    assert float(score("duplicate-token", after_the_copy, tokens)) == 0


@pytest.mark.parametrize("off", [-2, -1, 1, 2])
def test_one_off_the_target_is_nothing(off: int) -> None:
    n = 25
    pattern, tokens = looking_back(n - 1 + off, n)
    assert float(score("induction", pattern, tokens)) == 0


def test_the_targets_of_two_copies_are_where_the_definition_says() -> None:
    n = 6
    _, tokens = looking_back(1, n)
    second = torch.arange(n + 1, 2 * n + 1)
    expected = {"duplicate-token": second - n, "induction": second - n + 1}
    for name, keys in expected.items():
        where = DETECTORS[name](tokens).nonzero()
        assert where.tolist() == torch.stack([second, keys], 1).tolist()
    previous = DETECTORS["previous-token"](tokens).nonzero()
    assert previous.tolist() == [[i, i - 1] for i in range(1, 2 * n + 1)]
    assert not DETECTORS["previous-token"](tokens[:1]).any()
    assert first_token(tokens).nonzero().tolist() == [[i, 0] for i in range(1, 2 * n + 1)]


def test_attention_is_summed_over_the_copies_and_averaged_over_rows_that_have_one() -> None:
    _, tokens = looking_back(1, 25, copies=4)
    evenly = torch.ones(101, 101).tril() / torch.arange(1.0, 102)[:, None]
    rows = torch.arange(26, 101)
    expected = ((rows - 1) // 25 / (rows + 1)).mean()
    close(attention_to(evenly, induction(tokens)), expected)


@given(st.data())
def test_scores_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 9))
    rows = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    tokens = torch.tensor([data.draw(rows), data.draw(rows)])
    seed = data.draw(st.integers(0, 2**31))
    noise = torch.randn(2, 3, n, n, generator=torch.Generator().manual_seed(seed))
    pattern = noise.masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf).softmax(-1)
    for b, h in ((0, 0), (1, 2)):
        per_row = []
        for q in range(n):
            keys = [k for k in range(1, q + 1) if tokens[b, k - 1] == tokens[b, q]]
            per_row += [sum(float(pattern[b, h, q, k]) for k in keys)] if keys else []
        if per_row:
            found = score("induction", pattern[b], tokens[b])[h]
            assert float(found) == pytest.approx(sum(per_row) / len(per_row), abs=1e-5)


def test_heads_keep_their_axes() -> None:
    pattern = torch.ones(2, 4, 5, 5).tril() / 5
    tokens = torch.tensor([[0, 1, 2, 1, 2], [0, 3, 4, 3, 4]])
    assert score("induction", pattern, tokens).shape == (2, 4)
    assert score("induction", pattern[0], tokens[0]).shape == (4,)
    close(attention_to(pattern, duplicate_token(tokens)), torch.full((2, 4), 0.2))


@pytest.mark.parametrize(
    ("size", "m", "times"), [("SMALL", 15, 2), ("LARGE", 25, 4)], ids=["r + r", "Olsson"]
)
def test_the_compiled_models_three_heads(size: str, m: int, times: int) -> None:
    model = build(n_layers=3, **getattr(ground_truth, size))
    tokens = ground_truth.repeated(model, m, times)
    n, expected = times * m + 1, {"SMALL": 0.484, "LARGE": 0.7426}[size]
    found = {name: detect_head(model, tokens, name) for name in NAMES}
    assert float(found[NAMES[0]][0, 0]) == pytest.approx((n - 1) / n, abs=1e-3)
    assert float(found[NAMES[1]][0, 1]) == pytest.approx(expected, abs=1e-3)
    assert float(found[NAMES[2]][1, 0]) == pytest.approx(expected, abs=1e-3)
    # Each is best at its own, and of rows that have a target all attention goes there.
    for name, (layer, head) in zip(NAMES, [(0, 0), (0, 1), (1, 0)], strict=True):
        assert divmod(int(found[name].argmax()), 4) == (layer, head)
    pattern = ground_truth.patterns(model, tokens)[1, 0]
    assert float(score("induction", pattern, tokens[0])) == pytest.approx(1, abs=1e-5)


def test_in_the_fourth_copy_attention_is_split_evenly() -> None:
    model = build(n_layers=3, **ground_truth.LARGE)
    tokens = ground_truth.repeated(model, 25, 4)
    row = ground_truth.patterns(model, tokens)[1, 0][90]
    close(row[row > 1e-3], torch.full((3,), 1 / 3), atol=1e-4, rtol=0)


TEXTS = ["When Mary gave to Mary gave", "and and the the"]


@pytest.mark.parametrize("measure", ["mul", "abs"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [{}, {"exclude_bos": True}, {"exclude_current_token": True}, {"heads": [(0, 1), (1, 0)]}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_as_transformer_lens(
    words: HookedGPT2, measure: Any, name: str, options: dict[str, Any]
) -> None:
    theirs = pytest.importorskip("transformer_lens.head_detector").detect_head
    expected = theirs(words, TEXTS[0], name, error_measure=measure, **options)
    found = detect_head(words, TEXTS[0], name, error_measure=measure, **options)
    # "abs" is rounded to three digits there.
    tolerance = 5.1e-4 if measure == "abs" else 1e-9
    close(found, expected, atol=tolerance, rtol=0)


def test_several_prompts_keep_all_arguments(words: HookedGPT2) -> None:
    for options in ({"exclude_bos": True}, {"error_measure": "abs"}, {"heads": {1: [0]}}):
        alone = [detect_head(words, text, "induction", **options) for text in TEXTS]
        close(detect_head(words, TEXTS, "induction", **options), sum(alone) / 2)
        assert not torch.allclose(sum(alone) / 2, detect_head(words, TEXTS, "induction"))
    assert (detect_head(words, TEXTS, "induction", heads={1: [0]})[0] == -1).all()


def test_the_callers_cache_is_not_written_to(words: HookedGPT2) -> None:
    for unwrapped in (False, True):
        _, cache = words.run_with_cache(TEXTS[0], remove_batch_dim=unwrapped)
        before = {name: value.clone() for name, value in cache.items()}
        options: dict[str, Any] = {"exclude_bos": True, "exclude_current_token": True}
        found = detect_head(words, TEXTS[0], "previous-token", cache=cache, **options)
        assert all(torch.equal(cache[name], value) for name, value in before.items())
        close(found, detect_head(words, TEXTS[0], "previous-token", **options))


def test_a_pattern_of_ones_own(compiled: HookedGPT2) -> None:
    tokens = ground_truth.repeated(compiled)
    pattern = torch.zeros(31, 31)
    pattern[:, 0] = 1
    found = detect_head(compiled, tokens, pattern, heads=[(1, 0)])
    # Head 1.0 rests on BOS in the first copy, BOS itself included: 16 of 31 rows.
    assert float(found[1, 0]) == pytest.approx(16 / 31, abs=1e-4)
    assert float(detect_head(compiled, tokens, pattern, exclude_bos=True)[1, 0]) == 0
    assert float(detect_head(compiled, tokens, torch.eye(31), error_measure="abs").min()) >= -1


def test_a_full_context_and_a_single_token(compiled: HookedGPT2) -> None:
    tokens = torch.arange(32) % 27
    assert float(detect_head(compiled, tokens, "previous-token")[0, 0]) > 0.9
    assert detect_head(compiled, tokens[:1], "previous-token").tolist() == [[0.0] * 4] * 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"detection_pattern": "indution_head"}, "no detector 'indution'.*did you mean 'induc"),
        ({"error_measure": "sub"}, "error_measure='sub'; choose mul or abs"),
        ({"heads": [(9, 0)]}, "there is no layer 9: tiny has layers 0 to 1"),
        ({"heads": {0: [7]}}, "there is no head 7"),
        ({"detection_pattern": torch.eye(2)}, "lower triangular matrix of shape"),
        ({"detection_pattern": torch.ones(4, 4)}, "with numbers above the diagonal"),
        ({"seq": [[1, 2], [3]], "cache": {}}, "a cache holds one prompt's patterns"),
    ],
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    plain = {"seq": torch.tensor([1, 2, 1, 2]), "detection_pattern": "induction"}
    with pytest.raises(CircuitsError, match=message):
        detect_head(words, **(plain | asked))


def test_what_has_no_targets_or_does_not_fit(words: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match="no query has a target"):
        score("induction", torch.eye(3), torch.tensor([1, 2, 3]))
    with pytest.raises(CircuitsError, match="not of the same prompts"):
        score("induction", torch.eye(4), torch.tensor([1, 2, 1]))
    _, cache = words.run_with_cache([[1, 2, 3]])
    with pytest.raises(CircuitsError, match="the prompt has 2 tokens"):
        detect_head(words, torch.tensor([1, 2]), "induction", cache=cache)
    with pytest.raises(TokenError, match="at most 128"):
        detect_head(words, "x" * 300, "induction")
