"""Rotary positions: queries and keys are turned by their position, so scores see distances.

A query or key is read as pairs of numbers, and pair i of position p is turned by p * rate_i (Su et
al. 2021). The product of a query and a key then depends on how far they are apart, and on nothing
else of their positions. Models that were made to read longer texts than they began with turn some
pairs more slowly.

Shapes: p positions, e = d_head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from circuits.errors import CircuitsError

Kind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Rotary:
    """How fast each pair turns.

    Attributes:
        dims: how many numbers of a head are turned; the others stay as they are.
        base: pair i of n turns by base^(-i / n) a position.
        kind: ``linear`` turns all pairs `factor` times more slowly; ``llama3`` and ``yarn`` the
            slow ones only, with a transition between; ``dynamic`` none of them within the context.
        factor: how many times more slowly.
        low, high: between which numbers of turns within `original` positions the transition is:
            1 and 4 of ``llama3``, 1 and 32 of ``yarn``.
        original: how many positions the model began with.
        amplitude: what queries and keys are multiplied by (``yarn``).

    >>> Rotary(dims=4).rates().tolist()
    [1.0, 0.01]
    >>> Rotary(dims=4, kind="linear", factor=4.0).rates().tolist()
    [0.25, 0.0025]
    """

    dims: int
    base: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 0
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CircuitsError(
                f"rotary positions of kind {self.kind!r}: those that can be computed are "
                f"{', '.join(KINDS)}"
            )
        if self.dims % 2 or self.dims < 2:
            raise CircuitsError(f"{self.dims} rotary dimensions: pairs of numbers are turned")

    def rates(self) -> Tensor:
        """By how much a position turns each pair, in radians, in float64: [dims / 2]."""
        pairs = torch.arange(0, self.dims, 2, dtype=torch.float64)
        rates = self.base ** -(pairs / self.dims)
        if self.kind == "linear":
            return rates / self.factor
        if self.kind == "llama3":
            turns = self.original * rates / (2 * math.pi)
            kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
            return kept * rates + (1 - kept) * rates / self.factor
        if self.kind == "yarn":
            first, last = math.floor(self._pair(self.high)), math.ceil(self._pair(self.low))
            first, last = max(first, 0), min(last, self.dims - 1)
            slowed = ((pairs / 2 - first) / max(last - first, 0.001)).clamp(0, 1)
            return (1 - slowed) * rates + slowed * rates / self.factor
        return rates

    def _pair(self, turns: float) -> float:
        """Which pair turns so many times within the positions that the model began with."""
        per_turn = math.log(self.original / (turns * 2 * math.pi))
        return self.dims * per_turn / (2 * math.log(self.base))

    def turned(self, x: Tensor, positions: Tensor) -> Tensor:
        """These queries or keys [.. p h e], each turned by its position [.. p]."""
        angle = positions[..., None].double() * self.rates().to(positions.device)
        cos, sin = (
            (self.amplitude * side).to(x.dtype)[..., None, :] for side in (angle.cos(), angle.sin())
        )
        half = self.dims // 2
        a, b = x[..., :half], x[..., half : self.dims]
        parts = [a * cos - b * sin, b * cos + a * sin]
        if self.dims < x.shape[-1]:
            parts.append(x[..., self.dims :])
        return torch.cat(parts, -1)
