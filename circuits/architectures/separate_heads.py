"""Attention whose matrices stand head by head, as TransformerLens keeps them.

Shapes: b batch, p position, h head; d = d_model, e = d_head.
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from circuits.architectures.config import DecoderConfig
from circuits.kv_cache import Extend
from circuits.model.attention import Attention, PerHead, Places

Stream = Float[Tensor, "b p d"]


class SeparateHeads(Attention):
    """Attention whose matrices stand head by head."""

    W_Q: nn.Parameter
    W_K: nn.Parameter
    W_V: nn.Parameter
    W_O: nn.Parameter
    b_Q: nn.Parameter
    b_K: nn.Parameter
    b_V: nn.Parameter
    b_O: nn.Parameter

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__(cfg.d_head)
        h, d, e = cfg.n_heads, cfg.d_model, cfg.d_head
        for slot in "QKV":
            self.register_parameter(f"W_{slot}", nn.Parameter(torch.zeros(h, d, e)))
            self.register_parameter(f"b_{slot}", nn.Parameter(torch.zeros(h, e)))
        self.W_O, self.b_O = nn.Parameter(torch.zeros(h, e, d)), nn.Parameter(torch.zeros(d))

    def qkv(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 3 h e"]:
        """x W + b, by head."""
        W = torch.stack((self.W_Q, self.W_K, self.W_V))
        b = torch.stack((self.b_Q, self.b_K, self.b_V))
        return einsum(x, W, "... d, three h d e -> ... three h e") + b

    def out(self, z: Float[Tensor, "*any h e"]) -> Float[Tensor, "*any d"]:
        """z W_O + b_O, summed over heads."""
        return einsum(z, self.W_O, "... h e, h e d -> ... d") + self.b_O


class ShortformerHeads(SeparateHeads):
    """The same with a position's vector in what queries and keys read."""

    def __init__(self, cfg: DecoderConfig, W_pos: nn.Parameter) -> None:
        super().__init__(cfg)
        self.W_pos = W_pos  # the model's, the same in every layer

    def read(self, x: Stream, places: Places) -> tuple[PerHead, PerHead, PerHead]:
        """Queries and keys of the stream and its positions, and values of the stream."""
        q, k, _ = self.qkv(x + self.W_pos[places.queries]).unbind(-3)
        return q, k, self.qkv(x)[..., 2, :, :]

    def forward_split(
        self, inputs: tuple[Tensor, Tensor, Tensor], places: Places, past: Extend | None
    ) -> Stream:
        """The same with an input of its own for each head's query, key and value."""
        at = self.W_pos[places.queries].unsqueeze(-2)
        q, k, v = inputs
        return super().forward_split((q + at, k + at, v), places, past)
