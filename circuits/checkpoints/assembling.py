"""From tensors under this package's names to a model: checked, and uncopied where possible."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from circuits.architectures import Decoder, HookedGPT2
from circuits.checkpoints.layout import (
    CONFIG_FILE,
    released_names,
    require_names,
    resolve_device,
    resolve_dtype,
    several,
)
from circuits.config import ModelConfig
from circuits.errors import CheckpointError
from circuits.tokenizer import Tokenizer


def assemble(
    cfg: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    origin: str,
    described: str = CONFIG_FILE,
    tokenizer: Tokenizer | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> HookedGPT2:
    """The model that these tensors make.

    The tensors become the parameters: one that already has the device and the precision asked for
    is not copied. By default half precision is raised to float32 and the device stays.

    Args:
        cfg: the model's shape.
        tensors: all its parameters under this package's names.
        origin: where they come from; kept as ``model.source``.
        described: what says which shape that is, for messages.
        tokenizer: its vocabulary is fitted to ``cfg.d_vocab``.
        device: None leaves the tensors where they are.
        dtype: None chooses float64 if any tensor has it, otherwise float32.

    Raises:
        CheckpointError: naming the tensors that are missing, left over, mis-shaped, of a type that
            holds no numbers of a model, or not finite.
    """
    with torch.device("meta"):
        model = HookedGPT2(cfg, tokenizer and tokenizer.fitted(cfg.d_vocab))
    fill(model, released_names(cfg), tensors, origin, described, (device, dtype))
    return model


def fill(
    model: HookedGPT2 | Decoder,
    released: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    origin: str,
    described: str,
    to: tuple[str | torch.device | None, str | torch.dtype | None],
) -> None:
    """Let these tensors be the parameters of this model: see `assemble`.

    `released` are the file's names of our parameters; `to` are the device and the precision.
    """
    cfg, (device, dtype) = model.cfg, to
    require_names(tensors.keys(), released.keys(), origin, described)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    wrong = [
        f"{released[name]} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        sizes = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab")
        configured = ", ".join(f"{size}={getattr(cfg, size)}" for size in sizes)
        raise CheckpointError(
            f"{origin} has tensors of a wrong shape: {several(wrong)}; {described} says "
            f"{configured}"
        )
    target = resolve_dtype({released[n]: tensor for n, tensor in tensors.items()}, dtype, origin)
    place = resolve_device(device)
    ready = {
        name: tensor.detach().to(device=place, dtype=target) for name, tensor in tensors.items()
    }
    require_finite({released[name]: tensor for name, tensor in ready.items()}, origin)
    for name in shapes:
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(ready[name]))
    model.tie()
    model.source = origin


def require_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse numbers that are NaN or infinite.

    Raises:
        CheckpointError: naming the tensors that have them.
    """
    bad = []
    for name, tensor in tensors.items():
        # A sum is quick. Only where it is not finite are the numbers looked at one by one, since
        # finite numbers may overflow it.
        if not tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)).isfinite():
            n_bad = int((~tensor.isfinite()).sum())
            if n_bad:
                bad.append(f"{name} ({n_bad} of {tensor.numel()})")
    if bad:
        raise CheckpointError(
            f"{origin} has numbers that are NaN, infinite or too large for this precision: "
            f"{several(bad)}"
        )
