"""One `load` for every format: this is the only place that decides which one is meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from circuits.architectures import DECODERS
from circuits.checkpoints import (
    adapters,
    hub,
    hugging_face,
    nanogpt,
    openai,
    state_dict,
    transformer_lens,
    weight_files,
)
from circuits.checkpoints.bundled import DEFAULT_MODEL, bundled_models, load_bundled
from circuits.checkpoints.layout import CONFIG_FILE, READOUTS
from circuits.config import GPT2_SIZES, MODEL_VARIABLE, OPENAI_NAMES
from circuits.errors import CheckpointError, nearest
from circuits.model import Transformer

_NEO = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
_GPT2S = ("GPT2Model", "GPT2LMHeadModel", *READOUTS.values(), *(f"GPTNeo{kind}" for kind in _NEO))
# What torch puts around a model: the class, and the attribute that holds the model.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
# Which classes in memory can be converted: the class, the package it comes from, the converter.
_OBJECTS = {
    **{("transformers", name): hugging_face.from_object for name in _GPT2S},
    ("transformer_lens", "HookedTransformer"): transformer_lens.convert,
}


def load(
    model: Any = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
) -> Transformer:
    """Which model is this? Load it, with its vocabulary, whatever its format.

    Args:
        model: the name of a bundled model (``mini``, ``sort-abc``, ``compiled``); ``gpt2``,
            ``gpt2-medium``, ``gpt2-large``, ``gpt2-xl`` (or ``124M``, ``355M``, ``774M``,
            ``1558M``) or the ``owner/name`` of a GPT-2 on the
            Hugging Face hub, downloaded once and then taken from its cache; a folder in Hugging
            Face's format, or of OpenAI's TensorFlow release; a nanoGPT ``ckpt.pt``; a state dict
            that torch or safetensors saved; or, in memory, a ``GPT2LMHeadModel`` of
            transformers or a ``HookedTransformer`` of transformer_lens. None takes the environment
            variable CIRCUITS_MODEL, otherwise ``mini``. Bundled names come first, then paths.
        device: where to put the weights; None means the CPU, or where an object in memory is.
        dtype: float32, float64, bfloat16 or float16, as a name or torch's; None means that of the
            checkpoint, half precision raised to float32.
        revision: branch, tag or commit of a model on the hub; None means ``main``, as cached.
        adapter: a folder that `circuits.fine_tune` or the library peft wrote, with what LoRA or
            adapters learned of this model; it becomes part of the weights.

    Returns:
        A model whose ``source`` says where its weights come from. Mapped files must stay unchanged
        while it lives.

    Raises:
        CheckpointError: when nothing of this name exists, or it is not a safe, complete,
            undamaged GPT-2.

    >>> load("compiled").cfg.n_layers
    6
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    loaded = _load(model_name() if model is None else model, revision, options)
    return loaded if adapter is None else adapters.attach(loaded, adapter)


def _load(name: Any, revision: str | None, options: Mapping[str, Any]) -> Transformer:
    """The model without an adapter."""
    if not isinstance(name, str | Path):
        return _from_object(name, **options)
    path = _path_of(name)
    is_bundled, is_path = str(name) in bundled_models(), _exists(path)
    if revision is not None and (is_bundled or is_path):
        raise CheckpointError(
            f"{name} has no revision {revision!r}: only models of the hub have revisions"
        )
    if is_bundled:
        return load_bundled(str(name), **options)
    if is_path:
        return _from_path(path, **options)
    if isinstance(name, str) and hub.is_hub_name(name):
        return _from_hub(OPENAI_NAMES.get(name, name), revision, **options)
    known = [*bundled_models(), *GPT2_SIZES]
    raise CheckpointError(
        f"there is no model and no file called {str(name)!r}{nearest(str(name), known)}; name one "
        f"of {', '.join(known)}, owner/name on the hub, a folder, or a nanoGPT {nanogpt.FILE}"
    )


def _path_of(name: str | Path) -> Path:
    """The path that this name would be; of TensorFlow's checkpoints, which have none, the index.

    Raises:
        CheckpointError: for an empty name, which Python takes for the current folder.
    """
    if name == "":
        raise CheckpointError(
            f"'' names no model; name one of {', '.join(bundled_models())}, owner/name on the hub, "
            "or a folder (the current one is '.')"
        )
    path = Path(name).expanduser()
    index = Path(f"{path}{openai.INDEX}")
    return index if _exists(index) and not _exists(path) else path


def model_name() -> str:
    """Which model is loaded when none is named: CIRCUITS_MODEL, or the bundled default?"""
    return os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name, say
        return False


def _from_hub(name: str, revision: str | None, **options: Any) -> Transformer:
    folder = hub.find(name, revision)
    origin = hub.origin_of(name, folder)
    model = hugging_face.load_folder(folder, origin=origin, name=name, **options)
    model.revision = revision
    return model


def _from_path(path: Path, **options: Any) -> Transformer:
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            return hugging_face.load_folder(path, **options)
        if (path / nanogpt.FILE).is_file():
            return _from_pickled(path / nanogpt.FILE, **options)
        if openai.is_release(path):
            return openai.load_folder(path, **options)
        return hugging_face.load_folder(path, **options)
    is_described = (path.parent / CONFIG_FILE).is_file()
    if path.name in weight_files.FILES and (is_described or path.suffix == ".json"):
        return hugging_face.load_folder(path.parent, **options)
    if path.suffix == ".safetensors":
        return state_dict.from_tensors(weight_files.read_file(path), path, **options)
    if path.suffix in weight_files.READABLE:
        return _from_pickled(path, **options)
    if path.suffix == openai.INDEX:
        return openai.load_folder(path.parent, index=path.name, **options)
    if (is_described and path.suffix == ".json") or openai.is_release(path.parent):
        raise CheckpointError(f"{path} is a part of a checkpoint; give its folder {path.parent}")
    raise CheckpointError(
        f"{path} is of no format that can be loaded; give a folder with "
        f"{CONFIG_FILE} and {weight_files.SAFE} or {weight_files.PICKLED}, a folder "
        f"of OpenAI's release, a nanoGPT {nanogpt.FILE}, or a state dict (.pt, .safetensors)"
    )


def _from_pickled(path: Path, **options: Any) -> Transformer:
    """A checkpoint of nanoGPT, which says how large its model is, or tensors alone."""
    content = weight_files.read_pickled(path)
    tensors = None if "model_args" in content else state_dict.tensors_of(content)
    if tensors is not None:
        return state_dict.from_tensors(tensors, path, **options)
    return nanogpt.from_content(content, path, **options)


def _from_object(theirs: Any, **options: Any) -> Transformer:
    while isinstance(theirs, torch.nn.Module) and type(theirs).__name__ in _WRAPPERS:
        theirs = getattr(theirs, _WRAPPERS[type(theirs).__name__])
    kind = getattr(getattr(theirs, "config", None), "model_type", None)
    if kind in DECODERS and type(theirs).__name__.endswith("ForCausalLM"):
        return hugging_face.from_object(theirs, **options)
    for cls in type(theirs).__mro__:
        convert = _OBJECTS.get((cls.__module__.split(".")[0], cls.__name__))
        if convert is not None:
            return convert(theirs, **options)
    raise CheckpointError(
        f"a {type(theirs).__module__}.{type(theirs).__name__} cannot be converted; give a name, a "
        "path, a transformers.GPT2LMHeadModel or another of its GPT-2s and GPT-Neos, a causal "
        f"language model of its {', '.join(DECODERS)}, or a transformer_lens.HookedTransformer"
    )
