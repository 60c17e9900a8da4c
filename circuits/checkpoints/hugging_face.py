"""Hugging Face's format: a folder with ``config.json`` and weights, or a model in memory.

Neither needs ``transformers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.architectures import Decoder
from circuits.checkpoints import decoders, gpt_neo, readouts
from circuits.checkpoints.assembling import assemble
from circuits.checkpoints.layout import (
    CONFIG_FILE,
    HEAD,
    described_by,
    is_readout,
    listed,
    released_names,
    require_layers,
    require_names,
    same_numbers,
    under_released_names,
)
from circuits.checkpoints.settings import read_settings
from circuits.checkpoints.vocabulary import (
    folder_roles,
    object_tokenizer,
    read_tokenizer,
)
from circuits.checkpoints.weight_files import read_json, read_tensors
from circuits.config import ModelConfig
from circuits.errors import CheckpointError
from circuits.files import named_path
from circuits.model import Transformer
from circuits.tokenizer import Tokenizer, library_tokenizer, model_roles

_IN_MEMORY = "its own config"
_EMBEDDING, _HEAD = "transformer.wte.weight", HEAD["unembed.W_U_untied"]


def load_folder(
    folder: str | Path,
    *,
    origin: str | None = None,
    name: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Transformer:
    """The model in this folder.

    Args:
        folder: with ``config.json``, ``model.safetensors`` or ``pytorch_model.bin`` (or shards and
            their index), and the
            vocabulary, without which the model takes token ids only.
        origin: kept as ``model.source``; by default the folder.
        name: kept as ``cfg.model_name``; by default the folder's name.
        device: where to put the weights; None means the CPU.
        dtype: in which precision; None means that of the file, half precision raised to float32.

    Raises:
        CheckpointError: when the folder holds no safe, complete, undamaged GPT-2.
    """
    folder = named_path(folder)
    origin = origin or str(folder)
    config = read_config(folder)
    if decoders.kind_of(config):
        return _load_decoder(folder, config, origin, name, (device, dtype))
    # Raises what is wrong with it before the vocabulary is read.
    read_settings(as_gpt2(config, origin), origin)
    tokenizer = read_tokenizer(folder, config, name)
    cfg = model_config(config, name or folder.resolve().name, origin, tokenizer)
    tensors = read_tensors(folder, device)
    model = assemble(
        cfg,
        rename(cfg, tensors, origin),
        origin=origin,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )
    if tokenizer is None:
        model.roles = folder_roles(folder)
    return readouts.attach(model, tensors, config)


def _load_decoder(
    folder: Path,
    config: Mapping[str, Any],
    origin: str,
    name: str | None,
    to: tuple[str | torch.device | None, str | torch.dtype | None],
) -> Decoder:
    """The model in this folder, of an architecture other than GPT-2's."""
    tokenizer = library_tokenizer(folder)
    cfg = decoders.decoder_config(config, name or folder.resolve().name, origin, tokenizer)
    model = decoders.build(
        cfg,
        read_tensors(folder, to[0]),
        origin=origin,
        tokenizer=tokenizer,
        device=to[0],
        dtype=to[1],
    )
    if tokenizer is None:
        model.roles = folder_roles(folder)
    return model


