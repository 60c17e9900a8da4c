"""The key-value cache as TransformerLens makes it: `init_cache`, entries, frozen or not."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from circuits.kv_cache import KVCache


class Entry(NamedTuple):
    """One layer's keys and values, each [b k h e]."""

    past_keys: Tensor
    past_values: Tensor


class HookedTransformerKeyValueCache(KVCache):
    """What the attention layers have already computed: see `circuits.kv_cache.KVCache`.

    A frozen one is read, and keeps what it has.
    """

    frozen = False
    shape: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def init_cache(
        cls, cfg: Any, device: Any = None, batch_size: int = 1
    ) -> HookedTransformerKeyValueCache:
        """An empty cache for a model of this configuration."""
        cache = cls()
        cache.shape = (batch_size, cfg.n_heads, cfg.d_head)
        return cache

    @property
    def entries(self) -> list[Entry]:
        """Each layer's keys and values."""
        return [Entry(*self.layers[layer]) for layer in sorted(self.layers)]

    @property
    def previous_attention_mask(self) -> Tensor:
        """Which of the stored tokens are real, [b k]."""
        if self.mask is not None:
            return self.mask.int()
        batch = self[0].past_keys.shape[0]
        return torch.ones(batch, self.n_tokens, dtype=torch.int)

    def __getitem__(self, layer: int) -> Entry:
        if layer in self.layers:
            return Entry(*self.layers[layer])
        batch, n_heads, d_head = self.shape
        empty = torch.zeros(batch, 0, n_heads, d_head)
        return Entry(empty, empty)

    def freeze(self) -> None:
        """From now on passes read it, and add nothing."""
        self.frozen = True

    def unfreeze(self) -> None:
        """Passes add to it again."""
        self.frozen = False

    def for_a_pass(self) -> KVCache:
        """What a pass may add to: itself, or a copy where it is frozen."""
        return KVCache(dict(self.layers), self.mask, self.whole) if self.frozen else self


# What TransformerLens calls both since its version 3.
TransformerLensKeyValueCache = HookedTransformerKeyValueCache
TransformerLensKeyValueCacheEntry = HookedTransformerKeyValueCacheEntry = Entry
