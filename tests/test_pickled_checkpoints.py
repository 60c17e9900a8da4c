"""What torch has pickled: read without running code, in every shape that people save it in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import SHAPE, config_of, nanogpt_checkpoint, released, single
from safetensors.torch import save_file
from test_checkpoint_formats import NANO

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load, save
from circuits.config import GPT2_SIZES
from circuits.errors import CheckpointError


class Opener:
    """What a hostile file would have called."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("stolen", "w")


def with_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(SHAPE, **changes)))
    return folder


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])  # torch's format since 1.6, and the one before
def test_one_file(tmp_path: Path, zipped: bool) -> None:
    folder = with_config(tmp_path / "a")
    path = folder / "pytorch_model.bin"
    torch.save(released(single()), path, _use_new_zipfile_serialization=zipped)
    for given in (folder, path):
        assert checksum(load(given)) == checksum(single())


def test_shards(tmp_path: Path) -> None:
    folder, tensors = with_config(tmp_path / "a"), released(single())
    files = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(tensors)}
    for file in files:
        torch.save({n: t for n, t in tensors.items() if where[n] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    assert checksum(load(folder)) == checksum(single())
    (folder / files[1]).unlink()
    refused(folder, files[1])


def test_safetensors_come_first(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "a")
    torch.save(released(single(seed=1)), folder / "pytorch_model.bin")
    save_file(released(single()), folder / "model.safetensors")
    assert checksum(load(folder)) == checksum(single())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "ckpt.pt", "model.pth"])
def test_no_code_is_run(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = with_config(tmp_path / "a")
    torch.save(released(single()) | {"opener": Opener()}, folder / name)
    refused(folder / name, name, "needs", "open", "may run code when read and is refused")
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_truncated(tmp_path: Path, keep: int) -> None:
    folder = with_config(tmp_path / "a")
    path = folder / "pytorch_model.bin"
    torch.save(released(single()), path)
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, str(path), "is truncated", "download it again")


def test_more_than_tensors_and_a_pointer(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "a")
    path = folder / "pytorch_model.bin"
    torch.save(released(single()) | {"step": 3}, path)
    refused(folder, "holds more than tensors: step")
    torch.save([1, 2], path)
    refused(folder, "holds a list, not a checkpoint")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid x")
    refused(folder, "git lfs pull")


def linear(model: HookedGPT2) -> dict[str, torch.Tensor]:
    """The tensors as a GPT-2 made of torch's linear layers has them."""
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {n: t.T.clone() if n.endswith(matrices) else t for n, t in released(model).items()}


