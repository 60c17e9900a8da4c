"""The tasks of the literature (years, arguments, pronouns, verbs), also in GPT-2's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from word_model import letter_model, task_model, word_model

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import TASKS, USUAL, Prompts, make, suitable_tasks
from circuits.prompts.agreement import NOUNS as PAIRS
from circuits.prompts.docstring import WORDS
from circuits.prompts.greater_than import NOUNS as EVENTS
from circuits.prompts.words import MEN, WOMEN, single_tokens
from circuits.tokenizer import Tokenizer

GPT2 = Path(__file__).parents[2] / "shared" / "gpt2_bpe"
NEW = ("greater-than", "docstring", "pronoun", "agreement")
OF_WORDS = ("repeated", "ioi", *NEW)  # the word model has theirs


@pytest.fixture(scope="module")
def small() -> HookedGPT2:
    return task_model()


@pytest.fixture(scope="module")
def gpt2() -> HookedGPT2:
    """A tiny random model with GPT-2's vocabulary."""
    if not GPT2.is_dir():
        pytest.skip("GPT-2's vocabulary is not at hand")
    cfg = ModelConfig(
        n_layers=1, n_heads=1, d_model=4, n_ctx=128, d_vocab=50257, model_name="random"
    )
    return HookedGPT2.random(cfg, tokenizer=Tokenizer.from_folder(GPT2))


def words_at(model: HookedGPT2, prompts: Prompts, row: int, twin: bool = False) -> dict[str, str]:
    tokens = prompts.corrupted if twin else prompts.tokens
    assert tokens is not None
    return {
        role: model.to_single_str_token(int(tokens[row, at[row]]))
        for role, at in prompts.roles.items()
    }


def changed_roles(prompts: Prompts) -> set[str]:
    """At which roles do the twins differ, and is it nowhere else?"""
    assert prompts.corrupted is not None
    differ = prompts.tokens != prompts.corrupted
    roles = {role for role in prompts.roles if bool((differ & prompts.where(role)).any())}
    covered = torch.zeros_like(differ)
    for role in roles:
        covered |= prompts.where(role)
    assert not (differ & ~covered).any()
    return roles


def check_years(model: HookedGPT2, prompts: Prompts) -> None:
    right, wrong = prompts.answer_sets, prompts.distractor_sets
    assert right is not None
    assert wrong is not None
    for row, text in enumerate(prompts.texts):
        at = words_at(model, prompts, row)
        assert text.endswith(f"from the year{at['XX']}{at['YY']} to the year{at['XX']}")
        assert at["END"] == at["XX"]
        assert at["NOUN"].strip() in EVENTS
        assert words_at(model, prompts, row, twin=True) == at | {"YY": "01"}
        later, others = (
            {int(model.to_single_str_token(int(t))) for t in tokens[row] if t >= 0}
            for tokens in (right, wrong)
        )
        year = int(at["YY"])
        assert later == set(range(year + 1, 100))
        assert others == set(range(year + 1))
    assert changed_roles(prompts) == {"YY"}


def check_arguments(model: HookedGPT2, prompts: Prompts) -> None:
    assert prompts.answers is not None
    assert prompts.distractors is not None
    for row, text in enumerate(prompts.texts):
        at = words_at(model, prompts, row)
        names = [at[f"{name}_def"] for name in "ABCD"]
        assert f"(self,{','.join(names)}):" in text
        assert [at["A_doc"], at["B_doc"]] == names[:2]
        assert text.count(f":param{names[0]}:") == text.count(f":param{names[1]}:") == 1
        assert text.endswith(":param")
        pair = (prompts.answers[row], prompts.distractors[row])
        assert [model.to_single_str_token(int(token)) for token in pair] == names[2:]
        twin = words_at(model, prompts, row, twin=True)
        assert not {twin[f"{name}_def"] for name in "ABCD"} & set(names)
    assert changed_roles(prompts) == {"A_def", "B_def", "C_def", "D_def"}


def check_genders(model: HookedGPT2, prompts: Prompts) -> None:
    assert prompts.answers is not None
    for row, token in enumerate(prompts.answers.tolist()):
        own, other = (WOMEN, MEN) if model.to_single_str_token(token) == " she" else (MEN, WOMEN)
        assert words_at(model, prompts, row)["NAME"].strip() in own
        assert words_at(model, prompts, row, twin=True)["NAME"].strip() in other
    assert changed_roles(prompts) == {"NAME"}
    assert_balanced(model, prompts, " she", " he")


def check_numbers(model: HookedGPT2, prompts: Prompts) -> None:
    assert prompts.answers is not None
    one, many = ({pair[i] for pair in PAIRS} for i in (0, 1))
    for row, token in enumerate(prompts.answers.tolist()):
        own, other = (many, one) if model.to_single_str_token(token) == " are" else (one, many)
        at, twin = words_at(model, prompts, row), words_at(model, prompts, row, twin=True)
        assert at["SUBJECT"].strip() in own
        assert at["END"].strip() in other
        assert (twin["SUBJECT"].strip() in other, twin["END"]) == (True, at["END"])
    assert changed_roles(prompts) == {"SUBJECT"}
    assert_balanced(model, prompts, " are", " is")


