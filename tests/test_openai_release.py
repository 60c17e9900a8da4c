"""OpenAI's own files: every number as it was written, and every damage said."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import tensorflow_files as tf
import torch
from random_models import TINY, random_tokens, randomized

import circuits
from circuits.architectures import HookedGPT2
from circuits.checkpoints import loading_options
from circuits.checkpoints.tensor_bundle import read_bundle
from circuits.errors import CheckpointError

SHAPE = replace(TINY, d_head=0, d_mlp=0)
TOKENS = random_tokens(SHAPE, 2, 6)


@pytest.fixture(scope="module")
def single() -> HookedGPT2:
    return randomized(SHAPE, dtype=torch.float32)


@pytest.fixture(scope="module")
def written(single: HookedGPT2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tf.write_release(tmp_path_factory.mktemp("openai") / "124M", single)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "124M"))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        circuits.load(folder)


def test_the_model_is_the_same(folder: Path, single: HookedGPT2) -> None:
    model = circuits.load(folder)
    assert model.cfg.model_name == "124M"
    assert model.source.startswith("OpenAI ")
    for name, weight in single.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], weight), name
    assert torch.equal(model(TOKENS), single(TOKENS))


@pytest.mark.slow
def test_the_vocabulary_is_that_of_the_folder(tmp_path: Path) -> None:
    mini = circuits.load("mini")
    bundled = Path(circuits.__file__).parent / "models" / "mini"
    folder = tf.write_release(tmp_path / "mini", mini)
    shutil.copy(bundled / "vocab.json", folder / "encoder.json")
    shutil.copy(bundled / "merges.txt", folder / "vocab.bpe")
    model = circuits.load(folder)
    assert model.to_tokens("The cat sat").equal(mini.to_tokens("The cat sat"))
    assert torch.equal(model("The cat sat"), mini("The cat sat"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.randn(3, 4).to(dtype), "b/c": torch.randn(2).to(dtype)}
    tensors |= {"scalar": torch.tensor(2.0), "none": torch.zeros(0, 3)}
    tf.write_bundle(tmp_path / "x.ckpt", tensors)
    found = read_bundle(tmp_path / "x.ckpt")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_the_checkpoint_that_is_named(folder: Path, single: HookedGPT2) -> None:
    other = randomized(SHAPE, dtype=torch.float32, seed=1)
    tf.write_bundle(folder / "later.ckpt-7", tf.release(other))
    (folder / "checkpoint").write_text('model_checkpoint_path: "/far/away/later.ckpt-7"\n')
    assert torch.equal(circuits.load(folder)(TOKENS), other(TOKENS))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    assert torch.equal(circuits.load(folder)(TOKENS), single(TOKENS))
    (folder / "checkpoint").unlink()
    refused(folder, "holds later.ckpt-7, model.ckpt, and no file checkpoint says")
    (folder / "checkpoint").write_text('model_checkpoint_path: "third"\n')
    refused(folder, "checkpoint names third")


def test_the_checkpoint_whose_path_is_given(folder: Path, single: HookedGPT2) -> None:
    """As TensorFlow's users write it, without its endings; a command loads the same again."""
    other = randomized(SHAPE, dtype=torch.float32, seed=1)
    tf.write_bundle(folder / "model-1000", tf.release(other))
    for path, expected in (
        (folder / "model-1000", other),
        (folder / "model-1000.index", other),
        (folder / "model.ckpt", single),
        (folder, single),
    ):
        model = circuits.load(path)
        assert torch.equal(model(TOKENS), expected(TOKENS))
        _, again = loading_options(model)
        assert torch.equal(circuits.load(again)(TOKENS), expected(TOKENS))
    for name in ("hparams.json", "checkpoint", "model.ckpt.data-00000-of-00001"):
        refused(folder / name, f"is a part of a checkpoint; give its folder {folder}")


def test_the_state_of_an_optimizer_is_left_out(folder: Path, single: HookedGPT2) -> None:
    tensors = tf.release(single)
    more = {"beta1_power": torch.tensor(0.9), "global_step": torch.tensor(3.0)}
    more |= {f"model/wte/{slot}": single.W_E for slot in ("Adam", "Adam_1")}
    tf.write_bundle(folder / "model.ckpt", tensors | more)
    assert torch.equal(circuits.load(folder)(TOKENS), single(TOKENS))


def test_other_names_and_files_that_say_nothing(folder: Path, single: HookedGPT2) -> None:
    for path in folder.glob("model.ckpt.*"):
        path.rename(folder / path.name.replace("model.ckpt", "model-1000"))
    (folder / "checkpoint").write_bytes(b"\xff\xfe\0")
    assert torch.equal(circuits.load(folder)(TOKENS), single(TOKENS))
    (folder / "hparams.json").write_text("[" * 100_000)
    refused(folder, "cannot be read as JSON")


def test_shapes_that_are_no_gpt_2s(folder: Path, single: HookedGPT2) -> None:
    tensors = tf.release(single)
    for n in (0, 2):
        wrong = torch.zeros(n, *tensors["model/h0/mlp/c_fc/w"].shape[1:])
        tf.write_bundle(folder / "model.ckpt", tensors | {"model/h0/mlp/c_fc/w": wrong})
        refused(folder, "model/h0/mlp/c_fc/w with a first axis that is not 1")
    sizes = json.loads((folder / "hparams.json").read_text())
    (folder / "hparams.json").write_text(json.dumps(sizes | {"n_layer": 10**7}))
    refused(folder, "said to have 10000000 layers, and holds 28 tensors")