@pytest.mark.parametrize("inside", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_state_dict_beside_its_configuration(
    tmp_path: Path, inside: str | None, prefix: str
) -> None:
    folder = with_config(tmp_path / "a")
    for tensors in (released(single()), linear(single())):
        named = {prefix + name: tensor for name, tensor in tensors.items()}
        path = folder / "weights.pt"
        torch.save(named if inside is None else {inside: named, "step": 7}, path)
        assert checksum(load(path)) == checksum(single())


CHAINS = ["model.", "net.", "module.model.", "model._orig_mod.", "lit.gpt2.module.", "transformer."]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("bare", [True, False])
def test_what_stands_before_all_names_is_left_out(tmp_path: Path, chain: str, bare: bool) -> None:
    """As in what Lightning saves, whose module has the model as an attribute: also in folders."""
    tensors = released(single())
    for layer in range(SHAPE.n_layers):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
    if bare:
        tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    else:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    named = {chain + name: tensor for name, tensor in tensors.items()}
    folder = with_config(tmp_path / "a")
    torch.save({"state_dict": named, "epoch": 3}, folder / "last.ckpt")
    torch.save(named, folder / "pytorch_model.bin")
    for path in (folder / "last.ckpt", folder):
        assert checksum(load(path)) == checksum(single())
    nano = nanogpt_checkpoint(single(NANO), wrapper=chain)
    torch.save(nano, tmp_path / "ckpt.pt")
    assert checksum(load(tmp_path / "ckpt.pt")) == checksum(single(NANO))


def test_what_stands_before_some_names_only(tmp_path: Path) -> None:
    folder, tensors = with_config(tmp_path / "a"), released(single())
    named = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch.save(named | {"loss.weight": torch.ones(2)}, folder / "pytorch_model.bin")
    refused(folder, "whose names begin with model., and beside it loss.weight")
    torch.save(named | {f"ema.{n}": t for n, t in tensors.items()}, folder / "pytorch_model.bin")
    refused(folder, "holds several models, whose names begin with ema., model.")


@pytest.mark.parametrize("entry", ["module", "net", "params", "ema"])
def test_tensors_under_any_name(tmp_path: Path, entry: str) -> None:
    """Beside what trainers save more: DeepSpeed has "module", others what they like."""
    path = with_config(tmp_path / "a") / "weights.pt"
    more = {"step": 7, "optimizer": {"state": {}}, "mean": {"loss": torch.ones(1)}}
    torch.save({entry: released(single())} | more, path)
    assert checksum(load(path)) == checksum(single())
    torch.save({"first": released(single()), "second": released(single())}, path)
    refused(path, "no state dict, which is a GPT-2's tensors alone, or under one entry")


def test_safetensors_of_any_name(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "a")
    for tensors in (released(single()), linear(single())):
        tensors = {f"model.{name}": t.contiguous() for name, t in tensors.items()}
        save_file(tensors, folder / "step-7.safetensors")
        assert checksum(load(folder / "step-7.safetensors")) == checksum(single())
    refused(folder, "only step-7.safetensors; if that holds the weights, give the file itself")
    (folder / "config.json").unlink()
    (folder / "step-7.safetensors").rename(folder / "model.safetensors")
    refused(folder / "model.safetensors", "tensors do not show how many heads", "config.json")


@pytest.mark.parametrize(
    ("prefix", "head"), [("", "score"), ("gpt2.", "score"), ("", "v_head.summary")]
)
def test_a_head_in_a_state_dict_is_kept(tmp_path: Path, prefix: str, head: str) -> None:
    """Also one that stands beside the model, as in what somebody writes around a GPT2Model."""
    folder, W = with_config(tmp_path / "a"), torch.randn(3, 16)
    bare = {name.removeprefix("transformer."): t for name, t in released(single()).items()}
    named = {prefix + name: tensor for name, tensor in bare.items()} | {f"{head}.weight": W}
    named |= {"lm_head.weight": bare["wte.weight"].clone()}
    torch.save(named, folder / "weights.pt")
    with pytest.warns(UserWarning, match="has a head besides the vocabulary's"):
        model = load(folder / "weights.pt")
    assert torch.equal(model.readouts[head.split(".")[0]].W, W.T)
    save(model, tmp_path / "saved")
    with pytest.warns(UserWarning, match="has a head besides the vocabulary's"):
        again = load(tmp_path / "saved")
    assert torch.equal(again.readouts[head.split(".")[0]].W, W.T)
    assert checksum(again) == checksum(model)


def test_a_state_dict_alone(tmp_path: Path) -> None:
    """The number of heads is known where width and depth are those of a released model."""
    path = tmp_path / "weights.pt"
    torch.save(released(single()), path)
    refused(path, "2 layers of width 16", "how many heads", "config.json with n_head beside it")
    small = replace(GPT2_SIZES["gpt2"], n_ctx=8, d_vocab=11, d_mlp=4)
    torch.save(released(HookedGPT2.random(small)), path)
    refused(path, "wrong shape")  # an MLP of another width than a GPT-2's
    torch.save({"a": torch.zeros(2)}, path)
    refused(path, "no GPT-2's", "lacks transformer.wte.weight")
    torch.save({"a": 1}, path)
    refused(path, "is no nanoGPT checkpoint")


def test_tensors_that_are_not_plain(tmp_path: Path) -> None:
    folder, name = with_config(tmp_path / "a"), "transformer.wte.weight"
    for odd, message in (
        (released(single())[name].detach().to_sparse(), "not plain"),
        (torch.empty(31, 16, device="meta"), "not plain"),
    ):
        torch.save(released(single()) | {name: odd}, folder / "pytorch_model.bin")
        refused(folder, name, message)
    small = GPT2_SIZES["gpt2"]
    tensors = {"wte.weight": torch.zeros(9, small.d_model), "wpe.weight": torch.tensor(1.0)}
    torch.save(tensors, tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt", "no GPT-2's")


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(CheckpointError, match="there is no model and no file called"):
        load("x" * 5000)


def test_a_number_of_layers_that_no_file_can_have(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "a", n_layer=10**7)
    torch.save(released(single()), folder / "pytorch_model.bin")
    refused(folder, "said to have 10000000 layers")


@pytest.mark.slow
def test_a_released_state_dict_alone(tmp_path: Path) -> None:
    small = replace(GPT2_SIZES["gpt2"], n_ctx=8, d_vocab=11)
    model = HookedGPT2.random(small)
    torch.save(linear(model), tmp_path / "weights.pt")
    loaded = load(tmp_path / "weights.pt")
    assert loaded.cfg.n_heads == 12
    assert checksum(loaded) == checksum(model)
