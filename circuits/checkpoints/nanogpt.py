"""nanoGPT's format: a ``ckpt.pt`` with the weights, the optimizer's state and the settings.

The file is read with ``weights_only=True``, which builds tensors and plain containers and runs no
code. Of the ``meta.pkl`` in which nanoGPT keeps the letters of a character-level dataset only
dictionaries, lists, texts and numbers are read (`circuits.checkpoints.plain_pickle`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import readouts
from circuits.checkpoints.assembling import assemble
from circuits.checkpoints.hugging_face import rename
from circuits.checkpoints.layout import (
    described_by,
    listed,
    released_names,
    require_layers,
    same_numbers,
    under_released_names,
)
from circuits.checkpoints.vocabulary import nanogpt_tokenizer
from circuits.config import ModelConfig
from circuits.errors import CheckpointError
from circuits.tokenizer import Tokenizer

FILE = "ckpt.pt"
_ARGS = "its entry 'model_args'"
_SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
# nanoGPT's matrices are torch's linear layers, [out, in]; the released checkpoints' are [in, out].
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def from_content(
    checkpoint: Mapping[str, Any],
    path: Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookedGPT2:
    """The model in this ``ckpt.pt``.

    The weights are copied, because training may overwrite the file at any time. Models without
    biases get zeros. The vocabulary is that of ``vocab.json`` and ``merges.txt``, or the letters of
    a ``meta.pkl``, beside the file; otherwise, at GPT-2's size and as nanoGPT assumes, GPT-2's if
    tiktoken has it cached.

    nanoGPT does not record which GELU it was trained with. This is the exact one, which it has used
    since 2023; before, GPT-2's by tanh, which differs by at most 0.0005 a neuron.

    Raises:
        CheckpointError: for a file that is damaged, holds more than data, or is no GPT of nanoGPT.
    """
    origin = f"nanoGPT {path}"
    tensors, args = checkpoint.get("model"), checkpoint.get("model_args")
    if not (isinstance(tensors, Mapping) and isinstance(args, Mapping)):
        raise CheckpointError(
            f"{path} is no nanoGPT checkpoint, which has the entries 'model' and 'model_args', and "
            "no state dict, which is a GPT-2's tensors alone, or under one entry: it has "
            f"{listed(checkpoint) or 'none'}"
        )
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path}: its entry 'model' holds more than tensors")
    if missing := [size for size in _SIZES if not isinstance(args.get(size), int)]:
        raise CheckpointError(f"{path} does not say how large its model is: no {listed(missing)}")
    named = under_released_names({str(name): t for name, t in tensors.items()}, origin)
    theirs = {name: tensor.clone() for name, tensor in named.items()}
    tokenizer = nanogpt_tokenizer(path.parent, args["vocab_size"])
    cfg = _config(args, theirs, path, tokenizer)
    require_layers(cfg.n_layers, theirs, origin, _ARGS)
    if not args.get("bias", True):
        theirs = _add_missing_biases(cfg, theirs)
    model = assemble(
        cfg,
        rename(cfg, theirs, origin, _ARGS),
        origin=origin,
        described=_ARGS,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )
    return readouts.attach(model, theirs, {})


def _config(
    args: Mapping[str, Any], tensors: dict[str, Tensor], path: Path, tokenizer: Tokenizer | None
) -> ModelConfig:
    """The model's shape; the matrices are transposed in place to the released layout."""
    for name in tensors:
        if name.endswith(_TRANSPOSED) and tensors[name].ndim == 2:
            tensors[name] = tensors[name].T.contiguous()
    W_E, head = tensors.get("transformer.wte.weight"), tensors.get("lm_head.weight")
    with described_by(_ARGS, f"nanoGPT {path}"):
        return ModelConfig(
            n_layers=args["n_layer"],
            n_heads=args["n_head"],
            d_model=args["n_embd"],
            n_ctx=args["block_size"],
            d_vocab=args["vocab_size"],
            tied=W_E is None or head is None or same_numbers(W_E, head),
            model_name=path.resolve().parent.name,
            act_fn="gelu",
            default_prepend_bos=tokenizer is not None and tokenizer.bos_id is not None,
        )


def _add_missing_biases(cfg: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors and, for a model trained with ``bias=False``, biases of 0; its head has none."""
    filled = dict(tensors)
    for name in released_names(replace(cfg, tied=True)).values():
        weight = tensors.get(name.removesuffix("bias") + "weight")
        if name.endswith(".bias") and name not in tensors and weight is not None:
            filled[name] = weight.new_zeros(weight.shape[-1])
    return filled
