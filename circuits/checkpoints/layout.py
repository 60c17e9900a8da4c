"""GPT-2's tensors: what the released checkpoints call them, and how they become a model.

A format of this folder gives a `ModelConfig` and tensors under this package's names;
`circuits.checkpoints.assembling` makes the model of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from circuits.config import ModelConfig
from circuits.errors import CheckpointError, CircuitsError, nearest, printed

# Precisions a model can be loaded in, by the names that the command line uses.
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_BLOCK = {
    "ln1.w": "ln_1.weight",
    "ln1.b": "ln_1.bias",
    "attn.W_QKV": "attn.c_attn.weight",
    "attn.b_QKV": "attn.c_attn.bias",
    "attn.W_O_flat": "attn.c_proj.weight",
    "attn.b_O": "attn.c_proj.bias",
    "ln2.w": "ln_2.weight",
    "ln2.b": "ln_2.bias",
    "mlp.W_in": "mlp.c_fc.weight",
    "mlp.b_in": "mlp.c_fc.bias",
    "mlp.W_out": "mlp.c_proj.weight",
    "mlp.b_out": "mlp.c_proj.bias",
}
_OUTSIDE = {
    "W_E": "wte.weight",
    "W_pos": "wpe.weight",
    "ln_final.w": "ln_f.weight",
    "ln_final.b": "ln_f.bias",
}
_PREFIX = "transformer."
# What torch.compile, DistributedDataParallel, FSDP and activation checkpointing put into names,
# also amid them. What stands before all names (Lightning's ``model.``) `_shared_prefix` sees.
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_BUFFER = re.compile(r"(.*\.)?h\.\d+\.attn\.(attention\.)?(bias|masked_bias)")
# Heads of fine-tuned models besides or instead of the vocabulary's, as transformers calls them, and
# the class that has each.
READOUTS = {
    "score": "GPT2ForSequenceClassification",
    "classifier": "GPT2ForTokenClassification",
    "qa_outputs": "GPT2ForQuestionAnswering",
    "multiple_choice_head.summary": "GPT2DoubleHeadsModel",
    "v_head.summary": "GPT2LMHeadModel",  # of trl: the value of a text, for reinforcement learning
}
_HEADS = ("lm_head.", *(f"{name}." for name in READOUTS))
_MOST_LAYERS = 1000
CONFIG_FILE = "config.json"
HEAD = {"unembed.W_U_untied": "lm_head.weight", "unembed.b_U": "lm_head.bias"}


def released_names(cfg: ModelConfig) -> dict[str, str]:
    """What the released checkpoints call each parameter of this model.

    Keys are this package's names. The head's two (`HEAD`) are there only for an untied model.

    >>> cfg = ModelConfig(n_layers=1, n_heads=1, d_model=4, n_ctx=4, d_vocab=9)
    >>> released_names(cfg)["blocks.0.attn.W_QKV"], len(released_names(cfg))
    ('transformer.h.0.attn.c_attn.weight', 16)
    """
    names = {ours: f"transformer.{theirs}" for ours, theirs in _OUTSIDE.items()}
    for layer in range(cfg.n_layers):
        for ours, theirs in _BLOCK.items():
            names[f"blocks.{layer}.{ours}"] = f"transformer.h.{layer}.{theirs}"
    return names if cfg.tied else names | HEAD


@contextmanager
def described_by(described: str, origin: str) -> Iterator[None]:
    """While a `ModelConfig` is made of what a file says: an impossible size names the file.

    Raises:
        CheckpointError: for such a size.
    """
    try:
        yield
    except CheckpointError:
        raise
    except CircuitsError as error:
        raise CheckpointError(
            f"{origin}: {described} describes a model that cannot be: {error}"
        ) from None


def is_readout(released: str) -> bool:
    """Whether a tensor of this released name belongs to a head besides the vocabulary's."""
    return released.rpartition(".")[0] in READOUTS


def released_name(name: str) -> str | None:
    """What GPT2LMHeadModel calls the tensor that a file has under this name.

    A wrapper of a model or a layer adds a step to the path of names (`_WRAPPERS`); models
    without a head, such as the files that OpenAI's release became, lack ``transformer.``. None for
    the causal mask, which older versions saved along with the weights. What else stands before a
    name stays there: only all names of a file show that it belongs to none.

    >>> released_name("module._orig_mod.h.0.attn.c_attn.weight")
    'transformer.h.0.attn.c_attn.weight'
    >>> released_name("transformer.h.0.attn.bias") is None
    True
    """
    bare = _unwrapped(name).removeprefix(_PREFIX)
    if _BUFFER.fullmatch(bare):
        return None
    return bare if bare.startswith(_HEADS) else _PREFIX + bare