def assert_balanced(model: HookedGPT2, prompts: Prompts, *verbs: str) -> None:
    assert prompts.answers is not None
    assert prompts.distractors is not None
    both = {model.to_single_token(verb) for verb in verbs}
    assert {*prompts.answers.tolist()} == both
    for row in zip(prompts.answers.tolist(), prompts.distractors.tolist(), strict=True):
        assert {*row} == both
    assert 2 * sum(prompts.answers == min(both)) == len(prompts)


CHECKS = dict(zip(NEW, (check_years, check_arguments, check_genders, check_numbers), strict=True))


@pytest.mark.parametrize("task", NEW)
def test_prompts_are_what_they_say(small: HookedGPT2, task: str) -> None:
    check = CHECKS[task]
    check(small, make(task, small, 20))


@pytest.mark.parametrize("task", NEW)
def test_prompts_of_gpt2(gpt2: HookedGPT2, task: str) -> None:
    prompts = make(task, gpt2, 30)
    CHECKS[task](gpt2, prompts)
    assert bool(prompts.mask.all())  # one length: positions mean the same in every prompt


def test_every_task_suits_gpt2_and_the_bundled_model(gpt2: HookedGPT2, mini: HookedGPT2) -> None:
    for model in (gpt2, mini):
        suitable = suitable_tasks(model)
        assert {*OF_WORDS} <= {*suitable}
        assert suitable == [task for task in TASKS if task in suitable]
        assert suitable_tasks(model, USUAL) == ["repeated", "ioi"]
        for task in suitable:
            prompts = make(task, model, 2, seed=5)
            with torch.inference_mode():
                value = get_metric(prompts.metric)(model(prompts.tokens), prompts)
            assert bool(value.isfinite().all())


def test_gpt2_has_most_of_the_words(gpt2: HookedGPT2) -> None:
    """The lists were chosen for GPT-2: what splits there is an oversight."""
    lists: Mapping[str, list[str]] = {
        "women": WOMEN,
        "men": MEN,
        "arguments": WORDS,
        "events": EVENTS,
        "nouns": [word for pair in PAIRS for word in pair],
    }
    for what, words in lists.items():
        assert len({*words}) == len(words)
        single_tokens(gpt2, words, task="any", what=what, at_least=len(words))
    assert not {*WOMEN} & {*MEN}


@pytest.mark.parametrize("task", NEW)
def test_the_seed_decides(small: HookedGPT2, task: str) -> None:
    first, again, other = (make(task, small, 12, seed=seed) for seed in (1, 1, 2))
    assert first.texts == again.texts != other.texts
    assert first.checksum == again.checksum != other.checksum
    assert make(task.replace("-", "_"), small, 12, seed=1).checksum == first.checksum


@pytest.mark.parametrize("task", OF_WORDS)
def test_a_part_is_padded_for_itself(small: HookedGPT2, task: str) -> None:
    prompts = make(task, small, 4)
    part = prompts.subset(slice(1, 3))
    metric = get_metric(prompts.metric)
    with torch.inference_mode():
        whole = metric(small(prompts.tokens, attention_mask=prompts.mask), prompts)
        alone = metric(small(part.tokens, attention_mask=part.mask), part)
    torch.testing.assert_close(alone, whole[1:3])


def test_arguments_in_the_other_order_turn_the_answer_round(small: HookedGPT2) -> None:
    prompts = make("docstring", small, 5, corruption="swap")
    assert changed_roles(prompts) == {"C_def", "D_def"}
    for row in range(5):
        at, twin = words_at(small, prompts, row), words_at(small, prompts, row, twin=True)
        assert (twin["C_def"], twin["D_def"]) == (at["D_def"], at["C_def"])
    with pytest.raises(CircuitsError, match="choose random, swap; did you mean 'swap'"):
        make("docstring", small, corruption="swop")


@pytest.mark.parametrize("task", NEW)
def test_too_few_words_are_named(task: str) -> None:
    poor = word_model()
    with pytest.raises(CircuitsError) as error:
        make(task, poor)
    text = str(error.value)
    assert f"the task {task!r} does not suit tiny: its vocabulary 'words' has " in text
    assert " | " in text
    assert text.count(" is ") <= 3
    with pytest.raises(CircuitsError, match="has no token for"):
        make(task, letter_model())
    with pytest.raises(CircuitsError, match="n=0 prompts"):
        make(task, poor, 0)


def test_years_that_do_not_split_into_century_and_year() -> None:
    digits = [f"{year:02d}" for year in range(100)]
    with pytest.raises(CircuitsError, match=r"years into XX and YY \(' 1732':   \| 17 \| 32\)"):
        make("greater-than", word_model([*digits, " war"]))


def test_probabilities_of_sets(small: HookedGPT2) -> None:
    prompts = make("greater-than", small, 3)
    logits = small(prompts.tokens)
    value = get_metric("prob_diff")(logits, prompts)
    for row in range(3):
        probs = logits[row, int(prompts.index("END")[row])].softmax(-1)
        year = int(words_at(small, prompts, row)["YY"])
        signs = [1 if other > year else -1 for other in range(100)]
        ids = [small.to_single_token(f"{other:02d}") for other in range(100)]
        expected = sum(sign * probs[i] for sign, i in zip(signs, ids, strict=True))
        torch.testing.assert_close(value[row], expected)
        odds = (probs[ids[year + 1 :]].sum() / probs[ids[: year + 1]].sum()).log()
        torch.testing.assert_close(get_metric("logit_diff")(logits, prompts)[row], odds)
