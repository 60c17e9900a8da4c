"""OpenAI's own release: a TensorFlow checkpoint with ``hparams.json`` and the vocabulary.

It is what picoGPT downloads: ``checkpoint``, ``model.ckpt.*``, ``hparams.json``, ``encoder.json``
and ``vocab.bpe``. Nothing of TensorFlow is needed to read it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.assembling import assemble
from circuits.checkpoints.layout import (
    described_by,
    listed,
    released_names,
    require_layers,
    require_names,
)
from circuits.checkpoints.tensor_bundle import read_bundle
from circuits.checkpoints.vocabulary import read_tokenizer
from circuits.checkpoints.weight_files import read_json
from circuits.config import ModelConfig
from circuits.errors import CheckpointError, printed
from circuits.files import named_path

SETTINGS_FILE, INDEX = "hparams.json", ".index"
_POINTER = "checkpoint"  # names the latest of several checkpoints
_NAMED = re.compile(r'^model_checkpoint_path:\s*"([^"]+)"', re.M)
_OPTIMIZERS = ("Adam", "Momentum", "RMSProp")  # what their slots beside a weight are called
_SIZES = ("n_layer", "n_head", "n_embd", "n_ctx", "n_vocab")
# What each step of a released name is called in TensorFlow's graph, besides its layer.
_STEPS = {
    "transformer.wte.weight": "model/wte",
    "transformer.wpe.weight": "model/wpe",
    "transformer.ln_f.weight": "model/ln_f/g",
    "transformer.ln_f.bias": "model/ln_f/b",
}


def is_release(folder: Path) -> bool:
    """Does this folder hold a checkpoint as OpenAI released them, or a part of one?"""
    return (folder / SETTINGS_FILE).is_file() or any(folder.glob(f"*{INDEX}"))


def load_folder(
    folder: str | Path,
    *,
    index: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookedGPT2:
    """Which model is in this folder of OpenAI's release?

    `index` is the file of the checkpoint that is meant, ``model-1000.index``; by default the one
    that the file ``checkpoint`` names, or the only one.

    Raises:
        CheckpointError: when files are missing or damaged, or hold another model than hparams.json
            describes.
    """
    folder = named_path(folder)
    origin = f"OpenAI {folder if index is None else folder / index}"
    if not (folder / SETTINGS_FILE).is_file():
        raise CheckpointError(
            f"{folder} is a TensorFlow checkpoint without {SETTINGS_FILE}, which says how many "
            f"heads there are; write one with {', '.join(_SIZES)}"
        )
    sizes = read_json(folder / SETTINGS_FILE)
    if wrong := [name for name in _SIZES if type(sizes.get(name)) is not int]:
        raise CheckpointError(
            f"{folder / SETTINGS_FILE} gives no whole number for {', '.join(wrong)}"
        )
    prefix = _prefix(folder) if index is None else folder / index.removesuffix(INDEX)
    name = folder.resolve().name
    tokenizer = read_tokenizer(folder, {}, name)
    with described_by(SETTINGS_FILE, origin):
        cfg = ModelConfig(
            n_layers=sizes["n_layer"],
            n_heads=sizes["n_head"],
            d_model=sizes["n_embd"],
            n_ctx=sizes["n_ctx"],
            d_vocab=sizes["n_vocab"],
            model_name=name,
        )
    tensors = _under_our_names(cfg, read_bundle(prefix), origin)
    return assemble(
        cfg,
        tensors,
        origin=origin,
        described=SETTINGS_FILE,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )


def _prefix(folder: Path) -> Path:
    """The path, without its endings, of the checkpoint that is named, or of the only one.

    Raises:
        CheckpointError: when there are several and none is named, or the named one is not there.
    """
    pointer = folder / _POINTER
    text = pointer.read_text(encoding="utf-8-sig", errors="replace") if pointer.is_file() else ""
    named = _NAMED.search(text)
    there = sorted(path.name.removesuffix(INDEX) for path in folder.glob(f"*{INDEX}"))
    if not there:
        others = listed(sorted(path.name for path in folder.iterdir()))
        raise CheckpointError(
            f"{folder} has {SETTINGS_FILE}, and no model.ckpt.index beside it, only {others}: "
            "OpenAI's release lacks a file; download it again"
        )
    name = Path(named[1]).name if named else there[0] if len(there) == 1 else None
    if name not in there:
        says = f"{pointer} names {printed(str(name))}"
        meant = says if named else f"no file {_POINTER} says which is meant"
        raise CheckpointError(f"{folder} holds {listed(there)}, and {meant}")
    return folder / name


def _under_our_names(cfg: ModelConfig, theirs: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The model's tensors under this package's names; the optimizer's, if any, are left out."""
    require_layers(cfg.n_layers, theirs, origin, SETTINGS_FILE)
    names = {ours: _tensorflow_name(released) for ours, released in released_names(cfg).items()}
    weights = {
        name: tensor
        for name, tensor in theirs.items()
        if name.startswith("model/") and not name.rpartition("/")[2].startswith(_OPTIMIZERS)
    }
    require_names(weights.keys(), names.values(), origin, SETTINGS_FILE)
    # Their products are convolutions of width 1, whose axis comes first.
    wide = [name for name, tensor in weights.items() if tensor.ndim == 3 and len(tensor) != 1]
    if wide:
        raise CheckpointError(
            f"{origin} has {listed(wide)} with a first axis that is not 1: convolutions over "
            "several tokens, which are no GPT-2's"
        )
    return {
        ours: weights[name][0] if weights[name].ndim == 3 else weights[name]
        for ours, name in names.items()
    }


def _tensorflow_name(released: str) -> str:
    """What the released graph calls a tensor of GPT2LMHeadModel.

    >>> _tensorflow_name("transformer.h.3.attn.c_attn.weight")
    'model/h3/attn/c_attn/w'
    >>> _tensorflow_name("transformer.h.3.ln_1.weight")
    'model/h3/ln_1/g'
    """
    if released in _STEPS:
        return _STEPS[released]
    _, _, layer, *path, kind = released.split(".")
    weight = "g" if path[-1].startswith("ln") else "w"
    return "/".join(["model", f"h{layer}", *path, weight if kind == "weight" else "b"])
