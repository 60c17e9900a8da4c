"""Write a model as a Hugging Face folder: all of it, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from circuits.architectures import Decoder, HookedGPT2
from circuits.checkpoints import gpt_neo, readouts
from circuits.checkpoints.layout import CONFIG_FILE, HEAD, find_dtype, listed, released_names
from circuits.checkpoints.weight_files import SAFE
from circuits.errors import CheckpointError
from circuits.files import named_path, replacing_folder
from circuits.model import HookedModel
from circuits.tokenizer import WRITTEN as TOKENIZER_WRITTEN

WRITTEN = (CONFIG_FILE, SAFE, *TOKENIZER_WRITTEN)


def save(model: HookedModel, folder: str | Path, *, dtype: str | torch.dtype | None = None) -> Path:
    """Write the model and its vocabulary into a folder that `load` and Hugging Face can read.

    The files appear together under their final names or not at all. An earlier checkpoint in the
    same folder is replaced. transformers ignores the unembedding's bias, which only processed
    models have.

    Args:
        model: a GPT-2 of this package.
        folder: new, empty, or one that `save` wrote.
        dtype: the precision of the file; by default the model's own. torch.float16 halves the
            file; `load` raises it to float32.

    Returns:
        The folder.

    Raises:
        CheckpointError: when the folder holds other files or cannot be written, a weight does not
            fit the precision, or the model is no GPT-2 of this package.
    """
    if isinstance(model, Decoder):
        raise CheckpointError(
            f"{model.cfg.model_name} is a {model.cfg.architecture}, and GPT-2s alone are written "
            f"here; keep its weights as torch.save(model.state_dict()), or copy {model.source}"
        )
    if type(model) is not HookedGPT2:  # an adapted one
        raise CheckpointError(
            f"the weights of {model.cfg.model_name} are another library's ({model.source}); save "
            "them with that"
        )
    folder = named_path(folder).expanduser()
    to = None if dtype is None else find_dtype(dtype)
    tensors = _tensors(model, to)
    if model.cfg.attn_types:
        gpt_neo.require_gpt_neo(model.cfg, tensors)
        tensors = gpt_neo.as_gpt_neo_tensors(tensors)
    tensors |= readouts.saved(model, to)
    _require_own(folder)
    with replacing_folder(folder, failure=SafetensorError, error=CheckpointError) as partial:
        _write(model, tensors, partial)
    return folder


def _require_own(folder: Path) -> None:
    """Nothing but an earlier checkpoint may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; a checkpoint is a folder")
    others = sorted(path.name for path in folder.iterdir() if path.name not in WRITTEN)
    if others:
        raise CheckpointError(
            f"{folder} holds other files ({listed(others)}), which saving would delete; choose a "
            "new folder"
        )


def _tensors(model: HookedGPT2, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The parameters under their released names, contiguous, in the file's precision."""
    cfg, parameters = model.cfg, dict(model.named_parameters())
    tensors: dict[str, Tensor] = {}
    for ours, released in released_names(cfg).items():
        tensor = parameters[ours].detach()
        if ours == "unembed.W_U_untied":
            tensor = tensor.T
        if released == HEAD["unembed.b_U"] and not tensor.any():
            continue  # transformers warns about a bias it does not know
        tensors[released] = tensor.to(device="cpu", dtype=dtype).contiguous()
        if dtype is not None and not tensors[released].isfinite().all() and tensor.isfinite().all():
            raise CheckpointError(
                f"{released} reaches {float(tensor.abs().max()):g}, beyond what {dtype} can hold; "
                "save in float32"
            )
    return tensors


def _write(model: HookedGPT2, tensors: dict[str, Tensor], folder: Path) -> None:
    config = folder / CONFIG_FILE
    dtype = str(tensors["transformer.wte.weight"].dtype).removeprefix("torch.")
    entries = _config(model, dtype) | readouts.described(model)
    if model.cfg.attn_types:
        entries = gpt_neo.as_gpt_neo_config(entries, model.cfg)
    config.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    # "format" is how transformers recognizes that the tensors are torch's.
    save_file(tensors, folder / SAFE, metadata={"format": "pt"})
    # safetensors makes its files readable to their owner alone; everyone else's follow the umask.
    (folder / SAFE).chmod(config.stat().st_mode)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)


def _config(model: HookedGPT2, dtype: str) -> dict[str, Any]:
    cfg = model.cfg
    roles, ends = model.roles, model.roles.eos_ids
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": cfg.act_fn,
        "n_layer": cfg.n_layers,
        "n_head": cfg.n_heads,
        "n_embd": cfg.d_model,
        "n_positions": cfg.n_ctx,
        "n_inner": cfg.d_mlp,
        "vocab_size": cfg.d_vocab,
        "layer_norm_epsilon": cfg.eps,
        "tie_word_embeddings": cfg.tied,
        "bos_token_id": roles.bos_id,
        "eos_token_id": list(ends) if len(ends) > 1 else ends[0] if ends else None,
        "dtype": dtype,
        "default_prepend_bos": cfg.default_prepend_bos,
    }
    if roles.pad_id is not None:
        config["pad_token_id"] = roles.pad_id
    if cfg.d_head * cfg.n_heads != cfg.d_model:
        config["head_dim"] = cfg.d_head
    if not cfg.use_attn_scale:
        config["scale_attn_weights"] = False
    if cfg.scale_attn_by_inverse_layer_idx:
        config["scale_attn_by_inverse_layer_idx"] = True
    return config
