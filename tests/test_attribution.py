"""Terms of the final stream sum to the logit difference, however finely it is taken apart."""

from __future__ import annotations

import pytest
import torch
from word_model import word_model

from circuits.architectures import HookedGPT2
from circuits.attribution import OTHER, Split, decomposed, neuron_pushes
from circuits.prompts import Prompts, make

SPLITS = (
    Split("layers"),
    Split("heads"),
    Split("heads", ("IO", "S1"), frozenset({(0, 1), (1, 0)})),
    Split("neurons", neurons={0: [3], 1: [0, 5]}),
)


@pytest.fixture(scope="module")
def words() -> HookedGPT2:
    return word_model(n_ctx=64).double()


@pytest.fixture(scope="module")
def prompts(words: HookedGPT2) -> Prompts:
    return make("ioi", words, 4)


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.what)
def test_terms_sum_to_the_logit_difference(
    words: HookedGPT2, prompts: Prompts, split: Split
) -> None:
    (pushes,) = [
        {t.component: x[0] for t, x in some.items()} for some in decomposed(words, prompts, split)
    ]
    total = pushes.pop("total")
    logits = words(prompts.tokens, attention_mask=prompts.mask)
    rows = torch.arange(len(prompts))
    at = logits[rows, prompts.roles["END"]]
    expected = at[rows, prompts.answers] - at[rows, prompts.distractors]
    assert total.tolist() == pytest.approx(expected.tolist(), abs=1e-10)
    assert sum(pushes.values()).tolist() == pytest.approx(expected.tolist(), abs=1e-10)
    assert any(name.endswith(OTHER) for name in pushes) == bool(split.places)


def test_a_neurons_term_is_what_it_pushes(words: HookedGPT2, prompts: Prompts) -> None:
    (every,) = neuron_pushes(words, prompts)
    (some,) = decomposed(words, prompts, SPLITS[-1])
    for term, numbers in some.items():
        if term.neuron is not None:
            assert numbers[0].tolist() == pytest.approx(every[term.layer, term.neuron].tolist())
