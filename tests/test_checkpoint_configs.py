"""What a config.json says, by all names that transformers reads, and by those that nobody reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import SHAPE, TOKENS, UNTIED, config_of, released, single, write_folder

from circuits.checkpoints import load
from circuits.checkpoints.settings import read_settings
from circuits.config import ModelConfig
from circuits.errors import CheckpointError, CircuitsError

SECOND = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
}
OTHER_WIDTH = {"model_type": "gpt2", "n_embd": 64}


def refused(config: dict[str, Any], *said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_settings(config, "here")
    assert all(part in str(caught.value) for part in said), caught.value


def logits_of_transformers(folder: Path) -> torch.Tensor:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.as_tensor(theirs(TOKENS).logits)


@pytest.mark.parametrize("renamed", [[name] for name in SECOND] + [list(SECOND)])
def test_second_names_are_read_as_in_transformers(tmp_path: Path, renamed: list[str]) -> None:
    config = config_of(SHAPE, n_head=4)
    for name in renamed:
        config[SECOND[name]] = config.pop(name)
    model = load(write_folder(tmp_path / "a", config, released(single())))
    assert (model.cfg.n_heads, model.cfg.d_head, model.cfg.n_ctx) == (4, 4, 12)
    expected = logits_of_transformers(tmp_path / "a")
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "second"), SECOND.items())
def test_two_names_have_to_agree(name: str, second: str) -> None:
    config = config_of(SHAPE)
    assert read_settings(config | {second: config[name]}, "here") == read_settings(config, "here")
    refused(config | {second: 7}, f"{name}={config[name]}", f"{second}=7", "two names")
    refused(config | {second: None}, f"{second}=None", "a whole number")


def test_the_first_releases_name_of_the_context(tmp_path: Path) -> None:
    """transformers ignores it beside `n_positions`, which the weights show."""
    config = config_of(SHAPE, n_ctx=5)
    assert load(write_folder(tmp_path / "a", config, released(single()))).cfg.n_ctx == 12
    del config["n_positions"]
    assert read_settings(config, "here").n_positions == 5
    assert read_settings(config | {"max_position_embeddings": 6}, "here").n_positions == 6


def test_absent_settings_are_gpt2_smalls() -> None:
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.GPT2Config(), read_settings({"model_type": "gpt2"}, "here")
    assert ours.n_inner == 4 * 768
    for name in (*SECOND, "vocab_size", "layer_norm_epsilon", "tie_word_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.activation_function == theirs.activation_function


def test_heads_that_nobody_counted() -> None:
    refused(
        OTHER_WIDTH, "no n_head or num_attention_heads", "the weights cannot show", "add n_head"
    )
    distilled = read_settings({"model_type": "gpt2", "n_layer": 6}, "here")
    assert (distilled.n_head, distilled.n_embd) == (12, 768)


@pytest.mark.parametrize(
    ("foreign", "value", "name"),
    [
        ("n_heads", 4, "n_head"),
        ("num_heads", 4, "n_head"),
        ("n_layers", 4, "n_layer"),
        ("d_model", 64, "n_embd"),
        ("block_size", 64, "n_positions"),
        ("intermediate_size", 64, "n_inner"),
        ("layer_norm_eps", 1e-6, "layer_norm_epsilon"),
        ("hidden_act", "gelu", "activation_function"),
        ("tie_embeddings", False, "tie_word_embeddings"),
    ],
)
def test_names_of_other_libraries(foreign: str, value: object, name: str) -> None:
    """Those that transformers ignores: an error where that changes a setting."""
    refused(
        {"model_type": "gpt2", foreign: value},
        f"{foreign}={value!r}",
        f"no {name}",
        f"call it {name}",
    )
    config = config_of(SHAPE, layer_norm_epsilon=1e-5) | {foreign: value}
    assert read_settings(config, "here") == read_settings(config_of(SHAPE), "here")


def test_a_foreign_name_that_says_the_same() -> None:
    config = config_of(SHAPE) | {"layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "eps": None}
    assert read_settings(config, "here").layer_norm_epsilon == 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_head": "2"}, "n_head='2'; it has to be a whole number of at least 1"),
        ({"n_head": 2.0}, "n_head=2.0"),
        ({"n_head": True}, "n_head=True"),
        ({"n_head": None}, "n_head=None"),
        ({"n_head": 0}, "n_head=0"),
        ({"n_layer": []}, "n_layer=[]"),
        ({"vocab_size": "31"}, "vocab_size='31'"),
        ({"vocab_size": None}, "vocab_size=None"),
        ({"n_inner": 0}, "n_inner=0; it has to be a whole number of at least 1, or null"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon='1e-5'; it has to be a number"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon=nan"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon=-1"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false'; it has to be true or"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings=None"),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings=0"),
        ({"activation_function": None}, "activation_function=None"),
    ],
)
def test_values_of_a_wrong_type(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE, **changes), released(single()))
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert said in str(caught.value)


def test_a_width_of_null_is_four_times_the_streams() -> None:
    assert read_settings(config_of(SHAPE, n_inner=None), "here").n_inner is None
    config = ModelConfig(n_layers=1, n_heads=2, d_model=16, n_ctx=12, d_vocab=31)
    assert config.d_mlp == 64


def test_a_vocabulary_of_another_size_is_named_twice(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE, vocab_size=40), released(single()))
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert "transformer.wte.weight [31, 16] instead of [40, 16]" in str(caught.value)
    assert "d_vocab=40" in str(caught.value)


def test_a_head_that_is_not_tied_as_declared(tmp_path: Path) -> None:
    tensors = released(single(UNTIED))
    del tensors["lm_head.bias"]
    config = config_of(UNTIED, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="differs from wte.weight"):
        load(write_folder(tmp_path / "a", config, tensors))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": "2"}, "n_heads='2'"),
        ({"d_model": 16.0}, "d_model=16.0"),
        ({"n_layers": True}, "n_layers=True"),
        ({"d_head": None}, "d_head=None"),
        ({"d_mlp": -1}, "d_mlp=-1"),
        ({"eps": "1e-5"}, "eps='1e-5'"),
        ({"tied": "no"}, "tied='no'"),
    ],
)
def test_a_shape_in_python(changes: dict[str, Any], said: str) -> None:
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 16, "n_ctx": 12, "d_vocab": 31}
    with pytest.raises(CircuitsError, match=said):
        ModelConfig(**(sizes | changes))


def test_a_saved_config_is_read_back_by_all_its_names(tmp_path: Path) -> None:
    """What transformers itself writes has every setting."""
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config(n_head=12, n_embd=96, n_inner=None).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    settings = read_settings(written, "here")
    assert (settings.n_head, settings.n_embd, settings.n_inner) == (12, 96, None)
