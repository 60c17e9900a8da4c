"""`from_pretrained`, and what TransformerLens says of models that it knows by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from circuits import checkpoints
from circuits.architectures import HookedGPT2
from circuits.errors import CheckpointError, CircuitsError
from circuits.transformer_lens import processing
from circuits.transformer_lens.config import HookedTransformerConfig
from circuits.transformer_lens.names import (
    ALIASES,
    DEFAULT_MODEL_ALIASES,
    MODEL_ALIASES,
    OFFICIAL_MODEL_NAMES,
    STANFORD_CRFM_CHECKPOINTS,
    get_checkpoint_labels,
    get_official_model_name,
)
from circuits.transformer_lens.options import names_of, require_known

if TYPE_CHECKING:
    from circuits.transformer_lens.model import HookedTransformer

__all__ = [
    "DEFAULT_MODEL_ALIASES",
    "MODEL_ALIASES",
    "OFFICIAL_MODEL_NAMES",
    "STANFORD_CRFM_CHECKPOINTS",
    "from_pretrained",
    "from_pretrained_no_processing",
    "get_checkpoint_labels",
    "get_num_params_of_pretrained",
    "get_official_model_name",
    "get_pretrained_model_config",
    "get_pretrained_state_dict",
]


def from_pretrained(
    cls: Any,
    /,
    model_name: Any,
    fold_ln: bool = True,
    center_writing_weights: bool = True,
    center_unembed: bool = True,
    refactor_factored_attn_matrices: bool = False,
    checkpoint_index: int | None = None,
    checkpoint_value: int | None = None,
    checkpoint_label: int | None = None,
    hf_model: Any = None,
    device: Any = None,
    n_devices: int = 1,
    tokenizer: Any = None,
    move_to_device: bool = True,
    fold_value_biases: bool = True,
    default_prepend_bos: bool | None = None,
    default_padding_side: str | None = None,
    dtype: Any = "float32",
    **more: Any,
) -> HookedTransformer:
    """A GPT-2-family model by its name, folder or object, folded and centered by default.

    Names are TransformerLens', the hub's, or those of `circuits.load`. A model of
    ``transformers`` in memory is given as `hf_model`.

    Raises:
        CircuitsError: for a model that is no GPT-2, and for options that cannot be had here.
    """
    _require_options(n_devices, more)
    dtype = more.get("torch_dtype") or dtype
    value = checkpoint_value if checkpoint_value is not None else checkpoint_label
    if checkpoint_index is not None:
        value = _checkpoint(model_name, checkpoint_index)
    revision = more.get("revision") if value is None else f"checkpoint-{value}"
    house = _house(model_name, hf_model, revision, device, dtype)
    steps = {"fold_ln": fold_ln, "center_writing_weights": center_writing_weights}
    steps |= {"center_unembed": center_unembed, "fold_value_biases": fold_value_biases}
    cfg = _config(house, model_name, value, default_prepend_bos)
    model: HookedTransformer = cls(cfg, tokenizer or house.tokenizer, move_to_device)
    model.source = house.source
    state = processing.to_state(house)
    model.load_and_process_state_dict(
        state, refactor_factored_attn_matrices=refactor_factored_attn_matrices, **steps
    )
    if default_padding_side is not None and model.tokenizer is not None:
        model.require_tokenizer().padding_side = default_padding_side
    return model.eval()


def _house(
    model_name: Any, hf_model: Any, revision: str | None, device: Any, dtype: Any
) -> HookedGPT2:
    """The model of this package that these name."""
    name = ALIASES.get(model_name, model_name) if isinstance(model_name, str) else model_name
    if isinstance(name, HookedGPT2):
        return name
    if name is None and hf_model is None:
        raise CircuitsError(
            "model_name=None names no model; give a name such as 'gpt2' or 'mini', a folder, or "
            "hf_model="
        )
    where = {"device": device, "dtype": dtype}
    try:
        if hf_model is not None:
            model = checkpoints.load(hf_model, **where)
        else:
            model = checkpoints.load(name, revision=revision, **where)
        if not isinstance(model, HookedGPT2):
            raise CheckpointError(f"it is a {model.cfg.architecture}; circuits.load loads it")
        return model
    except CheckpointError as error:
        raise CheckpointError(
            f"{model_name!r} cannot be loaded: this door takes GPT-2-family models (GPT-2, "
            f"Stanford's GPT-2s, GPT-Neo), by name, folder or hf_model=. {error}"
        ) from error


# What TransformerLens takes besides, or hands on: without effect here, or not to be had.
_WITHOUT_EFFECT = ("trust_remote_code", "local_files_only", "low_cpu_mem_usage", "use_fast")
_NOT_HERE = (
    *("first_n_layers", "n_ctx", "config", "load_in_8bit", "load_in_4bit", "device_map"),
    *("hf_config", "max_memory", "attn_implementation", "token", "cache_dir"),
)


def _require_options(n_devices: int, more: Mapping[str, Any]) -> None:
    if n_devices != 1:
        raise CircuitsError(f"n_devices={n_devices}: a model is on one device here")
    refused = [name for name in _NOT_HERE if more.get(name) not in (None, False)]
    if refused:
        raise CircuitsError(
            f"{', '.join(refused)}: not to be had here; load the model as it is, and cut passes "
            "with stop_at_layer"
        )
    known = [*names_of(from_pretrained), "revision", "torch_dtype", *_WITHOUT_EFFECT, *_NOT_HERE]
    require_known("from_pretrained", more, known)


def from_pretrained_no_processing(
    cls: Any,
    /,
    model_name: Any,
    fold_ln: bool = False,
    center_writing_weights: bool = False,
    center_unembed: bool = False,
    refactor_factored_attn_matrices: bool = False,
    fold_value_biases: bool = False,
    **options: Any,
) -> HookedTransformer:
    """`from_pretrained` with the weights as they are."""
    return from_pretrained(
        cls,
        model_name,
        fold_ln=fold_ln,
        center_writing_weights=center_writing_weights,
        center_unembed=center_unembed,
        refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        fold_value_biases=fold_value_biases,
        **options,
    )


def _checkpoint(model_name: Any, index: int) -> int:
    """The step of training at which a model's so many-th checkpoint was kept."""
    steps, _ = get_checkpoint_labels(str(model_name))
    if not -len(steps) <= index < len(steps):
        raise CircuitsError(
            f"checkpoint_index={index}: {model_name} has {len(steps)}, choose 0 to {len(steps) - 1}"
        )
    return steps[index]


