"""Which model is this? Its checksum, its description, and what else can be loaded."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from circuits.architectures import DecoderConfig
from circuits.checkpoints.bundled import FOLDER, bundled_models
from circuits.checkpoints.hub import cached_models
from circuits.checkpoints.loading import load
from circuits.config import ACTIVATIONS, ModelConfig
from circuits.errors import CheckpointError
from circuits.model import HookedModel
from circuits.tokenizer import Roles


@dataclass(frozen=True)
class ModelInfo:
    """What a model is: its name and origin, shape, size, vocabulary and checksums.

    `roles` are the ids of the tokens that start, end and fill up its texts; `bos_token`,
    `eos_tokens` and `pad_token` are how these tokens read.
    """

    name: str
    source: str
    config: ModelConfig
    n_params: int
    tokenizer: str | None
    tokenizer_checksum: str | None
    roles: Roles
    bos_token: str | None
    eos_tokens: tuple[str, ...]
    pad_token: str | None
    checksum: str
    readouts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and texts, for JSON."""
        cfg = self.config
        sizes = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab")
        return {
            "name": self.name,
            "source": self.source,
            **{size: getattr(cfg, size) for size in sizes},
            "eps": cfg.eps,
            "tied": cfg.tied,
            **_switches(cfg),
            **({"readouts": list(self.readouts)} if self.readouts else {}),
            "default_prepend_bos": cfg.default_prepend_bos,
            "n_params": self.n_params,
            "dtype": str(cfg.dtype).removeprefix("torch."),
            "device": str(cfg.device),
            "tokenizer": self.tokenizer,
            "tokenizer_checksum": self.tokenizer_checksum,
            "bos_token": self.bos_token,
            "bos_id": self.roles.bos_id,
            "eos_tokens": list(self.eos_tokens),
            "eos_ids": list(self.roles.eos_ids),
            "pad_token": self.pad_token,
            "pad_id": self.roles.pad_id,
            "checksum": self.checksum,
        }


@dataclass(frozen=True)
class AvailableModel:
    """A model that can be loaded without a network, and where it is."""

    name: str
    kind: Literal["bundled", "built in code", "hub cache"]
    folder: Path | None
    revision: str | None
    n_bytes: int


def checksum(model: HookedModel) -> str:
    """SHA-256 of the model's numbers, and of its switches if any is set: which weights are these?

    It does not depend on the format the model was loaded from, the order of its tensors, their
    layout in memory, their device, or a precision beyond that of the numbers: a float16 file
    loaded as float32 or as float64 has one checksum.

    >>> from circuits.architectures import HookedGPT2
    >>> model = HookedGPT2.random(ModelConfig(1, 1, d_model=4, n_ctx=4, d_vocab=5), seed=0)
    >>> checksum(model) == checksum(model.double())
    True
    """
    switches = _switches(model.cfg)
    digest = hashlib.sha256(str(switches).encode() if switches else b"")
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {list(parameter.shape)}\n".encode())
        digest.update(_numbers(parameter.detach()).numpy().data)
    return digest.hexdigest()


def _switches(cfg: ModelConfig) -> dict[str, Any]:
    """What the model computes otherwise than a GPT-2 with the same numbers."""
    if isinstance(cfg, DecoderConfig):
        return cfg.switches()
    names = ("use_attn_scale", "scale_attn_by_inverse_layer_idx", "attn_types", "window_size")
    switches = {name: getattr(cfg, name) for name in names}
    if cfg.act_fn not in ACTIVATIONS[:2] and cfg.act_fn in ACTIVATIONS:
        switches["act_fn"] = cfg.act_fn
    return {name: value for name, value in switches.items() if value != getattr(ModelConfig, name)}


def _numbers(tensor: Tensor) -> Tensor:
    """The tensor contiguous on the CPU, in float32, or float64 where that would lose something."""
    tensor = tensor.cpu().contiguous()
    single = tensor.float()
    is_exact = tensor.dtype != torch.float64 or torch.equal(single.double(), tensor)
    return single if is_exact else tensor


def describe(model: HookedModel | str | Path) -> ModelInfo:
    """What is this model: shape, number of parameters, vocabulary, checksum, origin?

    Raises:
        CheckpointError: when a name is given and cannot be loaded.

    >>> info = describe("compiled")
    >>> info.name, info.config.n_layers, info.tokenizer
    ('compiled', 6, 'compiled (27 tokens)')
    """
    if model is None:
        raise CheckpointError("None names no model; give a name, a path or a model")
    if not isinstance(model, HookedModel):
        model = load(model)
    tokenizer, roles = model.tokenizer, model.roles
    bos, pad = (
        tokenizer.token_strings([i])[0] if tokenizer and i is not None else None
        for i in (roles.bos_id, roles.pad_id)
    )
    return ModelInfo(
        name=model.cfg.model_name,
        source=model.source,
        config=model.cfg,
        n_params=sum(parameter.numel() for parameter in model.parameters()),
        tokenizer=f"{tokenizer.name} ({tokenizer.n_vocab} tokens)" if tokenizer else None,
        tokenizer_checksum=tokenizer.checksum if tokenizer else None,
        roles=roles,
        bos_token=bos,
        eos_tokens=tuple(tokenizer.token_strings(roles.eos_ids)) if tokenizer else (),
        pad_token=pad,
        checksum=checksum(model),
        readouts=tuple(getattr(model, "readouts", ())),
    )


def loading_options(model: HookedModel) -> list[str]:
    """The options of a command that load this model again.

    Its path, which follows the name of a format, or its name, and the revision and the adapter if
    they were given.

    >>> loading_options(load("compiled"))
    ['--model', 'compiled']
    """
    source = model.source.removesuffix(f" with {model.adapter}")
    path = re.sub(r"^(nanoGPT|OpenAI|state dict) ", "", source)
    name = path if Path(path).exists() else model.cfg.model_name
    more = {"--revision": model.revision, "--adapter": model.adapter}
    said = [(flag, str(value)) for flag, value in more.items() if value is not None]
    return ["--model", name, *(word for pair in said for word in pair)]


def available() -> list[AvailableModel]:
    """Which models can be loaded without a network: the bundled ones and the hub's cache?"""
    models = []
    for name in bundled_models():
        folder = FOLDER / name
        if folder.is_dir():
            size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
            models.append(AvailableModel(name, "bundled", folder, None, size))
        elif name == "compiled":
            models.append(AvailableModel(name, "built in code", None, None, 0))
    return models + [
        AvailableModel(model.name, "hub cache", model.folder, model.revision, model.n_bytes)
        for model in cached_models()
    ]
