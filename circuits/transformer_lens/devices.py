"""Where tensors are put: on one device, as every model here."""

from __future__ import annotations

import sys
from typing import Any

import torch


def get_device() -> str:
    """Where tensors are put by default: ``cuda`` if there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def print_gpu_mem(step_name: str = "") -> None:
    """Write how much memory of the first GPU is in use."""
    gib = torch.cuda.memory_allocated(0) / 2**30 if torch.cuda.is_available() else 0.0
    sys.stdout.write(f"{step_name} ~ {gib:.2f} GiB allocated on GPU.\n")


def warn_if_mps(device: Any) -> None:
    """Nothing; TransformerLens warns of Apple's GPUs here."""


def get_best_available_device(cfg: Any) -> torch.device:
    """The device of this configuration."""
    return torch.device(cfg.device)


def get_device_for_block_index(index: int, cfg: Any, device: Any = None) -> torch.device:
    """The device of every block: the given one, or the configuration's."""
    return torch.device(cfg.device if device is None else device)


def move_to_and_update_config(model: Any, device_or_dtype: Any, print_details: bool = True) -> Any:
    """The module on this device, or in this dtype, and its configuration with it."""
    is_dtype = isinstance(device_or_dtype, torch.dtype)
    what = "dtype" if is_dtype else "device"
    setattr(model.cfg, what, device_or_dtype if is_dtype else torch.device(device_or_dtype))
    if print_details:
        sys.stdout.write(f"{what}: {device_or_dtype}\n")
    return torch.nn.Module.to(model, device_or_dtype)
