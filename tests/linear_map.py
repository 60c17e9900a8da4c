"""One linear map, as the modules of a model hold theirs."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circuits.backend import Backend


class Map(nn.Module):
    """One linear map, as the modules of the model hold theirs."""

    def __init__(self, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, generator=generator)
        self.weight = nn.Parameter(draw(5, 6).to(dtype))
        self.bias = nn.Parameter(draw(6).to(dtype)) if bias else None
        self.backend = Backend()

    def forward(self, x: Tensor, gelu: str | None = None) -> Tensor:
        return self.backend.linear(x, self.weight, self.bias, gelu)

    def expected(self, x: Tensor, gelu: str | None = None) -> Tensor:
        out = x @ self.weight if self.bias is None else x @ self.weight + self.bias
        return out if gelu is None else F.gelu(out, approximate=gelu)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
