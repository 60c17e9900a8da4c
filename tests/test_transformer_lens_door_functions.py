"""Singular vectors, training, names of models and small functions are as in TransformerLens."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from lens_door import assert_close, twin
from lens_models import lens_model
from lens_twin import IGNORE_DEPRECATION

from circuits.errors import CheckpointError, CircuitsError
from circuits.transformer_lens import (
    HookedTransformer,
    HookedTransformerConfig,
    SVDInterpreter,
    loading,
    utils,
)
from circuits.transformer_lens.train import HookedTransformerTrainConfig, train

pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)


def test_singular_vectors_are_theirs_but_for_their_signs() -> None:
    theirs = pytest.importorskip("transformer_lens")
    original = lens_model("gpt2", dtype=torch.float32)
    model = twin(original)
    for given in ({"vector_type": "OV", "head_index": 1}, {"vector_type": "w_in"}):
        options: dict[str, Any] = given | {"layer_index": 1, "num_vectors": 3}
        wanted = theirs.SVDInterpreter(original).get_singular_vectors(**options)
        mine = SVDInterpreter(model).get_singular_vectors(**options)
        signs = (mine * wanted).sum((0, 1), keepdim=True).sign()
        torch.testing.assert_close(mine * signs, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vector_type": "ov"}, "vector_type='ov': choose OV"),
        ({"vector_type": "OV"}, "give head_index"),
        ({"vector_type": "w_in", "layer_index": 9}, "layer_index=9: choose 0 to 1"),
        ({"vector_type": "w_in", "num_vectors": 99}, "num_vectors=99: choose 1 to 16"),
    ],
)
def test_singular_vectors_that_are_not_there_say_so(given: dict[str, Any], message: str) -> None:
    sizes = {"d_model": 16, "d_head": 4, "n_layers": 2, "n_ctx": 12, "d_vocab": 9}
    model = HookedTransformer(HookedTransformerConfig(**sizes))
    with pytest.raises(CircuitsError, match=message):
        SVDInterpreter(model).get_singular_vectors(**{"layer_index": 0} | given)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_training_takes_their_steps(optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = pytest.importorskip("transformer_lens")
    original = lens_model("gpt2")
    model = twin(original)
    rows = [{"tokens": torch.tensor([1, 4, 2, 7, i])} for i in range(4)]
    options: dict[str, Any] = {"num_epochs": 2, "batch_size": 2, "device": "cpu", "lr": 0.01}
    options |= {"optimizer_name": optimizer, "warmup_steps": 2, "max_grad_norm": 1.0}
    theirs.train.train(original, theirs.train.HookedTransformerTrainConfig(**options), rows)
    train(model, HookedTransformerTrainConfig(**options), rows)
    assert "Epoch 2 Samples 2 Step 0 Loss" in capsys.readouterr().out
    assert_close(model.state_dict()["blocks.1.attn.W_Q"], original.blocks[1].attn.W_Q.data)


def test_training_says_what_it_does_not_do() -> None:
    config = HookedTransformerTrainConfig(num_epochs=1, batch_size=1, wandb=True)
    with pytest.raises(CircuitsError, match="nothing is sent anywhere"):
        train(None, config, [])


def test_models_are_known_by_theirs_names() -> None:
    names = pytest.importorskip("transformer_lens.loading_from_pretrained")
    known = {alias.lower() for alias in names.make_model_alias_map()}
    for alias, official in loading.ALIASES.items():
        if alias.lower() in known and "distil" not in official:  # which has moved on the hub
            assert names.get_official_model_name(alias) == official
    steps, label = loading.get_checkpoint_labels("stanford-gpt2-small-a")
    assert (steps, label) == names.get_checkpoint_labels("stanford-gpt2-small-a")
    with pytest.raises(CheckpointError, match="did you mean 'gpt2-small'"):
        loading.get_official_model_name("gpt2-smal")
    with pytest.raises(CheckpointError, match="no checkpoints of its training"):
        loading.get_checkpoint_labels("gpt2")


def test_a_checkpoint_of_training_is_known_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, **where: Any) -> Any:
        asked.append((name, where["revision"]))
        raise CheckpointError("nothing here")

    monkeypatch.setattr(loading.checkpoints, "load", load)
    for index in (0, -1):
        with pytest.raises(CheckpointError):
            HookedTransformer.from_pretrained("stanford-gpt2-small-a", checkpoint_index=index)
    name = "stanford-crfm/alias-gpt2-small-x21"
    assert asked == [(name, "checkpoint-0"), (name, "checkpoint-400000")]
    with pytest.raises(CircuitsError, match="choose 0 to 608"):
        HookedTransformer.from_pretrained("stanford-gpt2-small-a", checkpoint_index=9999)
    with pytest.raises(CheckpointError, match="no name of a GPT-2"):
        HookedTransformer.from_pretrained("mini", checkpoint_index=0)


def test_a_model_is_described_before_it_is_loaded() -> None:
    cfg = loading.get_pretrained_model_config("sort-abc", fold_ln=True)
    model = HookedTransformer.from_pretrained("sort-abc")
    told_by_the_tokenizer = {"tokenizer_prepends_bos": False}
    assert cfg.to_dict() | told_by_the_tokenizer == model.cfg.to_dict()
    assert loading.get_num_params_of_pretrained("sort-abc") == model.cfg.n_params
    state = loading.get_pretrained_state_dict("sort-abc", cfg)
    again = HookedTransformer(cfg)
    again.load_and_process_state_dict(state)
    assert_close(again.blocks[1].attn.W_O, model.blocks[1].attn.W_O)


def test_the_functions_of_their_utilities_compute_what_theirs_do() -> None:
    theirs = pytest.importorskip("transformer_lens.utilities")
    addmm = importlib.import_module("transformer_lens.utilities.addmm")
    attention = importlib.import_module("transformer_lens.utilities.attention")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, w, b = draw(2, 3, 8), draw(4, 8, 5), draw(4, 5)
    close = torch.testing.assert_close
    close(utils.batch_addmm(b[0], w[0], x), addmm.batch_addmm(b[0], w[0], x))
    close(utils.simple_attn_linear(x, w, b), attention.simple_attn_linear(x, w, b))
    by_head = draw(2, 3, 4, 8)
    wanted = attention.complex_attn_linear(by_head, w, b)
    close(utils.complex_attn_linear(by_head, w, b), wanted)
    logits = draw(9)
    frame, expected = utils.logits_to_df(logits, top_k=4), theirs.logits_to_df(logits, top_k=4)
    assert list(frame.columns) == list(expected.columns)
    close(torch.tensor(frame.to_numpy()), torch.tensor(expected.to_numpy()))
    close(utils.apply_softcap(x, 3.0), theirs.apply_softcap(x, 3.0))
    for name in ("gelu_new", "gelu_fast", "relu", "silu", "solu", "gelu_pytorch_tanh"):
        given = utils.SUPPORTED_ACTIVATIONS[name](x)
        close(given, theirs.SUPPORTED_ACTIVATIONS[name](x), atol=1e-5, rtol=1e-5)


def test_a_parameter_is_another_for_a_while() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with utils.temporarily_swap_parameter(weight, torch.zeros(2)):
        assert weight.sum() == 0
    assert weight.sum() == 2
    with (
        pytest.raises(CircuitsError, match="both have to be the same"),
        utils.temporarily_swap_parameter(weight, torch.zeros(3)),
    ):
        pass
