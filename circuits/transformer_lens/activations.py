"""Nonlinearities by their names in a configuration, and soft caps, which no GPT-2 has."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ActivationFunction = Callable[..., Tensor]
SOFTCAP_DISABLED = -1.0


def gelu_new(input: Tensor) -> Tensor:
    """GPT-2's nonlinearity."""
    return F.gelu(input, approximate="tanh")


def gelu_fast(input: Tensor) -> Tensor:
    """The same within rounding."""
    inner = input * 0.7978845608 * (1 + 0.044715 * input * input)
    return 0.5 * input * (1 + torch.tanh(inner))


def solu(input: Tensor) -> Tensor:
    """x softmax(x)."""
    return input * F.softmax(input, -1)


gelu_pytorch_tanh = gelu_new
SUPPORTED_ACTIVATIONS: dict[str, ActivationFunction] = {
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_pytorch_tanh": gelu_new,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "solu": solu,
}


def softcap_enabled(cap: float | None) -> bool:
    """Whether this is a cap: a number above 0."""
    return cap is not None and cap > 0


def apply_softcap(x: Tensor, cap: float | None) -> Tensor:
    """cap tanh(x / cap), or x where there is no cap."""
    return x if cap is None or cap <= 0 else cap * torch.tanh(x / cap)
