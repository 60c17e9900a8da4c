"""Attention: which positions a head reads from (QK) and what it moves (OV), every step hooked.

Shapes: b batch, p position, q query, k key, h head, d = d_model, e = d_head.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from circuits.factored import FactoredMatrix
from circuits.hooks import HookPoint
from circuits.kv_cache import Extend

if TYPE_CHECKING:
    from circuits.model.contract import AttentionWeights
else:  # a protocol's members would stand in the way of parameters of the same names
    AttentionWeights = ABC

ALL = slice(None)
PerHead = Float[Tensor, "b p h e"]


@dataclass(frozen=True, eq=False)
class Places:
    """Where queries and keys stand in their prompts, and which keys a query sees.

    `queries` [q] or [b q] and `keys` [k] or [b k] are positions. `mask` [q k] or [b 1 q k] is True
    where a query sees a key; None is the causal mask of as many queries as keys.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None = None

    @classmethod
    def causal(cls, n: int, device: torch.device) -> Places:
        """Prompts of n positions without padding before them: every query sees what is earlier."""
        positions = torch.arange(n, device=device)
        return cls(positions, positions)


def mix(
    q: PerHead, k: PerHead, v: PerHead, mask: Tensor | None = None, scale: float | None = None
) -> PerHead:
    """What heads mix together, z [b q h e], by torch's fused attention. `mask` is that of `Places`.

    Scores are divided by `scale`, by the root of d_head if it is None.

    >>> ones = torch.ones(1, 2, 1, 1)
    >>> mix(ones, ones, torch.tensor([2.0, 4.0]).view(1, 2, 1, 1)).flatten()
    tensor([2., 3.])
    """
    return mix_by_head(q, k, v, mask, scale).transpose(1, 2)


