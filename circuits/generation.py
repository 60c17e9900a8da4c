"""Text from a model, token by token, each new token computed once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuits.attention import KeyValue


@dataclass(eq=False)
class KVCache:
    """What have the attention layers already computed? Grows with every forward pass it is given to.

    `layers` holds each layer's keys and values; `mask` [b k] is True at real tokens, None when all
    are.
    """

    layers: dict[int, KeyValue] = field(default_factory=dict)
    mask: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """How many tokens, padding included, are stored?"""
        return next(iter(self.layers.values()))[0].shape[1] if self.layers else 0

    @property
    def n_past(self) -> int | Tensor:
        """How many real tokens are stored? One number, or [b] when padding makes them differ."""
        return self.n_tokens if self.mask is None else self.mask.sum(1)

    def extend_mask(self, mask: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Record which of the new `tokens` [b p] are real; returns the mask [b k] of all keys."""
        if mask is None and self.mask is None:
            return None
        real = torch.ones_like(tokens, dtype=torch.bool)
        old = real[:, :1].expand(-1, self.n_tokens) if self.mask is None else self.mask
        self.mask = torch.cat([old, real if mask is None else mask], 1)
        return self.mask


def generate(model, given, **options):  # type: ignore[no-untyped-def]
    raise CircuitsErrorPlaceholder
