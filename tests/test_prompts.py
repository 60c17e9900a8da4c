"""Tasks: every prompt says what it claims to say, token by token."""

from __future__ import annotations

import dataclasses
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from word_model import TOKENS, WORDS, letter_model, task_model, word_model

from circuits.architectures import HookedGPT2
from circuits.checkpoints.compiled import build
from circuits.errors import CircuitsError, TokenError
from circuits.metrics import get_metric
from circuits.prompts import TASKS, UNSCORED, Example, Prompts, assemble, make, suitable_tasks
from circuits.prompts.ioi import NAMES, OBJECTS, PLACES, TEMPLATES, ioi
from circuits.prompts.repeated import repeated
from circuits.prompts.sorting import sorting
from circuits.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return word_model()


@pytest.fixture(scope="module")
def letters() -> HookedGPT2:
    return letter_model()


def at(prompts: Prompts, role: str) -> list[int]:
    return prompts.tokens.gather(1, prompts.index(role)[:, None]).flatten().tolist()


def real(prompts: Prompts, row: int, corrupted: bool = False) -> list[int]:
    tokens = prompts.corrupted if corrupted else prompts.tokens
    assert tokens is not None
    return tokens[row][prompts.mask[row]].tolist()


def test_ioi_roles_hold_the_names(model: HookedGPT2) -> None:
    prompts = ioi(model, n=24, seed=3)
    assert prompts.answers is not None
    assert prompts.distractors is not None
    assert at(prompts, "IO") == prompts.answers.tolist()
    assert at(prompts, "S1") == at(prompts, "S2") == prompts.distractors.tolist()
    assert set(at(prompts, "END")) == {model.to_single_token(" to")}
    assert torch.equal(prompts.index("S1+1"), prompts.index("S1") + 1)
    assert torch.equal(prompts.index("END"), prompts.mask.sum(1) - 1)
    for row, text in enumerate(prompts.texts):
        assert real(prompts, row) == [model.tokenizer.bos_id, *model.tokenizer.encode(text)]  # type: ignore[union-attr]
        assert text.count(model.to_string([int(prompts.answers[row])])) == 1
        assert text.count(model.to_string([int(prompts.distractors[row])])) == 2