def _config(
    house: HookedGPT2, model_name: Any, checkpoint: int | None, default_prepend_bos: bool | None
) -> HookedTransformerConfig:
    settings = {
        "model_name": model_name if isinstance(model_name, str) else house.cfg.model_name,
        "original_architecture": "GPT2LMHeadModel",
        "init_weights": False,
        "checkpoint_value": checkpoint,
        "from_checkpoint": checkpoint is not None,
    }
    if default_prepend_bos is not None:
        settings["default_prepend_bos"] = default_prepend_bos
    return HookedTransformerConfig.of(house.cfg, **settings)


def get_pretrained_model_config(
    model_name: str,
    *,
    checkpoint_value: int | None = None,
    fold_ln: bool = False,
    device: Any = None,
    default_prepend_bos: bool | None = None,
    dtype: Any = "float32",
) -> HookedTransformerConfig:
    """The configuration that `from_pretrained` would give the model of this name."""
    revision = None if checkpoint_value is None else f"checkpoint-{checkpoint_value}"
    house = _house(model_name, None, revision, device, dtype)
    cfg = _config(house, model_name, checkpoint_value, default_prepend_bos)
    vars(cfg).update(normalization_type="LNPre" if fold_ln else "LN")
    return cfg


def get_num_params_of_pretrained(model_name: str) -> int:
    """How many numbers the matrices of its blocks hold: ``cfg.n_params``."""
    return get_pretrained_model_config(model_name).n_params


def get_pretrained_state_dict(
    official_model_name: str,
    cfg: HookedTransformerConfig,
    hf_model: Any = None,
    dtype: Any = "float32",
) -> dict[str, Tensor]:
    """The weights of a model by its name, under TransformerLens' names, as they are."""
    value = cfg.checkpoint_value
    revision = None if value is None else f"checkpoint-{value}"
    return processing.to_state(_house(official_model_name, hf_model, revision, None, dtype))