def under_released_names(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The same tensors under the names of GPT2LMHeadModel, without causal masks.

    What stands before all names, such as the ``model.`` of a trainer's own module, is left out.

    Raises:
        CheckpointError: when two tensors of different numbers have one name, when there are two
            models, and when something stands before some names and not before others.
    """
    renamed: dict[str, Tensor] = {}
    prefix = _shared_prefix(tensors, origin)
    for given, tensor in tensors.items():
        name = released_name(_unwrapped(given).removeprefix(prefix))
        if name is None:
            continue
        if name in renamed and not same_numbers(renamed[name], tensor):
            raise CheckpointError(
                f"{origin} has two different tensors {printed(name)}, one of them as "
                f"{printed(given)}: two models "
                "in one file; save the one that is meant alone"
            )
        renamed[name] = tensor
    return renamed


def _unwrapped(name: str) -> str:
    """The name without the steps that wrappers put into it."""
    return ".".join(step for step in name.split(".") if step not in _WRAPPERS)


def _shared_prefix(names: Collection[str], origin: str) -> str:
    """What stands before every one of these names and is none of GPT-2's own steps.

    The positions' embedding, which every GPT-2 has once, shows where its names begin: a module that
    holds a model (``self.model = GPT2LMHeadModel(...)``) puts its own attribute before all of them.
    Heads may stand beside it.
    """
    bare = {_unwrapped(name): name for name in names}
    steps = {tuple(name.split(".")) for name in bare}
    anchor = tuple(_OUTSIDE["W_pos"].split("."))
    before = [".".join(path[:-2]) + "." for path in steps if path[-2:] == anchor]
    prefixes = sorted({start.removeprefix(".").removesuffix(_PREFIX) for start in before})
    if len(prefixes) > 1:
        shown = several([printed(prefix) if prefix else "no prefix" for prefix in prefixes])
        raise CheckpointError(
            f"{origin} holds several models, whose names begin with {shown}; save the one that is "
            "meant alone"
        )
    prefix = prefixes[0] if prefixes else ""
    others = [given for name, given in bare.items() if not name.startswith((prefix, *_HEADS))]
    if others:
        raise CheckpointError(
            f"{origin} has a GPT-2 whose names begin with {printed(prefix)}, and beside it "
            f"{listed(others)}; save the GPT-2's own tensors alone"
        )
    return prefix


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers. Quick when they share their memory."""
    same_place = (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())
    return same_place or torch.equal(a, b)


def require_layers(
    n_layers: int, tensors: Collection[str], origin: str, described: str = CONFIG_FILE
) -> None:
    """Refuse a number of layers that so few tensors cannot have, before anything is built.

    `described` is what says how many there are, here and below.

    Raises:
        CheckpointError: when it is larger than the number of tensors, and than any GPT-2's.
    """
    if n_layers > max(len(tensors), _MOST_LAYERS):
        raise CheckpointError(
            f"{origin} is said to have {n_layers} layers, and holds {len(tensors)} tensors: "
            f"{described} describes another model"
        )


def require_names(
    given: Collection[str],
    expected: Collection[str],
    origin: str,
    described: str = CONFIG_FILE,
    whose: str = "a GPT-2",
) -> None:
    """Raise unless exactly the expected tensors are there.

    Raises:
        CheckpointError: naming those that are missing and those that are left over.
    """
    missing = [name for name in expected if name not in given]
    left_over = [name for name in given if name not in expected]
    if missing or left_over:
        faults = [("lacks", missing), (f"has, beyond {whose}'s,", left_over)]
        problem = " and ".join(f"{verb} {listed(names)}" for verb, names in faults if names)
        if any("lora_" in name for name in left_over):
            raise CheckpointError(
                f"{origin} {problem}: adapters, which have to be merged into the weights first, as "
                "peft's merge_and_unload does"
            )
        raise CheckpointError(
            f"{origin} {problem}: it is damaged, or {described} describes another model"
        )


def listed(names: Collection[str], most: int = 5) -> str:
    r"""The first few names of a file, for a message: see `printed`.

    >>> listed(["a", "b\t", "c"], most=2)
    "a, 'b\\t' and 1 more"
    """
    return several([printed(name) for name in names], most)


def several(items: Sequence[str], most: int = 5) -> str:
    """The first few of these words, for a message."""
    shown = ", ".join(items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def resolve_dtype(
    tensors: Mapping[str, Tensor], dtype: str | torch.dtype | None, origin: str
) -> torch.dtype:
    """The precision in which these tensors are loaded.

    Raises:
        CheckpointError: for an unknown precision, or tensors that hold something else, such as
            quantized weights.
    """
    odd = [f"{n} ({t.layout})" for n, t in tensors.items() if t.layout != torch.strided]
    odd += [f"{n} (without numbers)" for n, t in tensors.items() if t.is_meta]
    if odd:
        raise CheckpointError(f"{origin} holds tensors that are not plain: {several(odd)}")
    others = [f"{n} ({t.dtype})" for n, t in tensors.items() if t.dtype not in DTYPES.values()]
    if others:
        raise CheckpointError(
            f"{origin} holds tensors in a precision that cannot be read: {several(others)}; "
            f"save them as one of {', '.join(DTYPES)}"
        )
    if dtype is None:
        has_double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
        return torch.float64 if has_double else torch.float32
    return find_dtype(dtype)


def find_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The precision that is meant, as torch's dtype.

    Raises:
        CheckpointError: listing those that a model can have.

    >>> find_dtype("bfloat16")
    torch.bfloat16
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise CheckpointError(
            f"dtype={name!r} is no precision of a model{nearest(name, DTYPES)}; choose one of "
            f"{', '.join(DTYPES)}"
        )
    return DTYPES[name]


def resolve_device(device: str | torch.device | None) -> torch.device | None:
    """The device that is meant, if it can be used here; None for None.

    Raises:
        CheckpointError: when this machine, or this installation of torch, does not have it.
    """
    if device is None:
        return None
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the device {str(device)!r} cannot be used here ({reason}); 'cpu' always can"
        ) from None
    return place
