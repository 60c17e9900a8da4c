"""Attention with rotary positions, and heads that share keys and values.

Shapes: b batch, p position, h head, g group of heads; d = d_model, e = d_head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from circuits.architectures.config import DecoderConfig
from circuits.backend import Backend
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.model.attention import Attention, PerHead, Places
from circuits.model.views import view


class RotaryAttention(Attention):
    """Attention whose queries and keys are turned by their positions.

    `hook_q` and `hook_k` are before that, `hook_rot_q` and `hook_rot_k` after. With a soft cap c a
    score is c tanh(score / c). A subclass has the weights.
    """

    def __init__(self, cfg: DecoderConfig, layer: int) -> None:
        super().__init__(cfg.d_head, scale=cfg.score_scale(layer), window=cfg.window(layer))
        if cfg.rotary is None:
            raise CircuitsError(f"{cfg.model_name}: give rotary=Rotary(dims=...)")
        self.rotary, self.cap = cfg.rotary, cfg.scores_soft_cap
        self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()  # [b p h e]

    def placed(self, x: PerHead, slot: int, positions: Tensor) -> PerHead:
        """Turned by their positions."""
        return self.rotary.turned(x, positions)

    @property
    def watched(self) -> bool:
        """Whether a site is watched that only the explicit way passes."""
        return super().watched or self.hook_rot_q.watched or self.hook_rot_k.watched

    def place(self, q: PerHead, k: PerHead, places: Places) -> tuple[PerHead, PerHead]:
        """The same by way of sites."""
        q, k = super().place(q, k, places)
        return self.hook_rot_q(q), self.hook_rot_k(k)

    def scores(self, q: PerHead, k: PerHead) -> Float[Tensor, "b h q k"]:
        """How well queries match keys, before the mask."""
        scores = super().scores(q, k)
        return self.cap * torch.tanh(scores / self.cap) if self.cap else scores

    def mix(self, q: PerHead, k: PerHead, v: PerHead, places: Places) -> PerHead:
        """What heads mix together, z [b q h e]: no fused attention has a cap."""
        if not self.cap:
            return super().mix(q, k, v, places)
        q, k = self.placed(q, 0, places.queries), self.placed(k, 1, places.keys)
        pattern = self.masked_scores(q, k, places).softmax(-1)
        return einsum(pattern, v, "b h q k, b k h e -> b q h e")


class GroupedAttention(RotaryAttention):
    """Heads in groups, each with keys and values of its own: one group a head, or fewer.

    Keys and values are stored once a group, and shown once a head. `attn_bias` gives queries, keys
    and values biases, `use_qk_norm` normalizes queries and keys before they are turned; the output
    has no bias.
    """

    q_norm: nn.Parameter | None  # [e]
    k_norm: nn.Parameter | None  # [e]

    def __init__(self, cfg: DecoderConfig, layer: int, backend: Backend) -> None:
        super().__init__(cfg, layer)
        self.backend, self.n_heads, self.n_groups = backend, cfg.n_heads, cfg.n_groups
        sizes = {"q": cfg.n_heads, "k": cfg.n_groups, "v": cfg.n_groups}
        for slot, n in sizes.items():
            rows = nn.Parameter(torch.zeros(n * cfg.d_head, cfg.d_model))
            self.register_parameter(f"{slot}_rows", rows)
            bias = nn.Parameter(torch.zeros(n * cfg.d_head)) if cfg.attn_bias else None
            self.register_parameter(f"{slot}_bias", bias)
        self.o_rows = nn.Parameter(torch.zeros(cfg.d_model, cfg.n_heads * cfg.d_head))
        self.eps = cfg.eps
        for slot in "qk":
            weight = nn.Parameter(torch.ones(cfg.d_head)) if cfg.use_qk_norm else None
            self.register_parameter(f"{slot}_norm", weight)

    def _weight(self, slot: str) -> Tensor:
        """One slot's matrices by head: a view, or a copy where heads share them."""
        rows: Tensor = getattr(self, f"{slot}_rows")
        weight = rearrange(rows, "(g e) d -> g d e", e=self.d_head)
        return view(weight) if len(weight) == self.n_heads else self._shown(weight)

    def _bias(self, slot: str) -> Tensor:
        bias: Tensor | None = getattr(self, f"{slot}_bias")
        if bias is None:
            return self.o_rows.new_zeros(self.n_heads, self.d_head)
        return self._shown(rearrange(bias, "(g e) -> g e", e=self.d_head))

    def _shown(self, by_group: Tensor) -> Tensor:
        return by_group.repeat_interleave(self.n_heads // len(by_group), 0)

    W_Q = property(lambda self: self._weight("q"), doc="[h d e]")
    W_K = property(lambda self: self._weight("k"), doc="[h d e]")
    W_V = property(lambda self: self._weight("v"), doc="[h d e]")
    b_Q = property(lambda self: self._bias("q"), doc="[h e]")
    b_K = property(lambda self: self._bias("k"), doc="[h e]")
    b_V = property(lambda self: self._bias("v"), doc="[h e]")
    b_O = property(lambda self: torch.zeros_like(self.o_rows[:, 0]), doc="[d], zeros")

    @property
    def W_O(self) -> Tensor:
        """[h e d], a view"""
        return view(rearrange(self.o_rows, "d (h e) -> h e d", h=self.n_heads))

    def qkv(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 3 h e"]:
        """Queries, and keys and values once for each head that shares them."""
        every = []
        for slot in "qkv":
            rows: Tensor = getattr(self, f"{slot}_rows")
            flat = self.backend.linear(x, rows.T, getattr(self, f"{slot}_bias"))
            n = self.n_heads * self.d_head // len(rows)
            every.append(repeat(flat, "... (g e) -> ... (g n) e", e=self.d_head, n=n))
        return torch.stack(every, -3)

    def placed(self, x: PerHead, slot: int, positions: Tensor) -> PerHead:
        """Normalized, where they are, and turned by their positions."""
        norm = self.k_norm if slot else self.q_norm
        if norm is not None:
            x = F.rms_norm(x, (self.d_head,), norm, self.eps)
        return super().placed(x, slot, positions)

    def out(self, z: Float[Tensor, "*any h e"]) -> Float[Tensor, "*any d"]:
        """z W_O, summed over heads."""
        return self.backend.linear(z.flatten(-2), self.o_rows.T, None)
