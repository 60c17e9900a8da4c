"""Folders of Hugging Face with a model of `circuits.architectures`, other than a GPT-2.

A parameter has the layout of the file's tensor, so a mapped file is not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuits.architectures import DECODERS, Decoder, DecoderConfig, Said
from circuits.checkpoints.assembling import fill
from circuits.checkpoints.layout import (
    CONFIG_FILE,
    described_by,
    require_layers,
    require_names,
    same_numbers,
)
from circuits.errors import CheckpointError
from circuits.tokenizer import Tokenizer

# What older files hold besides weights: causal masks and rates that positions turn by.
_BUFFERS = (
    ".attn.mask",
    ".attn.IGNORE",
    ".attention.bias",
    ".attention.masked_bias",
    ".rotary_emb.inv_freq",
)
_HEAD = "lm_head.weight"
_PLACES = ("embedding", "unembed.rows")  # of tied weights


def kind_of(config: Mapping[str, Any]) -> str | None:
    """The type of model that this ``config.json`` describes, if it is read here.

    TransformerLens' own names none, and has its names of sizes.
    """
    kind = config.get("model_type")
    if kind is None and {"n_layers", "d_model", "d_head", "d_vocab", "attn_only"} <= {*config}:
        kind = "transformer_lens"
    return kind if kind in DECODERS else None


def decoder_config(
    config: Mapping[str, Any], name: str, origin: str, tokenizer: Tokenizer | None = None
) -> DecoderConfig:
    """The shape that this ``config.json`` describes; a start token is the tokenizer's decision.

    Raises:
        CheckpointError: for a shape that cannot be, and an option that cannot be computed.
    """
    kind = kind_of(config)
    assert kind is not None  # as who calls has seen
    said = Said(config, f"{CONFIG_FILE} of {origin}", name)
    said.require("quantization_config", None)
    with described_by(CONFIG_FILE, origin):
        cfg = DECODERS[kind].shape(said)
    starts = tokenizer is not None and tokenizer.roles.adds_bos
    return replace(cfg, architecture=kind, default_prepend_bos=starts)


def build(
    cfg: DecoderConfig,
    tensors: Mapping[str, Tensor],
    *,
    origin: str,
    described: str = CONFIG_FILE,
    tokenizer: Tokenizer | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Decoder:
    """The model that these tensors of a file make: `circuits.checkpoints.layout.assemble`."""
    require_layers(cfg.n_layers, tensors, origin, described)
    with torch.device("meta"):
        model = DECODERS[cfg.architecture](cfg, tokenizer and tokenizer.fitted(cfg.d_vocab))
    names = model.released_names()
    theirs = {name: t for name, t in tensors.items() if not name.endswith(_BUFFERS)}
    if _HEAD in theirs and _HEAD not in names.values() and not cfg.tied:  # as in memory
        theirs[model.outside["unembed.rows"]] = theirs.pop(_HEAD)
    embedding, head = (model.outside.get(place, "") for place in _PLACES)
    prefix = embedding.split(".", 1)[0] + "."
    if embedding not in theirs and embedding.removeprefix(prefix) in theirs:
        theirs = {name if name == head else prefix + name: t for name, t in theirs.items()}
    if cfg.tied and head in theirs:
        if embedding in theirs and not same_numbers(theirs[head], theirs[embedding]):
            raise CheckpointError(
                f"{origin} ties the unembedding to the token embedding, but its {head} differs "
                f"from {embedding}; set 'tie_word_embeddings': false to use both"
            )
        theirs.setdefault(embedding, theirs.pop(head))
    whose = f"a {cfg.architecture}"
    require_names(theirs.keys(), names.values(), origin, described, whose)
    ours = {name: theirs[released] for name, released in names.items()}
    fill(model, names, ours, origin, described, (device, dtype))
    return model
