"""oneDNN's own products, which torch includes, and whether they are faster on this machine."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 64  # for which the layout of packed weights is chosen; it serves any number


def pack(transposed: Tensor) -> Tensor:
    """A copy of W in oneDNN's layout, given W transposed [o i]."""
    with torch.no_grad():
        copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(transposed.detach(), ROWS)
    return copy


def product(x: Tensor, stored: Tensor, bias: Tensor | None, gelu: str | None) -> Tensor:
    """x W + b or its GELU, given W transposed [o i], packed or not."""
    activation: tuple[Any, ...] = ("none", [], "") if gelu is None else ("gelu", [], gelu)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, stored, bias, *activation)
    return out


@cache
def onednn_is_faster() -> bool:
    """Whether MKL does not use this machine's CPU well, and oneDNN can be called.

    By the CPU, not by a measurement: all processes on a machine have to compute the same numbers.
    """
    is_slow = torch.backends.mkl.is_available() and _vendor() == "AuthenticAMD"
    if not is_slow or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return onednn_works()


def onednn_works() -> bool:
    """Whether torch's private operations exist, and compute what they are expected to."""
    x, weight, bias = torch.eye(3)[:2] + 1, torch.arange(12.0).view(3, 4), torch.ones(4)
    expected = F.gelu(torch.addmm(bias, x, weight), approximate="tanh")
    try:
        products = [product(x, w, bias, "tanh") for w in (weight.T, pack(weight.T))]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(out, expected) for out in products)


def _vendor() -> str:
    """The vendor that this CPU reports; empty if unknown."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else platform.processor()
    return next((name for name in ("AuthenticAMD", "GenuineIntel") if name in text), "")
