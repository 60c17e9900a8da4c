"""The bundled `sort-abc` sorts every word, and its training can be repeated."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.checkpoints.bundled import FOLDER
from circuits.errors import TokenError

SCRIPT = Path(__file__).parents[1] / "experiments" / "train_sort.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_sort", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return load("sort-abc")


@pytest.fixture
def repeatable() -> Iterator[None]:
    """One thread and deterministic algorithms, as in the script; afterwards as before."""
    n_threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(strict)


def test_config(model: HookedGPT2) -> None:
    cfg = model.cfg
    shape = (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_vocab, cfg.n_ctx)
    assert shape == (3, 3, 48, 3, 11)
    assert cfg.tied
    assert cfg.model_name == "sort-abc"
    assert cfg.dtype == torch.float32
    assert cfg.n_params == 85_584


def test_tokens_are_letters_without_a_start_token(model: HookedGPT2) -> None:
    assert not model.cfg.default_prepend_bos
    assert model.to_tokens("CABACA").tolist() == [[2, 0, 1, 0, 2, 0]]
    with pytest.raises(TokenError, match="no start token"):
        model.to_tokens("CABACA", prepend_bos=True)


def test_sorts_every_word(model: HookedGPT2, script: ModuleType) -> None:
    words = script.words()
    assert len({tuple(word) for word in words.tolist()}) == 729
    sorted_by_model = script.sort_greedily(model, words)
    expected = torch.tensor([sorted(word) for word in words.tolist()])
    assert (sorted_by_model == expected).all(1).float().mean() >= 0.999


def test_answer_is_predicted_from_the_last_letter_of_the_word_on(model: HookedGPT2) -> None:
    with torch.no_grad():
        logits = model("CABACAAAABC")
    assert model.to_string(logits[0, 5:].argmax(-1)) == "AAABCC"


def test_held_out_words_are_a_fifth_and_apart(script: ModuleType) -> None:
    seen, held_out = ({tuple(word) for word in part.tolist()} for part in script.split(0))
    assert (len(seen), len(held_out)) == (583, 146)
    assert not seen & held_out


def test_loss_counts_only_the_answer(model: HookedGPT2, script: ModuleType) -> None:
    words = script.words()[:20]
    tokens = script.with_answer(words)
    with torch.no_grad():
        log_probs = model(tokens[:, :-1]).log_softmax(-1)
        loss = script.answer_loss(model, words)
    answer = [log_probs[row, i, tokens[row, i + 1]] for row in range(20) for i in range(5, 11)]
    assert float(loss) == pytest.approx(-float(torch.stack(answer).mean()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("repeatable")
def test_training_is_deterministic(script: ModuleType) -> None:
    first, second, other = (script.train(seed, n_steps=20)[0] for seed in (1, 1, 2))
    assert checksum(first) == checksum(second) != checksum(other)
    untrained = script.train(1, n_steps=0)[0]
    words = script.words()
    with torch.no_grad():
        assert script.answer_loss(first, words) < script.answer_loss(untrained, words) - 0.2


def test_model_card_is_about_these_weights(model: HookedGPT2) -> None:
    card = (FOLDER / "sort-abc" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`{checksum(model)}`" in card
    assert "729 of all 729 words" in card
    assert "python experiments/train_sort.py --out circuits/models/sort-abc" in card