@pytest.mark.slow
def test_every_damaged_byte_is_noticed(folder: Path) -> None:
    """Of the index and of the data: an error, or the same tensors (bytes that say nothing)."""
    expected = read_bundle(folder / "model.ckpt")
    generator = torch.Generator().manual_seed(0)
    silent = 0
    for ending in ("index", "data-00000-of-00001"):
        path = folder / f"model.ckpt.{ending}"
        content = path.read_bytes()
        for at in torch.randint(len(content), [120], generator=generator).tolist():
            damaged = bytearray(content)
            damaged[at] ^= 1 << (at % 8)
            path.write_bytes(damaged)
            try:
                found = read_bundle(folder / "model.ckpt")
            except CheckpointError:
                continue
            silent += 1
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        path.write_bytes(content)
    assert silent < 12  # the padding of the footer, the block of statistics


@pytest.mark.parametrize("keep", [0, 10, 47, 200, -1])
@pytest.mark.parametrize("ending", ["index", "data-00000-of-00001"])
def test_truncated_files(folder: Path, ending: str, keep: int) -> None:
    path = folder / f"model.ckpt.{ending}"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, f"{path.name} is damaged: .*copy or download it again")


def test_what_is_not_read_is_said(folder: Path, single: HookedGPT2) -> None:
    tensors, prefix = tf.release(single), folder / "model.ckpt"
    tf.write_bundle(prefix, tensors, tf.header(shards=2))
    refused(folder, "lists 2 shards")
    tf.write_bundle(prefix, tensors, tf.header(big_endian=1))
    refused(folder, "big-endian")
    content = b"\0" * 16
    for message, more in (
        ("model/wpe in slices", tf.field(7, b"\0")),
        ("model/wpe as int64", tf.field(1, 9)),
        ("TensorFlow's type 77", tf.field(1, 77)),
        ("should take 8 bytes, not 16", b""),
    ):
        kind = tf.entry(torch.zeros(2), 0, content) + more
        prefix.with_name("model.ckpt.index").write_bytes(
            tf.table({"": tf.header(), "model/wpe": kind})
        )
        refused(folder, message)
    snappy = tf.block([(b"", tf.header())])
    trailer = b"\1" + struct.pack("<I", tf.masked(snappy + b"\1"))
    handle = tf.varint(0) + tf.varint(len(snappy))
    footer = (handle + handle).ljust(40, b"\0") + struct.pack("<Q", tf.MAGIC)
    prefix.with_name("model.ckpt.index").write_bytes(snappy + trailer + footer)
    refused(folder, "compressed by Snappy")


def test_missing_and_left_over(folder: Path, single: HookedGPT2) -> None:
    tensors = tf.release(single)
    tensors.pop("model/h1/mlp/c_fc/b")
    tf.write_bundle(folder / "model.ckpt", tensors | {"model/h9/attn/c_attn/w": torch.zeros(1)})
    refused(folder, "lacks model/h1/mlp/c_fc/b and has, beyond a GPT-2's, model/h9/attn/c_attn/w")
    sizes = json.loads((folder / "hparams.json").read_text())
    for wrong, message in (
        ({"n_head": None}, "gives no whole number for n_head"),
        ({"n_embd": 8.0}, "gives no whole number for n_embd"),
        ({"n_head": 3}, "hparams.json describes a model that cannot be: d_model=16 does not divi"),
        ({"n_vocab": 7}, "wrong shape"),
    ):
        (folder / "hparams.json").write_text(json.dumps(sizes | wrong))
        tf.write_bundle(folder / "model.ckpt", tf.release(single))
        refused(folder, message)
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    refused(folder, "lacks model.ckpt.data-00000-of-00001, half of its checkpoint")


def test_what_describes_the_model_is_named(folder: Path, single: HookedGPT2) -> None:
    """Which is hparams.json here, with whatever mark an editor puts before it."""
    sizes = (folder / "hparams.json").read_text()
    (folder / "hparams.json").write_text("\ufeff" + sizes, encoding="utf-8")
    assert torch.equal(circuits.load(folder)(TOKENS), single(TOKENS))
    wrong = {"n_layer": 3}, {"n_layer": 10**7}, {"n_ctx": 3}
    for changes, said in zip(
        wrong, ("or hparams.json", ": hparams.json", "; hparams.json"), strict=True
    ):
        (folder / "hparams.json").write_text(json.dumps(json.loads(sizes) | changes))
        with pytest.raises(CheckpointError) as caught:
            circuits.load(folder)
        assert said in str(caught.value)
        assert "config.json" not in str(caught.value)


def test_parts_of_a_release(folder: Path) -> None:
    hparams = folder / "hparams.json"
    text = hparams.read_text()
    hparams.unlink()
    refused(
        folder, "is a TensorFlow checkpoint without hparams.json.*write one with n_layer, n_head"
    )
    hparams.write_text(text)
    (folder / "model.ckpt.index").unlink()
    refused(folder, "has hparams.json, and no model.ckpt.index beside it, only checkpoint, hparams")


def test_as_tensorflow_reads_it(folder: Path, single: HookedGPT2, tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    reader = tensorflow.train.load_checkpoint(str(folder / "model.ckpt"))
    ours = tf.release(single)
    assert reader.get_variable_to_shape_map().keys() == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(torch.from_numpy(reader.get_tensor(name)), tensor)
    tensorflow.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs.ckpt"),
        tensor_names=list(ours),
        shape_and_slices=[""] * len(ours),
        tensors=[tensor.numpy() for tensor in ours.values()],
    )
    theirs = read_bundle(tmp_path / "theirs.ckpt")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
