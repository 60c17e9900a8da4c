"""What attention layers keep of the tokens that they have read, so that it is computed once.

Shapes: b batch, k key, h head, e = d_head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuits.errors import CircuitsError

KeyValue = tuple[Tensor, Tensor]  # of one layer, each [b k h e]


@dataclass(eq=False)
class KVCache:
    """What the attention layers have already computed.

    Grows with every forward pass it is given to. `layers` holds each layer's keys and values;
    `mask` [b k] is True at real tokens, None when all are.
    """

    layers: dict[int, KeyValue] = field(default_factory=dict)
    mask: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """How many tokens, padding included, are stored."""
        return next(iter(self.layers.values()))[0].shape[1] if self.layers else 0

    @property
    def n_past(self) -> int | Tensor:
        """How many real tokens are stored: one number, or [b] when padding makes them differ."""
        return self.n_tokens if self.mask is None else self.mask.sum(1)

    def check(self, layers: range, n_rows: int) -> None:
        """Raise unless a pass through these layers, of this many prompts, can continue from here.

        Raises:
            CircuitsError: when some layer has not seen what the others have, which a pass through
                other layers, or one that was interrupted, leaves behind.
        """
        shapes = {tuple(keys.shape[:2]) for keys, _ in self.layers.values()}
        shapes |= {tuple(self.mask.shape)} if self.mask is not None else set()
        if shapes and ({*self.layers} != {*layers} or shapes != {(n_rows, self.n_tokens)}):
            raise CircuitsError(
                f"the key-value cache cannot be continued by {n_rows} prompts through layers "
                f"{layers.start} to {layers.stop - 1}: it was filled with another batch or by "
                "other layers, or a pass that filled it was interrupted; start with a new KVCache()"
            )

    def extend_mask(self, mask: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Record which of the new `tokens` [b p] are real; returns the mask [b k] of all keys."""
        if mask is None and self.mask is None:
            return None
        real = torch.ones_like(tokens, dtype=torch.bool)
        old = real[:, :1].expand(-1, self.n_tokens) if self.mask is None else self.mask
        self.mask = torch.cat([old, real if mask is None else mask], 1)
        return self.mask
