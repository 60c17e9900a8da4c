"""How untrained weights are drawn, by torch's random numbers.

Matrices are [.. in, out] here, the other way round than torch's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def calc_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """How many numbers each output is made of, and how many each input goes to.

    A matrix is [in, out]; of three axes [head, in, out], heads count with what they differ in.
    """
    if tensor.ndim < 2:
        return (1, tensor.numel()) if tensor.ndim == 1 else (1, 1)
    if tensor.ndim == 2:
        return tensor.shape[0], tensor.shape[1]
    return tensor.shape[1], tensor.shape[0] * tensor.shape[2]


def init_xavier_uniform_(param: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform, with a bound of gain sqrt(6 / (in + out))."""
    bound = gain * math.sqrt(6.0 / sum(calc_fan_in_and_fan_out(param)))
    return draw_(param, uniform=bound)


def init_xavier_normal_(param: Tensor, gain: float = 1.0) -> Tensor:
    """Normal, with a standard deviation of gain sqrt(2 / (in + out))."""
    return draw_(param, normal=gain * math.sqrt(2.0 / sum(calc_fan_in_and_fan_out(param))))


def init_kaiming_uniform_(
    param: Tensor,
    a: float = 0,
    nonlinearity: str = "relu",
    gain: float = 1.0,
    mode: str = "fan_in",
) -> Tensor:
    """Uniform, with a standard deviation of gain times the nonlinearity's over sqrt(in)."""
    return draw_(param, uniform=math.sqrt(3) * _std(param, a, nonlinearity, gain, mode))


def init_kaiming_normal_(
    param: Tensor,
    a: float = 0,
    nonlinearity: str = "relu",
    gain: float = 1.0,
    mode: str = "fan_in",
) -> Tensor:
    """Normal, with a standard deviation of gain times the nonlinearity's over sqrt(in)."""
    return draw_(param, normal=_std(param, a, nonlinearity, gain, mode))


def draw_(param: Tensor, *, normal: float | None = None, uniform: float | None = None) -> Tensor:
    """Fill a weight in the order of its indices, however it lies in memory."""
    with torch.no_grad():
        fresh = torch.empty(param.shape, dtype=param.dtype, device=param.device)
        fresh = (
            nn.init.uniform_(fresh, -uniform, uniform)
            if uniform
            else nn.init.normal_(fresh, std=normal or 0.0)
        )
        return param.copy_(fresh)


def _std(param: Tensor, a: float, nonlinearity: str, gain: float, mode: str) -> float:
    fans = calc_fan_in_and_fan_out(param)
    of_fn = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    return gain * of_fn / math.sqrt(fans[0 if mode == "fan_in" else 1])