def from_object(
    theirs: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Transformer:
    """The same model as this one of transformers, with copies of its weights.

    Raises:
        CheckpointError: when its configuration changes GPT-2's mathematics.
    """
    config = theirs.config.to_dict()
    name = str(config.get("_name_or_path") or config.get("model_type", "gpt2"))
    origin = f"transformers {type(theirs).__name__} {name}"
    generation = getattr(theirs, "generation_config", None)
    generation = generation.to_dict() if generation is not None else {}
    tokenizer = object_tokenizer(config, generation, [config.get("_name_or_path")])
    tensors = {key: value.detach().clone() for key, value in theirs.state_dict().items()}
    if decoders.kind_of(config):
        shape = decoders.decoder_config(config, name, origin, tokenizer)
        return decoders.build(
            shape,
            tensors,
            origin=origin,
            described=_IN_MEMORY,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
        )
    cfg = model_config(config, name, origin, tokenizer)
    model = assemble(
        cfg,
        rename(cfg, tensors, origin, _IN_MEMORY),
        origin=origin,
        described=_IN_MEMORY,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )
    if tokenizer is None:
        model.roles = model_roles(config, generation)
    return readouts.attach(model, tensors, config)


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of the folder's ``config.json``.

    Raises:
        CheckpointError: when it is missing or unreadable.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        others = listed(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise CheckpointError(f"{folder} is no checkpoint: it has no {CONFIG_FILE}, only {others}")
    return read_json(path)


def as_gpt2(config: Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    """What this ``config.json`` says, in GPT-2's words."""
    is_neo = config.get("model_type") == gpt_neo.KIND
    return gpt_neo.as_gpt2_config(config, origin) | _ours(config) if is_neo else config


def _ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that only this package writes."""
    return {name: config[name] for name in ("default_prepend_bos",) if name in config}


def model_config(
    config: Mapping[str, Any], name: str, origin: str, tokenizer: Tokenizer | None = None
) -> ModelConfig:
    """The shape of the model that this ``config.json`` describes.

    `read_settings` says how its entries are read. Two of them are only this package's:
    ``head_dim``, for heads that do not divide the width, and ``default_prepend_bos``.

    Raises:
        CheckpointError: for another architecture, an option that changes GPT-2's mathematics, and
            entries that cannot be understood.
    """
    if decoders.kind_of(config):
        return decoders.decoder_config(config, name, origin, tokenizer)
    config = as_gpt2(config, origin)
    settings, types = read_settings(config, origin), config.get("attn_types")
    has_bos = tokenizer is None or tokenizer.bos_id is not None
    with described_by(CONFIG_FILE, origin):
        return ModelConfig(
            n_layers=settings.n_layer,
            n_heads=settings.n_head,
            d_model=settings.n_embd,
            n_ctx=settings.n_positions,
            d_vocab=settings.vocab_size,
            d_head=settings.head_dim or 0,
            d_mlp=settings.n_inner or 0,
            eps=settings.layer_norm_epsilon,
            tied=settings.tie_word_embeddings,
            model_name=name,
            default_prepend_bos=config.get("default_prepend_bos", has_bos),
            act_fn=settings.activation_function,
            use_attn_scale=settings.scale_attn_weights,
            scale_attn_by_inverse_layer_idx=settings.scale_attn_by_inverse_layer_idx,
            attn_types=types and tuple(types),
            window_size=config.get("window_size") if types else None,
        )


def rename(
    cfg: ModelConfig, tensors: Mapping[str, Tensor], origin: str, described: str = CONFIG_FILE
) -> dict[str, Tensor]:
    """These released tensors under this package's names; `described` is as in `assemble`.

    The names may be wrapped, or lack ``transformer.``. Of two tied tensors one is enough:
    ``safetensors.torch.save_model`` keeps only the head, whose name comes first.

    Raises:
        CheckpointError: for missing and left-over tensors, and a head that is not tied as declared.
    """
    require_layers(cfg.n_layers, tensors, origin, described)
    theirs = gpt_neo.as_gpt2_tensors(under_released_names(tensors, origin))
    theirs = {name: tensor for name, tensor in theirs.items() if not is_readout(name)}
    W_E, head = theirs.get(_EMBEDDING), theirs.get(_HEAD)
    if cfg.tied and head is not None:
        if W_E is not None and not same_numbers(head, W_E):
            raise CheckpointError(
                f"{origin} ties the unembedding to the token embedding, but its lm_head.weight "
                "differs from wte.weight; set 'tie_word_embeddings': false to use both"
            )
        theirs.setdefault(_EMBEDDING, theirs.pop(_HEAD))
    if not cfg.tied and head is not None and HEAD["unembed.b_U"] not in theirs:
        theirs[HEAD["unembed.b_U"]] = head.new_zeros(cfg.d_vocab)
    names = released_names(cfg)
    require_names(theirs.keys(), names.values(), origin, described)
    ours = {name: theirs[released] for name, released in names.items()}
    if not cfg.tied:
        ours["unembed.W_U_untied"] = ours["unembed.W_U_untied"].transpose(0, -1)
    return ours
