"""Folders in Hugging Face's format: what is loaded is what was written, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import SHAPE, TOKENS, UNTIED, config_of, released, single, write_folder
from random_models import randomized
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_model
from torch import Tensor

from circuits import checkpoints
from circuits.architectures import HookedGPT2
from circuits.checkpoints import bundled, checksum, hugging_face, load, save, saving
from circuits.config import ModelConfig
from circuits.errors import CheckpointError
from circuits.tokenizer import END_OF_TEXT, Tokenizer

LETTERS = Tokenizer.characters("abcdefghijklmnopqrstuvwxyz", [END_OF_TEXT])


def same_logits(ours: HookedGPT2, theirs: HookedGPT2) -> bool:
    with torch.no_grad():
        return torch.equal(ours(TOKENS), theirs(TOKENS))


@pytest.mark.parametrize("cfg", [SHAPE, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_load_folder(tmp_path: Path, cfg: ModelConfig, n_shards: int) -> None:
    model = single(cfg)
    folder = write_folder(tmp_path / "a", config_of(cfg), released(model), n_shards)
    loaded = load(folder)
    assert same_logits(loaded, model)
    assert checksum(loaded) == checksum(model)
    assert (loaded.source, loaded.cfg.model_name, loaded.tokenizer) == (str(folder), "a", None)
    assert loaded.cfg.tied == cfg.tied
    assert loaded.W_E.requires_grad
    assert (loaded.unembed.W_U.data_ptr() == loaded.W_E.data_ptr()) == cfg.tied


def test_names_of_the_first_release(tmp_path: Path) -> None:
    """Without a prefix, with the causal mask, and with the tied head spelled out."""
    model = single()
    tensors = {n.removeprefix("transformer."): t for n, t in released(model).items()}
    tensors["h.1.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
    tensors["h.1.attn.masked_bias"] = torch.tensor(-torch.inf)
    folder = write_folder(tmp_path / "plain", config_of(SHAPE), tensors)
    assert same_logits(load(folder), model)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    folder = write_folder(tmp_path / "head", config_of(SHAPE), tensors)
    assert same_logits(load(folder), model)
    tensors["lm_head.weight"][0, 0] += 1
    folder = write_folder(tmp_path / "other", config_of(SHAPE), tensors)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs.*tie_word_embeddings"):
        load(folder)


MASKS = {"attn.bias": torch.ones(1, 1, 12, 12).tril(), "attn.masked_bias": torch.tensor(-1e4)}


@pytest.mark.parametrize("layers", [[0, 1], [1]])
@pytest.mark.parametrize("prefix", ["transformer.", "", "module.transformer."])
@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_masks_among_the_weights(
    tmp_path: Path, layers: list[int], prefix: str, n_shards: int
) -> None:
    """Of all layers or of some, listed in the index of the shards or in the one file."""
    model = single()
    tensors = {
        name.replace("transformer.", prefix): tensor for name, tensor in released(model).items()
    }
    tensors |= {
        f"{prefix}h.{i}.{name}": mask.clone() for i in layers for name, mask in MASKS.items()
    }
    folder = write_folder(tmp_path / "a", config_of(SHAPE), tensors, n_shards)
    loaded = load(folder)
    assert checksum(loaded) == checksum(model)
    assert same_logits(loaded, model)


def test_an_index_may_list_masks_that_no_shard_has(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()), n_shards=2)
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    where["transformer.h.0.attn.bias"] = where["transformer.wpe.weight"]
    index.write_text(json.dumps({"weight_map": where}))
    assert checksum(load(folder)) == checksum(single())


@pytest.mark.parametrize(
    "wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("n_shards", [1, 2])
def test_wrapped_names(tmp_path: Path, wrapper: str, n_shards: int) -> None:
    model = single()
    tensors = {wrapper + name: tensor for name, tensor in released(model).items()}
    folder = write_folder(tmp_path / "a", config_of(SHAPE), tensors, n_shards)
    assert checksum(load(folder)) == checksum(model)


def test_wrapped_layers(tmp_path: Path) -> None:
    """What torch.compile does to single blocks, and activation checkpointing."""
    model = single()
    tensors = {
        name.replace(".h.0.", ".h.0._orig_mod.").replace(
            ".h.1.", ".h.1._checkpoint_wrapped_module."
        ): tensor
        for name, tensor in released(model).items()
    }
    folder = write_folder(tmp_path / "a", config_of(SHAPE), tensors)
    assert checksum(load(folder)) == checksum(model)


def test_two_models_in_one_file(tmp_path: Path) -> None:
    tensors = released(single())
    twice = tensors | {f"module.{name}": tensor.clone() for name, tensor in tensors.items()}
    folder = write_folder(tmp_path / "a", config_of(SHAPE), twice)
    assert checksum(load(folder)) == checksum(single())
    twice["module.transformer.wpe.weight"][0, 0] += 1
    folder = write_folder(tmp_path / "b", config_of(SHAPE), twice)
    with pytest.raises(CheckpointError, match=r"two different tensors transformer\.wpe\.weight"):
        load(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_what_safetensors_save_model_writes(tmp_path: Path, tied: bool) -> None:
    """Of two tied tensors it keeps the one whose name comes first: the head."""
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 12, "vocab_size": 31}
    config = transformers.GPT2Config(**sizes, tie_word_embeddings=tied)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.config.save_pretrained(tmp_path)
    save_model(theirs, str(tmp_path / "model.safetensors"))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"transformer.wte.weight", "lm_head.weight"} - names == (
        {"transformer.wte.weight"} if tied else set()
    )
    loaded = load(tmp_path)
    assert loaded.cfg.tied == tied
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=0)
    if not tied:
        return
    for prefix in ("module.", "_orig_mod."):
        tensors = {prefix + name: tensor for name, tensor in released(loaded).items()}
        tensors[f"{prefix}lm_head.weight"] = tensors.pop(f"{prefix}transformer.wte.weight")
        folder = write_folder(tmp_path / prefix, config_of(loaded.cfg), tensors)
        assert checksum(load(folder)) == checksum(loaded)


def test_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "a", config_of(UNTIED), released(single(UNTIED)))
    mapped: dict[str, Tensor] = {}

    def read(*args: object) -> dict[str, Tensor]:
        mapped.update(read_tensors(*args))
        return dict(mapped)

    read_tensors = hugging_face.read_tensors
    monkeypatch.setattr(hugging_face, "read_tensors", read)
    model = load(folder)
    assert {p.data_ptr() for p in model.parameters()} == {t.data_ptr() for t in mapped.values()}
    assert (
        load(folder, dtype="float64").W_E.data_ptr() != mapped["transformer.wte.weight"].data_ptr()
    )


def test_a_loaded_model_does_not_write_to_its_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()))
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        load(folder).W_E.fill_(7)
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        (torch.float32, None, torch.float32),
        (torch.float16, None, torch.float32),
        (torch.bfloat16, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.float16, "float16", torch.float16),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.float16, torch.float64, torch.float64),
    ],
)
def test_precision(
    tmp_path: Path, stored: torch.dtype, asked: str | torch.dtype | None, expected: torch.dtype
) -> None:
    model = single()
    tensors = {name: tensor.to(stored) for name, tensor in released(model).items()}
    loaded = load(write_folder(tmp_path / "a", config_of(SHAPE), tensors), dtype=asked)
    assert {p.dtype for p in loaded.parameters()} == {expected}
    assert loaded.cfg.dtype == expected
    if torch.bfloat16 not in (stored, expected):
        assert checksum(loaded) == checksum(model)


@pytest.mark.parametrize("cfg", [SHAPE, UNTIED], ids=["tied", "untied"])
def test_save_and_load(tmp_path: Path, cfg: ModelConfig) -> None:
    model = single(cfg)
    model.tokenizer = LETTERS
    assert save(model, tmp_path / "deep" / "er") == tmp_path / "deep" / "er"
    loaded = load(tmp_path / "deep" / "er")
    assert (checksum(loaded), same_logits(loaded, model)) == (checksum(model), True)
    assert loaded.cfg == replace(cfg, model_name="er")
    assert loaded.to_str_tokens("cab") == [END_OF_TEXT, "c", "a", "b"]
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.n_vocab == cfg.d_vocab


def test_every_config_survives(tmp_path: Path) -> None:
    cfg = ModelConfig(1, 3, d_model=10, d_head=5, d_mlp=7, n_ctx=6, d_vocab=11, eps=1e-3)
    cfg = replace(cfg, default_prepend_bos=False)
    model = randomized(cfg)
    loaded = load(save(model, tmp_path / "a"))
    assert loaded.cfg == replace(cfg, model_name="a")
    assert checksum(loaded) == checksum(model)
    assert torch.equal(loaded([[1, 2, 3]]), model([[1, 2, 3]]))


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    model = single()
    full, half = save(model, tmp_path / "a"), save(model, tmp_path / "b", dtype=torch.float16)
    assert checksum(load(half)) == checksum(load(full))
    with safe_open(half / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    with torch.no_grad():
        model.W_pos[1, 1] = 1e6
    with pytest.raises(CheckpointError, match=r"wpe\.weight reaches 1e\+06, beyond.*float16"):
        save(model, tmp_path / "c", dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    first, second = single(seed=1), single(seed=2)
    first.tokenizer = LETTERS
    folder = save(first, tmp_path / "a")
    mapped = load(folder)
    assert checksum(load(save(second, folder))) == checksum(second)
    assert not (folder / "vocab.json").exists()
    assert checksum(mapped) == checksum(first)
    assert checksum(load(save(mapped, folder))) == checksum(first)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("io")])
def test_a_failed_save_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = single(seed=1)
    folder = save(model, tmp_path / "a")

    def fail(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(saving, "save_file", fail)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            save(single(seed=2), target)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert checksum(load(folder)) == checksum(model)


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds other files \(notes\.txt\)"):
        save(single(), tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        save(single(), tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(single(), tmp_path / "notes.txt" / "deeper")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert load(save(single(), tmp_path / "empty")).cfg.n_layers == 2


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    folder = save(single(), tmp_path / "a")
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_transformers_reads_what_is_saved(tmp_path: Path, dtype: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    model = single()
    model.tokenizer = LETTERS
    folder = save(model, tmp_path / "a", dtype=dtype)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=0)
    tokens = transformers.AutoTokenizer.from_pretrained(folder).encode("abc<|endoftext|>")
    assert tokens == LETTERS.encode("abc<|endoftext|>")


def test_transformers_reads_an_untied_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = single(UNTIED)
    with torch.no_grad():
        model.unembed.b_U.zero_()
    theirs = transformers.GPT2LMHeadModel.from_pretrained(save(model, tmp_path / "a"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=0)


def test_compiled_by_name(tmp_path: Path) -> None:
    model = load("compiled", dtype="float64")
    assert (model.cfg.model_name, model.cfg.dtype) == ("compiled", torch.float64)
    again = load(save(model, tmp_path / "a"))
    assert checksum(again) == checksum(load("compiled"))
    assert again.to_tokens("aA").tolist() == model.to_tokens("aA").tolist()


def test_the_default_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRCUITS_MODEL", "compiled")
    assert load().cfg.model_name == checkpoints.model_name() == "compiled"
    monkeypatch.setenv("CIRCUITS_MODEL", "")
    assert checkpoints.model_name() == "mini"
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    save(single(), tmp_path / "mini")
    assert (load().source, load().cfg.model_name) == ("bundled mini", "mini")
    with pytest.raises(CheckpointError, match="lacks the bundled model 'sort-abc'"):
        load("sort-abc")


def test_description(tmp_path: Path) -> None:
    model = single()
    model.tokenizer = LETTERS
    folder = save(model, tmp_path / "a")
    info = checkpoints.describe(folder)
    assert info.n_params == SHAPE.n_params == sum(t.numel() for t in released(model).values())
    assert (info.checksum, info.source, info.tokenizer) == (
        checksum(model),
        str(folder),
        "a (31 tokens)",
    )
    assert json.loads(json.dumps(info.to_dict())) == info.to_dict()
    assert checkpoints.describe(single()).tokenizer is None


def test_checksum_tells_models_apart() -> None:
    model = single()
    before = checksum(model)
    assert checksum(model.double()) == before != checksum(single(seed=1))
    with torch.no_grad():
        model.ln_final.b[0] += 1e-12
    assert checksum(model) != before