def mix_by_head(
    q: PerHead, k: PerHead, v: PerHead, mask: Tensor | None, scale: float | None
) -> Float[Tensor, "b h q e"]:
    """The same, head by head."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [b h p e]
    factor = None if scale is None else 1 / scale
    if mask is None and q.shape[2] > 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=factor)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=factor)


class Attention(nn.Module, AttentionWeights):
    """Each head moves information between positions: which (QK) and what (OV).

    An architecture gives the weights by head, and the steps `qkv` and `out`; `placed` where queries
    and keys depend on positions, `scores` where they are more than products. Heads that share keys
    and values each show them.
    """

    def __init__(
        self, d_head: int, *, scale: float | None = None, window: int | None = None
    ) -> None:
        super().__init__()
        self.d_head = d_head
        self.scale = scale  # what scores are divided by; None: the root of d_head
        self.window = window  # how many tokens a query sees, its own included; None: all before it
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()  # [b p h e]
        self.hook_attn_scores = HookPoint()  # [b h q k], scaled and masked
        self.hook_pattern = HookPoint()  # [b h q k]
        self.hook_z = HookPoint()  # [b q h e]
        self.hook_result = HookPoint()  # [b q h d]

    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="[h d d], what it moves")
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="[h d d], what it seeks")

    @abstractmethod
    def qkv(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 3 h e"]:
        """Queries, keys and values of what attention reads, for any leading axes."""

    def placed(self, x: PerHead, slot: int, positions: Tensor) -> PerHead:
        """Queries (slot 0) or keys (1) as they are multiplied, at positions [p] or [b p]."""
        return x

    @abstractmethod
    def out(self, z: Float[Tensor, "*any h e"]) -> Float[Tensor, "*any d"]:
        """What all heads together write, b_O included, for any leading axes."""

    def sight(self, places: Places) -> Tensor | None:
        """The mask of the keys that a query sees, as in `Places`: those within the window."""
        n_query, n_key = places.queries.shape[-1], places.keys.shape[-1]
        if self.window is None or n_key <= self.window:
            return places.mask
        distance = places.queries[..., :, None] - places.keys[..., None, :]
        near = distance < self.window  # [q k], or [b q k]
        near = near if near.ndim == 2 else near.unsqueeze(1)
        if places.mask is not None:
            return places.mask & near
        return near & torch.ones_like(near).tril(n_key - n_query)

    def mix(self, q: PerHead, k: PerHead, v: PerHead, places: Places) -> PerHead:
        """What heads mix together, z [b q h e], without hooks; of some of the heads, if given."""
        q, k = self.placed(q, 0, places.queries), self.placed(k, 1, places.keys)
        return mix(q, k, v, self.sight(places), self.scale)

    def forward(
        self, x: Float[Tensor, "b q d"], places: Places, past: Extend | None
    ) -> Float[Tensor, "b q d"]:
        """What the heads write, b_O included. `past` stores keys and values if they are kept."""
        return self.attend(*self.read(x, places), places, past)

    def read(self, x: Float[Tensor, "b p d"], places: Places) -> tuple[PerHead, PerHead, PerHead]:
        """Queries, keys and values of what attention reads."""
        q, k, v = self.qkv(x).unbind(-3)
        return q, k, v

    def plain(
        self, x: Float[Tensor, "b q d"], places: Places, past: Extend | None
    ) -> Float[Tensor, "b q d"]:
        """The whole step without hooks."""
        q, k, v = self.read(x, places)
        if past is not None:
            k, v = past(k, v)
        return self.out(self.mix(q, k, v, places))

    def forward_split(
        self,
        inputs: tuple[Tensor, Tensor, Tensor],  # each [b p h d]
        places: Places,
        past: Extend | None,
    ) -> Float[Tensor, "b q d"]:
        """The same with an input of its own for each head's query, key and value."""
        q, k, v = (
            rearrange(
                self.project(slot, rearrange(x, "b p h d -> h (b p) d")),
                "h (b p) e -> b p h e",
                b=len(x),
            )
            for slot, x in enumerate(inputs)
        )
        return self.attend(q, k, v, places, past)

    def project(
        self, slot: int, inputs: Float[Tensor, "h n d"], heads: list[int] | slice = ALL
    ) -> Float[Tensor, "h n e"]:
        """Queries (slot 0), keys (1) or values (2) of these heads, each of an input of its own."""
        weight = (self.W_Q, self.W_K, self.W_V)[slot][heads]
        bias = (self.b_Q, self.b_K, self.b_V)[slot][heads]
        return torch.bmm(inputs, weight) + bias.unsqueeze(1)

    def attend(
        self, q: PerHead, k: PerHead, v: PerHead, places: Places, past: Extend | None
    ) -> Float[Tensor, "b q d"]:
        """Mix the values by the pattern, and write the mixture to the residual stream."""
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)  # [b p h e]
        if past is not None:
            k, v = past(k, v)  # of all positions so far
        z = self._mix_explicitly(q, k, v, places) if self.watched else self.mix(q, k, v, places)
        z = self.hook_z(z)  # [b q h e]
        if self.hook_result.watched:
            result = self.hook_result(einsum(z, self.W_O, "b q h e, h e d -> b q h d"))
            return result.sum(2) + self.b_O
        return self.out(z)

    @property
    def watched(self) -> bool:
        """Whether a site is watched that only the explicit way passes."""
        return self.hook_attn_scores.watched or self.hook_pattern.watched

    def place(self, q: PerHead, k: PerHead, places: Places) -> tuple[PerHead, PerHead]:
        """Queries and keys as they are multiplied, by way of sites if they have any."""
        return self.placed(q, 0, places.queries), self.placed(k, 1, places.keys)

    def scores(self, q: PerHead, k: PerHead) -> Float[Tensor, "b h q k"]:
        """How well queries match keys, before the mask."""
        scale = math.sqrt(self.d_head) if self.scale is None else self.scale
        return einsum(q / scale, k, "b q h e, b k h e -> b h q k")

    def masked_scores(self, q: PerHead, k: PerHead, places: Places) -> Float[Tensor, "b h q k"]:
        """The same of queries and keys as they are multiplied, -inf where a query sees no key."""
        scores, mask = self.scores(q, k), self.sight(places)
        if mask is None:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
            mask = mask.tril(scores.shape[-1] - scores.shape[-2])
        # Adding -inf costs half of masked_fill, whose backward pass is a second pass over scores.
        return scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)

    def _mix_explicitly(self, q: PerHead, k: PerHead, v: PerHead, places: Places) -> PerHead:
        """The same as `mix`, by way of scores and pattern."""
        q, k = self.place(q, k, places)
        scores = self.hook_attn_scores(self.masked_scores(q, k, places))
        pattern = self.hook_pattern(scores.softmax(-1))
        return einsum(pattern, v, "b h q k, b k h e -> b q h e")
