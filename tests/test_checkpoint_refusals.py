"""Damaged, foreign and dangerous checkpoints: each is one sentence that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow_files as tf
import torch
from checkpoint_files import (
    SHAPE,
    UNTIED,
    config_of,
    nanogpt_checkpoint,
    released,
    single,
    write_folder,
)
from torch import Tensor

from circuits.checkpoints import load
from circuits.errors import CheckpointError, TokenError
from circuits.tokenizer import Tokenizer

WTE, MLP = "transformer.wte.weight", "transformer.h.1.mlp.c_fc.weight"
Tensors = dict[str, Tensor]


def refused(path: Path, *said: str, **options: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert "\n" not in message


def spoil(tensors: Tensors, name: str, value: float) -> None:
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[3] = value


DAMAGE: dict[str, tuple[Callable[[Tensors], object], list[str]]] = {
    "missing": (lambda t: [t.pop(MLP), t.pop(WTE)], [f"lacks {WTE}, {MLP}"]),
    "left over": (lambda t: t.update(score=torch.ones(2)), ["beyond a GPT-2's", "score"]),
    "adapters": (
        lambda t: t.update({"h.0.attn.c_attn.lora_A.default.weight": torch.ones(2, 16)}),
        ["h.0.attn.c_attn.lora_A.default.weight: adapters", "merge_and_unload"],
    ),
    "missing and left over": (
        lambda t: t.update({"h.2.x": t.pop(MLP)}),
        [f"lacks {MLP} and has, beyond a GPT-2's, transformer.h.2.x"],
    ),
    "mis-shaped": (
        lambda t: t.update({MLP: t[MLP].T.contiguous()}),
        [f"{MLP} [20, 16] instead of [16, 20]"],
    ),
    "NaN": (lambda t: spoil(t, MLP, torch.nan), ["NaN", f"{MLP} (1 of 320)"]),
    "infinite": (lambda t: spoil(t, WTE, -torch.inf), [f"{WTE} (1 of 496)"]),
    "quantized": (lambda t: t.update({MLP: t[MLP].to(torch.int8)}), [MLP, "int8", "float32"]),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("n_shards", [1, 2])
def test_damaged_tensors_are_named(tmp_path: Path, case: str, n_shards: int) -> None:
    damage, said = DAMAGE[case]
    tensors = released(single())
    damage(tensors)
    refused(write_folder(tmp_path / "a", config_of(SHAPE), tensors, n_shards), *said)


LONG, SLY = "x" * 5000, "wte\x1b[2J\u202e\n"


@pytest.mark.parametrize("name", [LONG, SLY])
def test_names_that_would_fill_the_terminal_or_act_on_it(tmp_path: Path, name: str) -> None:
    odd = torch.ones(2)
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()) | {name: odd})
    torch.save({"model": {}, name: 1}, tmp_path / "ckpt.pt")
    torch.save({"a.wpe.weight": odd, f"{name}.wpe.weight": odd}, tmp_path / "two.pt")
    torch.save({"a.wpe.weight": odd, name: odd}, tmp_path / "more.pt")
    files = [folder, *(tmp_path / file for file in ("ckpt.pt", "two.pt", "more.pt"))]
    bundle = tf.write_release(tmp_path / "b", single())
    tf.write_bundle(bundle / "model.ckpt", tf.release(single()) | {f"model/{name}": odd})
    for path in (*files, bundle):
        with pytest.raises(CheckpointError) as caught:
            load(path)
        message = str(caught.value)
        assert message.isprintable(), message
        assert len(message) < 600
        assert "…" in message if name == LONG else "wte\\x1b[2J\\u202e\\n" in message


def test_only_a_few_of_many_names_are_listed(tmp_path: Path) -> None:
    refused(write_folder(tmp_path / "a", config_of(SHAPE), {}), f"lacks {WTE}", "and 23 more")


def test_numbers_that_overflow_a_sum_are_fine(tmp_path: Path) -> None:
    tensors = released(single())
    tensors[WTE] = torch.full_like(tensors[WTE], 3e38)
    folder = write_folder(tmp_path / "a", config_of(SHAPE), tensors)
    assert float(load(folder).W_E.detach().max()) == pytest.approx(3e38)
    refused(folder, WTE, "too large for this precision", dtype="float16")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()))
    file = folder / "model.safetensors"
    data = file.read_bytes()[:keep]
    file.write_bytes(data)
    refused(folder, str(file), f"({len(data)} bytes) is truncated", "download it again")


def test_pointer_of_git_lfs(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()))
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x")
    refused(folder, "git lfs pull")


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack"])
def test_weights_of_other_libraries(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of(SHAPE)))
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, "has no model.safetensors", name, "not read here", "save_pretrained")
    refused(tmp_path / name, name, "no format that can be loaded", "config.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "opt"}, "of type 'opt'; those that can"),
        ({"model_type": None}, "of type None"),
        ({"activation_function": "gelu_10"}, "activation_function='gelu_10'"),
        ({"scale_attn_by_inverse_layer_idx": "yes"}, "scale_attn_by_inverse_layer_idx='yes'"),
        ({"scale_attn_weights": 2}, "scale_attn_weights=2"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"n_layer": 3}, "lacks transformer.h.2.ln_1.weight"),
        ({"n_layer": 1}, "beyond a GPT-2's, transformer.h.1"),
        ({"vocab_size": 32}, f"{WTE} [31, 16] instead of [32, 16]"),
        ({"tie_word_embeddings": False}, "lacks lm_head.weight"),
    ],
)
def test_other_models(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE, **changes), released(single()))
    refused(folder, said)


def test_impossible_sizes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE, n_head=5), released(single()))
    refused(folder, "config.json describes a model that cannot be", "n_heads=5")
    refused(folder / "config.json", f"is a part of a checkpoint; give its folder {folder}")
    checkpoint = nanogpt_checkpoint(single())
    checkpoint["model_args"]["n_head"] = 5
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    refused(tmp_path / "ckpt.pt", "'model_args' describes a model that cannot be", "n_heads=5")


def test_a_config_of_2019_names_a_class_and_no_type(tmp_path: Path) -> None:
    config = config_of(SHAPE, architectures=["GPT2LMHeadModel"])
    del config["model_type"]
    folder = write_folder(tmp_path / "a", config, released(single()))
    assert load(folder).cfg.n_layers == 2
    config["architectures"] = ["OpenAIGPTLMHeadModel"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "is a model of type None; those that can", "gpt2, gpt_neo")


def test_other_spelling_of_the_same_gelu(tmp_path: Path) -> None:
    config = config_of(SHAPE, activation_function="gelu_pytorch_tanh")
    assert load(write_folder(tmp_path / "a", config, released(single()))).cfg.n_layers == 2


def test_head_of_a_wrong_shape(tmp_path: Path) -> None:
    tensors = released(single(UNTIED))
    tensors["lm_head.weight"] = tensors["lm_head.weight"].flatten()
    folder = write_folder(tmp_path / "a", config_of(UNTIED), tensors)
    refused(folder, "lm_head.weight [496] instead of [16, 31]")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_unreadable_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    refused(tmp_path, "config.json", "JSON")


def test_no_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path, "is no checkpoint: it has no config.json, only nothing")
    (tmp_path / "readme").write_text("x")
    refused(tmp_path, "only readme")
    refused(tmp_path / "readme", "is of no format that can be loaded")


def test_damaged_index(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()), n_shards=2)
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": where | {"x": where[WTE]}}))
    refused(folder, "lack x")
    index.write_text(json.dumps({"weight_map": where | {"x": "../b.safetensors"}}))
    refused(folder, "outside its own folder: ../b.safetensors")
    index.write_text("{}")
    refused(folder, "lists no shards")
    index.write_text(json.dumps({"weight_map": where}))
    (folder / where[WTE]).unlink()
    refused(folder, where[WTE], "(0 bytes)")


def test_vocabulary_of_another_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()))
    Tokenizer.characters("".join(map(chr, range(33, 70)))).save(folder)
    with pytest.raises(TokenError, match="6 tokens more than the model's 31"):
        load(folder)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("minii", "called 'minii'; did you mean 'mini'"),
        ("./nowhere/model", "no file called './nowhere/model'"),
        ("gpt2-huge", "gpt2-xl"),
        (7, "a builtins.int cannot be converted"),
        (torch.nn.Linear(1, 1), "transformers.GPT2LMHeadModel"),
    ],
)
def test_nothing_of_this_name(given: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "float31"}, "did you mean 'float32'"),
        ({"dtype": torch.int8}, "'int8' is no precision"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"revision": "main"}, "compiled has no revision 'main'"),
    ],
)
def test_impossible_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        load("compiled", **options)


class Sly:
    """Calls a function when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "ckpt.pt", tmp_path / "ran"
    torch.save(nanogpt_checkpoint(single()) | {"config": Sly(trace)}, file)
    refused(file, "may run code when read", "ckpt.pt")
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 10, -100])
def test_truncated_nanogpt(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "ckpt.pt"
    torch.save(nanogpt_checkpoint(single()), file)
    file.write_bytes(file.read_bytes()[:keep])
    refused(file, "is truncated")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "holds a list"),
        ({"state": {}}, "has state"),
        ({}, "has none"),
        ({"model": {}, "model_args": {"n_layer": 2}}, "no n_head, n_embd, block_size, vocab_size"),
        ({"model": {"x": 1}, "model_args": {}}, "'model' holds more than tensors"),
    ],
)
def test_other_files_of_torch(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "ckpt.pt")
    refused(tmp_path / "ckpt.pt", said)


def test_nanogpt_with_biases_missing(tmp_path: Path) -> None:
    checkpoint = nanogpt_checkpoint(single(), bias=False)
    checkpoint["model_args"]["bias"] = True
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    refused(tmp_path / "ckpt.pt", "lacks transformer.ln_f.bias")
