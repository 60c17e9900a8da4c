"""Attention: which positions a head reads from (QK) and what it moves (OV), every step hooked.

Shapes: b batch, p position, q query, k key, h head, d = d_model, e = d_head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from circuits.config import ModelConfig
from circuits.factored import FactoredMatrix
from circuits.hooks import HookPoint
from circuits.linear import Pack, linear

PerHead = Float[Tensor, "b p h e"]
KeyValue = tuple[Float[Tensor, "b k h e"], Float[Tensor, "b k h e"]]  # of one layer


def mix(q: PerHead, k: PerHead, v: PerHead, mask: Tensor | None = None) -> PerHead:
    """What do heads mix together? z [b q h e], by torch's fused attention.

    `mask` [q k] (or [b 1 q k]) says which keys a query sees; None is the causal one of as many
    queries as keys.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [b h p e]
    attention = F.scaled_dot_product_attention
    if mask is None and q.shape[2] > 1:
        return attention(q, k, v, is_causal=True).transpose(1, 2)
    return attention(q, k, v, mask).transpose(1, 2)


class Attention(nn.Module):
    """Each head moves information between positions: which (QK) and what (OV).

    The checkpoint's one matrix for queries, keys and values is kept as it is, so that loading
    copies nothing and a forward pass needs one product; `W_Q` and its siblings are views of it.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.d_head = cfg.n_heads, cfg.d_head
        inner = cfg.n_heads * cfg.d_head
        self.W_QKV = nn.Parameter(torch.empty(cfg.d_model, 3 * inner))
        self.b_QKV = nn.Parameter(torch.zeros(3 * inner))
        self.W_O_flat = nn.Parameter(torch.empty(inner, cfg.d_model))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        self.pack_qkv, self.pack_out = Pack(), Pack()
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()  # [b p h e]
        self.hook_attn_scores = HookPoint()  # [b h q k], scaled and masked
        self.hook_pattern = HookPoint()  # [b h q k]
        self.hook_z = HookPoint()  # [b q h e]
        self.hook_result = HookPoint()  # [b q h d]

    def _weight(self, i: int) -> Tensor:
        """Q, K or V (i = 0, 1, 2) as [h d e], a view of W_QKV."""
        return rearrange(self.W_QKV, "d (three h e) -> three h d e", three=3, e=self.d_head)[i]

    def _bias(self, i: int) -> Tensor:
        return rearrange(self.b_QKV, "(three h e) -> three h e", three=3, e=self.d_head)[i]

    W_Q = property(lambda self: self._weight(0), doc="[h d e]")
    W_K = property(lambda self: self._weight(1), doc="[h d e]")
    W_V = property(lambda self: self._weight(2), doc="[h d e]")
    b_Q = property(lambda self: self._bias(0), doc="[h e]")
    b_K = property(lambda self: self._bias(1), doc="[h e]")
    b_V = property(lambda self: self._bias(2), doc="[h e]")

    @property
    def W_O(self) -> Tensor:
        """[h e d], a view"""
        return rearrange(self.W_O_flat, "(h e) d -> h e d", h=self.n_heads)

    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="[h d d], what it moves")
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="[h d d], what it seeks")

    def forward(
        self, x: Float[Tensor, "b q d"], mask: Tensor | None, past: KeyValue | None
    ) -> tuple[Float[Tensor, "b q d"], KeyValue]:
        """What the heads write, b_O included, and the keys and values of all positions so far."""
        q, k, v = self.qkv(x).unbind(-3)
        return self.attend(q, k, v, mask, past)

    def qkv(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 3 h e"]:
        """Queries, keys and values, without hooks, for any leading axes."""
        qkv = linear(x, self.W_QKV, self.b_QKV, self.pack_qkv)
        return qkv.view(*x.shape[:-1], 3, self.n_heads, self.d_head)

    def out(self, z: Float[Tensor, "*any h e"]) -> Float[Tensor, "*any d"]:
        """What all heads together write, b_O included, without hooks, for any leading axes."""
        return linear(z.flatten(-2), self.W_O_flat, self.b_O, self.pack_out)

    def forward_split(
        self,
        inputs: tuple[Tensor, Tensor, Tensor],  # each [b p h d]
        mask: Tensor | None,
        past: KeyValue | None,
    ) -> tuple[Float[Tensor, "b q d"], KeyValue]:
        """The same with an input of its own for each head's query, key and value."""
        q, k, v = (
            einsum(x, self._weight(i), "b p h d, h d e -> b p h e") + self._bias(i)
            for i, x in enumerate(inputs)
        )
        return self.attend(q, k, v, mask, past)

    def attend(
        self, q: PerHead, k: PerHead, v: PerHead, mask: Tensor | None, past: KeyValue | None
    ) -> tuple[Float[Tensor, "b q d"], KeyValue]:
        """Mix the values by the pattern, and write the mixture to the residual stream."""
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)  # [b p h e]
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        if self.hook_attn_scores.watched or self.hook_pattern.watched:
            z = self._explicit(q, k, v, mask)
        else:
            z = mix(q, k, v, mask)
        z = self.hook_z(z)  # [b q h e]
        if self.hook_result.watched:
            result = self.hook_result(einsum(z, self.W_O, "b q h e, h e d -> b q h d"))
            return result.sum(2) + self.b_O, (k, v)
        return self.out(z), (k, v)

    def _explicit(self, q: PerHead, k: PerHead, v: PerHead, mask: Tensor | None) -> PerHead:
        scores = einsum(q / math.sqrt(self.d_head), k, "b q h e, b k h e -> b h q k")
        if mask is None:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
            mask = mask.tril(scores.shape[-1] - scores.shape[-2])
        # Adding -inf costs half of masked_fill, whose backward pass is a second pass over scores.
        masked = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
        scores = self.hook_attn_scores(scores + masked)
        pattern = self.hook_pattern(scores.softmax(-1))
        return einsum(pattern, v, "b h q k, b k h e -> b q h e")
