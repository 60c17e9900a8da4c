"""One file with a GPT-2's tensors and nothing else, as torch or safetensors saved it.

The tensors show every size but the number of heads. That is in a ``config.json`` beside the file,
or known where the others are those of a released GPT-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import readouts
from circuits.checkpoints.assembling import assemble
from circuits.checkpoints.hugging_face import model_config, read_config, rename
from circuits.checkpoints.layout import CONFIG_FILE, same_numbers, under_released_names
from circuits.checkpoints.vocabulary import read_tokenizer
from circuits.config import GPT2_SIZES, ModelConfig
from circuits.errors import CheckpointError

# Where trainers put the tensors when they save more beside them.
INSIDE = ("state_dict", "model_state_dict", "model", "module")
_MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_W_E, _W_POS, _HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"


def tensors_of(content: Mapping[str, object]) -> dict[str, Tensor] | None:
    """The tensors of a file that holds nothing else, or holds them under one name; or None.

    Trainers give them many names; of several entries that could be meant, a usual one is.
    """
    usual = (content.get(name) for name in INSIDE)
    named = [part for part in map(_tensors, (content, *usual)) if part]
    other = [part for part in map(_tensors, content.values()) if part and _has_positions(part)]
    return named[0] if named else other[0] if len(other) == 1 else None


def _tensors(part: object) -> dict[str, Tensor] | None:
    """What this is, if it is tensors by their names and nothing else."""
    if not isinstance(part, Mapping) or not all(isinstance(t, Tensor) for t in part.values()):
        return None
    return {str(name): tensor for name, tensor in part.items()}


def _has_positions(part: Mapping[str, Tensor]) -> bool:
    """Whether these may be a GPT-2's, and not those of an optimizer."""
    return any(f".{name}".endswith(f".{_W_POS.split('.', 1)[1]}") for name in part)


def from_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookedGPT2:
    """Which model do the tensors of this file make?

    Matrices of torch's linear layers, [out, in], are turned to the released layout, [in, out].

    Raises:
        CheckpointError: when they are no GPT-2's, and when the number of heads is unknown.
    """
    origin = f"state dict {path}"
    theirs = under_released_names(tensors, origin)
    folder = path.parent
    config = read_config(folder) if (folder / CONFIG_FILE).is_file() else {}
    tokenizer = read_tokenizer(folder, config, path.stem)
    if config:
        cfg, described = model_config(config, path.stem, origin, tokenizer), CONFIG_FILE
    else:
        cfg = _shape(theirs, path, has_bos=tokenizer is None or tokenizer.bos_id is not None)
        described = f"the released GPT-2 of {cfg.n_layers} layers"
    wide = 3 * cfg.n_heads * cfg.d_head
    first = theirs.get("transformer.h.0.attn.c_attn.weight")
    if first is not None and tuple(first.shape) == (wide, cfg.d_model):
        theirs = {
            name: tensor.T if name.endswith(_MATRICES) else tensor
            for name, tensor in theirs.items()
        }
    model = assemble(
        cfg,
        rename(cfg, theirs, origin, described),
        origin=origin,
        described=described,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )
    return readouts.attach(model, theirs, config)


def _shape(tensors: Mapping[str, Tensor], path: Path, *, has_bos: bool) -> ModelConfig:
    """The released size whose width and depth these tensors have."""
    W_E, W_pos = tensors.get(_W_E), tensors.get(_W_POS)
    if W_E is None or W_pos is None or W_E.ndim != 2 or W_pos.ndim != 2:
        raise CheckpointError(
            f"{path} holds tensors that are no GPT-2's: it lacks {_W_E} or {_W_POS}"
        )
    n_layers = len({name.split(".")[2] for name in tensors if name.startswith("transformer.h.")})
    d_vocab, d_model = W_E.shape
    head = tensors.get(_HEAD)
    for size in GPT2_SIZES.values():
        if (size.n_layers, size.d_model) == (n_layers, d_model):
            return ModelConfig(
                n_layers=n_layers,
                n_heads=size.n_heads,
                d_model=d_model,
                n_ctx=len(W_pos),
                d_vocab=d_vocab,
                tied=head is None or same_numbers(head, W_E),
                model_name=path.stem,
                default_prepend_bos=has_bos,
            )
    raise CheckpointError(
        f"{path} holds {n_layers} layers of width {d_model}, which is no released GPT-2, and "
        f"tensors do not show how many heads there are; put a {CONFIG_FILE} with n_head beside it"
    )
