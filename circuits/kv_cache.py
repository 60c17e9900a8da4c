"""What attention layers keep of the tokens that they have read, so that it is computed once.

Shapes: b batch, k key, h head, e = d_head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuits.errors import CircuitsError

KeyValue = tuple[Tensor, Tensor]  # of one layer, each [b k h e]
MORE = 64  # tokens for which there is room whenever what is stored has to move


@dataclass(eq=False)
class _Room:
    """One layer's keys and values, `both` [b k 2 h e], of which the last are not written yet."""

    both: Tensor
    written: Tensor  # the keys that are

    @classmethod
    def of(cls, stored: KeyValue, n_tokens: int) -> _Room:
        """Room for so many tokens, with what is stored copied into it."""
        batch, n, *rest = stored[0].shape
        both = stored[0].new_empty(batch, n_tokens, 2, *rest)
        for i, each in enumerate(stored):
            both.narrow(1, 0, n).select(2, i).copy_(each)
        return cls(both, stored[0])

    def goes_on(self, stored: Tensor, n_tokens: int) -> bool:
        """Whether keys can be written behind these, which are stored, up to so many tokens.

        Not where somebody has put other keys there, or has taken the last ones away; nor outside
        of inference mode what was made inside of it.
        """
        is_open = self.both.is_inference() == torch.is_inference_mode_enabled()
        return is_open and self.written is stored and self.both.shape[1] >= n_tokens

    def up_to(self, n_tokens: int) -> KeyValue:
        """Keys and values of the first tokens, which are written now."""
        keys, values = self.both.narrow(1, 0, n_tokens).unbind(2)
        self.written = keys
        return keys, values


@dataclass(frozen=True, eq=False)
class Extend:
    """Stores a layer's keys and values of new tokens, and gives those of all tokens."""

    cache: KVCache
    layer: int

    def __call__(self, keys: Tensor, values: Tensor) -> KeyValue:
        """Of any number of tokens, each [b p h e]."""
        stored = self.cache.layers.get(self.layer)
        if stored is None:
            both = keys, values
        elif torch.is_grad_enabled():  # backward passes need what is stored as it is
            both = torch.cat([stored[0], keys], 1), torch.cat([stored[1], values], 1)
        else:
            start, n = stored[0].shape[1], keys.shape[1]
            room = self._room(stored, start + n)
            for i, new in enumerate((keys, values)):
                room.both.narrow(1, start, n).select(2, i).copy_(new)
            both = room.up_to(start + n)
        self.cache.layers[self.layer] = both
        return both

    def one_more(self, pair: Tensor) -> KeyValue:
        """Of one token more than are stored already, key and value in one tensor [b 2 h e]."""
        if torch.is_grad_enabled():
            keys, values = pair.unsqueeze(1).unbind(2)
            return self(keys, values)
        stored = self.cache.layers[self.layer]
        start = stored[0].shape[1]
        room = self._room(stored, start + 1)
        room.both.select(1, start).copy_(pair)
        both = self.cache.layers[self.layer] = room.up_to(start + 1)
        return both

    def _room(self, stored: KeyValue, n_tokens: int) -> _Room:
        """Room for so many tokens, so that what is stored, most of the work, is not copied."""
        room = self.cache.rooms.get(self.layer)
        if room is None or not room.goes_on(stored[0], n_tokens):
            room = self.cache.rooms[self.layer] = _Room.of(stored, n_tokens + MORE)
        return room


@dataclass(eq=False)
class KVCache:
    """What the attention layers have already computed.

    Grows with every forward pass it is given to. `layers` holds each layer's keys and values;
    `mask` [b k] is True at real tokens, None when all are. `whole` is False once a pass that filled
    it was interrupted.
    """

    layers: dict[int, KeyValue] = field(default_factory=dict)
    mask: Tensor | None = None
    whole: bool = True
    rooms: dict[int, _Room] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_tokens(self) -> int:
        """How many tokens, padding included, are stored."""
        return next(iter(self.layers.values()))[0].shape[1] if self.layers else 0

    @property
    def n_rows(self) -> int:
        """How many prompts are stored."""
        return len(next(iter(self.layers.values()))[0]) if self.layers else 0

    @property
    def n_past(self) -> int | Tensor:
        """How many real tokens are stored: one number, or [b] when padding makes them differ."""
        return self.n_tokens if self.mask is None else self.mask.sum(1)

    @contextmanager
    def continued(self, layers: range, n_rows: int) -> Iterator[None]:
        """In this block, a pass through these layers, of this many prompts, continues from here.

        Raises:
            CircuitsError: as `require_fit`.
        """
        self.require_fit(layers, n_rows)
        self.whole = False
        yield
        self.whole = True

    def require_fit(self, layers: range, n_rows: int) -> None:
        """Refuse to be continued by what does not fit what is stored.

        Raises:
            CircuitsError: when some layer has not seen what the others have, which a pass through
                other layers, or one that was interrupted, leaves behind.
        """
        shapes = {tuple(keys.shape[:2]) for keys, _ in self.layers.values()}
        shapes |= {tuple(self.mask.shape)} if self.mask is not None else set()
        fits = {*self.layers} == {*layers} and shapes == {(n_rows, self.n_tokens)}
        if not self.whole or (shapes and not fits):
            raise CircuitsError(
                f"the key-value cache cannot be continued by {n_rows} prompts through layers "
                f"{layers.start} to {layers.stop - 1}: it was filled with another batch or by "
                "other layers, or a pass that filled it was interrupted; start with a new KVCache()"
            )

    def of(self, layer: int) -> Extend:
        """What this layer's attention stores its keys and values with."""
        return Extend(self, layer)

    def extend_mask(self, mask: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Record which of the new `tokens` [b p] are real; returns the mask [b k] of all keys."""
        if mask is None and self.mask is None:
            return None
        real = torch.ones_like(tokens, dtype=torch.bool)
        old = real[:, :1].expand(-1, self.n_tokens) if self.mask is None else self.mask
        self.mask = torch.cat([old, real if mask is None else mask], 1)
        return self.mask