def test_ioi_names_stand_in_both_orders_in_every_template(model: HookedGPT2) -> None:
    n = 2 * len(TEMPLATES)
    prompts = ioi(model, n=n)
    io_first = prompts.index("IO") < prompts.index("S1")
    assert io_first.sum() == n // 2
    lengths = prompts.mask.sum(1)
    assert torch.equal(lengths[: n // 2], lengths[n // 2 :])
    assert torch.equal(io_first[: n // 2], ~io_first[n // 2 :])


@pytest.mark.parametrize(
    ("corruption", "changed"),
    [("abc", {"IO", "S1", "S2"}), ("third", {"S2"}), ("io", {"S2"})],
)
def test_ioi_twins_differ_in_the_names_alone(
    model: HookedGPT2, corruption: str, changed: set[str]
) -> None:
    prompts = make("ioi", model, 12, corruption=corruption)
    assert prompts.corrupted is not None
    expected = torch.zeros_like(prompts.mask)
    for role in changed:
        expected |= prompts.where(role)
    assert torch.equal(prompts.tokens != prompts.corrupted, expected)
    s2 = prompts.corrupted[prompts.where("S2")].tolist()
    answers, distractors = prompts.answers, prompts.distractors
    assert answers is not None
    assert distractors is not None
    if corruption == "io":
        assert s2 == answers.tolist()
    else:
        assert not set(zip(s2, answers.tolist(), strict=True)) & {(t, t) for t in s2}
    if corruption == "abc":
        for row in range(12):
            new = set(prompts.corrupted[row][expected[row]].tolist())
            assert len(new) == 3
            assert not new & {int(answers[row]), int(distractors[row])}


def test_ioi_uses_only_words_of_the_vocabulary(model: HookedGPT2) -> None:
    words = Counter(word for text in ioi(model, n=60).texts for word in text.split())
    assert {w for w in words if w in {*NAMES, *PLACES, *OBJECTS}} <= set(WORDS)
    assert {word for word in WORDS[:16] if word in words} == set(WORDS[:16])


def test_ioi_lists_are_sound() -> None:
    for words in (NAMES, PLACES, OBJECTS):
        assert len(set(words)) == len(words)
    for template in TEMPLATES:
        assert template.endswith(" to")
        assert all(f" {{{name}}}" in template for name in "ABS")


@pytest.mark.parametrize("task", ["ioi", "repeated"])
def test_the_seed_decides(model: HookedGPT2, task: str) -> None:
    first, again, other = (make(task, model, 8, seed=seed) for seed in (1, 1, 2))
    assert first.texts == again.texts != other.texts
    assert first.checksum == again.checksum != other.checksum
    assert (first.seed, other.seed) == (1, 2)


@pytest.mark.parametrize("field", ["answers", "distractors", "corrupted", "targets"])
def test_the_checksum_sees_every_part(model: HookedGPT2, field: str) -> None:
    prompts = ioi(model, n=3)
    changed = dataclasses.replace(prompts, **{field: getattr(prompts, field) + 1})
    assert changed.checksum != prompts.checksum
    moved = dataclasses.replace(prompts, roles=dict(prompts.roles) | {"S2": prompts.roles["S1"]})
    assert moved.checksum != prompts.checksum


def test_a_start_token_is_explicit(model: HookedGPT2) -> None:
    with_bos, without = ioi(model, n=4), ioi(model, n=4, prepend_bos=False)
    assert with_bos.prepend_bos
    assert not without.prepend_bos
    assert with_bos.texts == without.texts
    assert torch.equal(with_bos.tokens[:, 1:], without.tokens)
    assert torch.equal(with_bos.index("S2"), without.index("S2") + 1)


@hypothesis_settings(max_examples=25)
@given(length=st.integers(2, 12), n=st.integers(1, 4), seed=st.integers(0, 999), bos=st.booleans())
def test_repeated_tokens(length: int, n: int, seed: int, bos: bool) -> None:
    prompts = repeated(_COMPILED, n, seed, length=length, prepend_bos=bos)
    assert prompts.corrupted is not None
    assert prompts.tokens.shape == (n, bos + 2 * length)
    body, twin = prompts.tokens[:, bos:], prompts.corrupted[:, bos:]
    assert torch.equal(body[:, :length], body[:, length:])
    assert torch.equal(body[:, length:], twin[:, length:])
    assert all(len(set(row)) == 2 * length for row in twin.tolist())
    assert not (prompts.tokens == _COMPILED.tokenizer.bos_id)[:, bos:].any()  # type: ignore[union-attr]
    scored = prompts.targets != UNSCORED
    assert set(prompts.index("SECOND").tolist()) == {bos + length}
    assert scored[:, bos + length : -1].all()
    assert scored.sum() == n * (length - 1)
    assert torch.equal(
        prompts.targets[:, :-1][scored[:, :-1]], prompts.tokens[:, 1:][scored[:, :-1]]
    )


_COMPILED = build(n_layers=3)


def test_the_compiled_model_repeats(compiled: HookedGPT2) -> None:
    """The figures that are known for its induction circuit: 0.0012 nats, or chance without."""
    prompts = make("repeated", compiled, 8)
    assert prompts.tokens.shape[1] == 1 + 2 * 13
    loss = get_metric("loss")(compiled(prompts.tokens), prompts)
    # Its other circuit adds a little to the logits of a name after the token that ends a sentence.
    ends_sentence = (prompts.tokens == 1).any(1)
    assert loss[ends_sentence].max() < 0.1
    expected = torch.full_like(loss[~ends_sentence], 0.0012)
    torch.testing.assert_close(loss[~ends_sentence], expected, atol=5e-5, rtol=0)
    assert len(expected) >= 2
    chance = get_metric("loss")(compiled(prompts.corrupted), prompts)
    assert bool((chance > torch.tensor(20.0).log()).all())


def test_repeated_length_follows_the_context(model: HookedGPT2) -> None:
    assert make("repeated", model, 1).tokens.shape == (1, 51)
    assert repeated(word_model(n_ctx=16), 1).tokens.shape == (1, 15)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (64, r"tiny: two copies of 64 .* its context of 128 positions; choose .* at most 63"),
        (1, "length=1: one copy needs at least 2 tokens"),
    ],
)
def test_repeated_lengths_that_do_not_fit(model: HookedGPT2, length: int, message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        repeated(model, length=length)


def test_sorting_asks_for_the_next_letter(letters: HookedGPT2) -> None:
    prompts = sorting(letters, n=60)
    assert prompts.answers is not None
    assert prompts.distractors is not None
    assert not prompts.prepend_bos
    for row, text in enumerate(prompts.texts):
        given, output = text[:6], text[6:]
        in_order = "".join(sorted(given))
        k = len(output)
        assert output == in_order[:k]
        assert letters.to_string([int(prompts.answers[row])]) == in_order[k]
        twin = letters.to_string(real(prompts, row, corrupted=True))
        assert twin[6:] == "".join(sorted(twin[:6]))[:k]
        assert "ABC"[int(prompts.distractors[row])] == sorted(twin[:6])[k]
        scored = prompts.targets[row] != UNSCORED
        assert scored.nonzero().flatten().tolist() == list(range(5, 6 + k))
        assert letters.to_string(prompts.targets[row][scored].tolist()) == in_order[: k + 1]
    assert {len(text) for text in prompts.texts} == set(range(6, 12))
    assert set(prompts.index("OUTPUT").tolist()) == {5}
    assert prompts.tokens.max() <= 2


def test_which_tasks_suit_which_model(
    model: HookedGPT2, compiled: HookedGPT2, letters: HookedGPT2
) -> None:
    assert suitable_tasks(model) == ["repeated", "ioi"]
    assert suitable_tasks(compiled) == ["repeated", "compiled-ioi"]
    assert suitable_tasks(letters) == ["sorting"]


def test_every_task_can_be_measured_as_it_says(
    letters: HookedGPT2, mini: HookedGPT2, compiled: HookedGPT2
) -> None:
    models = (letters, task_model(), mini, compiled)
    for task in TASKS:
        suited = next(model for model in models if suitable_tasks(model, [task]))
        prompts = make(task, suited, 3)
        value = get_metric(prompts.metric)(suited(prompts.tokens), prompts)
        assert prompts.task == task
        assert value.shape == (3,)
        assert bool(value.isfinite().all())


def test_what_a_vocabulary_lacks_is_named(model: HookedGPT2, letters: HookedGPT2) -> None:
    with pytest.raises(CircuitsError) as error:
        make("ioi", letters)
    assert "'ioi' does not suit letters: its vocabulary 'characters' has 0 of the" in str(
        error.value
    )
    assert str(error.value).count("has no token for") == 1
    with pytest.raises(CircuitsError, match=r"has 1 of the 1 names .* needs 5"):
        ioi(model, names=["Mary"])
    with pytest.raises(CircuitsError, match=r"exactly the letters A, B, C, and this one has \d+"):
        make("sorting", model)
    with pytest.raises(CircuitsError, match=r"does not fit|do not fit into its vocabulary of 3"):
        make("repeated", letters)


def test_too_long_for_the_context() -> None:
    with pytest.raises(TokenError, match="tiny reads at most 16"):
        ioi(word_model(n_ctx=16), n=2)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("ioy", {}, "there is no task 'ioy'; choose repeated, ioi, .*; did you mean 'ioi'"),
        ("ioi", {"n": 0}, "n=0 prompts"),
        ("ioi", {"corruption": "adc"}, "choose abc, third, io; did you mean 'abc'"),
    ],
)
def test_tasks_that_cannot_be_made(
    model: HookedGPT2, task: str, options: dict[str, int], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        make(task, model, **options)


def test_a_start_token_has_to_exist(letters: HookedGPT2) -> None:
    with pytest.raises(TokenError, match="no start token"):
        sorting(letters, prepend_bos=True)


def example(text: str, model: HookedGPT2, **fields: object) -> Example:
    return Example(text, model.tokenizer.encode(text), **fields)  # type: ignore[arg-type, union-attr]


def assembled(model: HookedGPT2, *examples: Example) -> Prompts:
    return assemble(model, examples, task="mine", metric="loss", prepend_bos=False)


def test_positions_by_role_and_by_number(letters: HookedGPT2) -> None:
    prompts = assembled(
        letters,
        example("ABC", letters, roles={"MID": 1}),
        example("CABAC", letters, roles={"MID": 2}),
    )
    assert prompts.index("MID").tolist() == [1, 2]
    assert prompts.index("END").tolist() == prompts.index(-1).tolist() == [2, 4]
    assert prompts.index(-3).tolist() == [0, 2]
    assert prompts.index(2).tolist() == [2, 2]
    assert prompts.where("MID").nonzero().tolist() == [[0, 1], [1, 2]]
    assert torch.equal(prompts.where(None), prompts.mask)
    for position in (3, -4):
        with pytest.raises(CircuitsError, match=f"no position {position} in prompt 0 .* 3 tokens"):
            prompts.index(position)
    with pytest.raises(CircuitsError, match="its roles are MID, END; did you mean 'MID'"):
        prompts.index("MIDD")


def test_without_an_answer_every_next_token_is_scored(letters: HookedGPT2) -> None:
    prompts = assembled(letters, example("ABC", letters), example("CA", letters))
    assert prompts.targets.tolist() == [[1, 2, UNSCORED], [0, UNSCORED, UNSCORED]]
    prompts = assembled(letters, example("ABC", letters, answer=0))
    assert prompts.targets.tolist() == [[UNSCORED, UNSCORED, 0]]


def test_twins_share_the_padding(letters: HookedGPT2) -> None:
    prompts = assembled(
        letters,
        example("ABC", letters, corrupted=[2, 2, 2]),
        example("CA", letters, corrupted=[1, 1]),
    )
    assert prompts.corrupted is not None
    assert prompts.corrupted[prompts.mask].tolist() == [2, 2, 2, 1, 1]
    assert torch.equal(prompts.corrupted[~prompts.mask], prompts.tokens[~prompts.mask])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([{"answer": 1}, {}], "prompt 1 .'AB'. has no answer, others have"),
        ([{"corrupted": [1, 1]}, {"corrupted": [1]}], "prompt 1 .'AB'. has 2 tokens and one of 1"),
        ([{"corrupted": [1, 1]}, {}], "prompt 1 .'AB'. has 2 tokens and no corrupted prompt"),
    ],
)
def test_examples_that_do_not_fit_together(
    letters: HookedGPT2, fields: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        assembled(letters, *(example("AB", letters, **some) for some in fields))


def test_prompts_check_their_shapes(letters: HookedGPT2) -> None:
    prompts = assembled(letters, example("ABC", letters), example("CA", letters))
    with pytest.raises(CircuitsError, match=r"mask has shape \(3, 2\); 2 prompts .* \(2, 3\)"):
        dataclasses.replace(prompts, mask=prompts.mask.T)
    with pytest.raises(CircuitsError, match=r"roles\['END'\] has shape \(1,\)"):
        dataclasses.replace(prompts, roles={"END": torch.tensor([0])})
    with pytest.raises(CircuitsError, match="name no END"):
        dataclasses.replace(prompts, roles={})


def test_a_model_needs_a_tokenizer(model: HookedGPT2) -> None:
    with pytest.raises(TokenError, match="has no tokenizer"):
        ioi(HookedGPT2(model.cfg))


def test_words_of_several_tokens_are_left_out() -> None:
    model = word_model([*TOKENS, " Zebedi"])
    assert isinstance(model.tokenizer, Tokenizer)
    prompts = ioi(model, n=30, names=["Mary", "John", "Tom", "Anne", "James", "Zebediah"])
    assert not any("Zebediah" in text for text in prompts.texts)


def test_what_stands_at_padding_does_not_tell_prompts_apart(model: HookedGPT2) -> None:
    prompts = assemble(
        model,
        [Example("a", [0]), Example("b", [0, 1])],
        task="own",
        metric="loss",
        prepend_bos=False,
    )
    other = prompts.tokens.where(prompts.mask, prompts.tokens + 1)
    assert dataclasses.replace(prompts, tokens=other).checksum == prompts.checksum
    assert dataclasses.replace(prompts, tokens=prompts.tokens + 1).checksum != prompts.checksum
