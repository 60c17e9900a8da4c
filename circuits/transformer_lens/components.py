"""The parts of a `HookedTransformer`: the package's steps, with TransformerLens' parameters.

Every matrix is a parameter of its own, [head, d_model, d_head] for queries, keys and values. They
are stored so that a pass needs no copy of them; after ``W_Q.data = x`` the pass copies, and is
right all the same.

Shapes: b batch, p position, h head; d = d_model, e = d_head, v = d_vocab.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circuits.architectures import LayerNorm as HouseLayerNorm
from circuits.architectures.gpt2 import GPT2MLP
from circuits.backend import Backend
from circuits.batch import causal_mask
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint as HousePoint
from circuits.kv_cache import Extend
from circuits.model import Attention as HouseAttention
from circuits.model import Block as HouseBlock
from circuits.model import Places, Visit
from circuits.model import Unembed as HouseUnembed
from circuits.transformer_lens.config import HookedTransformerConfig
from circuits.transformer_lens.hook_points import HookPoint

Config = HookedTransformerConfig | Mapping[str, Any]


class Embed(nn.Module):
    """W_E[token]; and, as the package's pass calls it, what enters the first block."""

    def __init__(self, cfg: Config, pos_embed: PosEmbed | None = None) -> None:
        super().__init__()
        self.cfg = cfg = HookedTransformerConfig.unwrap(cfg)
        self.W_E = nn.Parameter(torch.zeros(cfg.d_vocab, cfg.d_model))
        self._positions = (pos_embed,)  # in a tuple: it is no part of this module

    def forward(self, tokens: Tensor, where: Any = None, visit: Visit | None = None) -> Tensor:
        """[b p d]"""
        embed = F.embedding(tokens, self.W_E)
        pos_embed = self._positions[0]
        if visit is None or pos_embed is None:
            return embed
        positions = pos_embed.at(where, tokens)
        return visit("hook_embed", embed) + visit("hook_pos_embed", positions)


class PosEmbed(nn.Module):
    """W_pos[position]; zero at padding."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg = HookedTransformerConfig.unwrap(cfg)
        self.W_pos = nn.Parameter(torch.zeros(cfg.n_ctx, cfg.d_model))
        self.padding: Tensor | None = None  # [b p] of the pass that is going on

    def at(self, where: slice | Tensor, tokens: Tensor) -> Tensor:
        """[b p d] at these positions: the same for all prompts, or [b p]."""
        embed = self.W_pos[where].expand(*tokens.shape, -1)
        real = self.padding
        if real is None or real.shape != tokens.shape:
            return embed
        return torch.where(real.unsqueeze(-1), embed, torch.zeros_like(embed))

    def forward(
        self, tokens: Tensor, past_kv_pos_offset: int = 0, attention_mask: Tensor | None = None
    ) -> Tensor:
        """[b p d] of these tokens, after so many earlier ones."""
        n, past = tokens.shape[-1], past_kv_pos_offset
        if attention_mask is None:
            return self.W_pos[past : past + n].expand(*tokens.shape, -1).clone()
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, past : past + n]
        real = attention_mask[:, past : past + n].bool().unsqueeze(-1)
        return torch.where(real, self.W_pos[positions], 0)


class Unembed(HouseUnembed):
    """x W_U + b_U."""

    W_U: nn.Parameter
    b_U: nn.Parameter

    def __init__(self, cfg: Config, backend: Backend | None = None) -> None:
        super().__init__()
        self.cfg = cfg = HookedTransformerConfig.unwrap(cfg)
        self.backend = backend or Backend()
        self.W_U = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_vocab))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))
        hookable(self)

    def plain(self, x: Tensor) -> Tensor:
        """Logits [.. v] of [.. d], without hooks."""
        return self.backend.linear(x, self.W_U, self.b_U)


class Attention(HouseAttention):
    """Attention with a parameter for each matrix."""

    W_Q: nn.Parameter
    W_K: nn.Parameter
    W_V: nn.Parameter
    W_O: nn.Parameter
    b_Q: nn.Parameter
    b_K: nn.Parameter
    b_V: nn.Parameter
    b_O: nn.Parameter

    def __init__(
        self,
        cfg: Config,
        attn_type: str | None = None,
        layer_id: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        cfg, layer = HookedTransformerConfig.unwrap(cfg), layer_id or 0
        super().__init__(cfg.d_head, scale=cfg.score_scale(layer))
        self.cfg, self.layer_id, self.n_heads = cfg, layer_id, cfg.n_heads
        self.backend = backend or Backend()
        self.window, self.attn_scale = cfg.window(layer), cfg.score_scale(layer)
        self.attn_type = "local" if self.window else "global"
        if attn_type not in (None, self.attn_type):
            raise CircuitsError(
                f"attn_type={attn_type!r}, and the configuration makes layer {layer} "
                f"{self.attn_type!r}; it says so with use_local_attn, attn_types and window_size"
            )
        h, d, e = cfg.n_heads, cfg.d_model, cfg.d_head

        def reading() -> nn.Parameter:
            return nn.Parameter(torch.zeros(d, h, e).permute(1, 0, 2))

        # In TransformerLens' order, in which a seed draws the weights.
        self.W_Q, self.W_O = reading(), nn.Parameter(torch.zeros(h, e, d))
        self.b_Q, self.b_O = nn.Parameter(torch.zeros(h, e)), nn.Parameter(torch.zeros(d))
        self.W_K, self.W_V = reading(), reading()
        self.b_K, self.b_V = nn.Parameter(torch.zeros(h, e)), nn.Parameter(torch.zeros(h, e))
        mask = torch.ones(cfg.n_ctx, cfg.n_ctx, dtype=torch.bool).tril()
        if self.window is not None:
            mask = mask.triu(1 - self.window)
        self.register_buffer("mask", mask)
        self.register_buffer("IGNORE", torch.tensor(-torch.inf))
        hookable(self)

    def _read(self, x: Tensor, letter: str) -> Tensor:
        """Queries, keys or values [b p h e] of [b p d], or of a stream for each head [b p h d]."""
        W: Tensor = getattr(self, f"W_{letter}")
        b: Tensor = getattr(self, f"b_{letter}")
        if x.ndim == 4:
            return torch.einsum("bphd,hde->bphe", x, W) + b
        flat: Tensor = self.backend.linear(x, W.permute(1, 0, 2).flatten(1), b.flatten())
        return flat.view(*x.shape[:-1], self.n_heads, self.d_head)

    def read(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of what attention reads: [b p h e] each."""
        return self._read(x, "Q"), self._read(x, "K"), self._read(x, "V")

    def qkv(self, x: Tensor) -> Tensor:
        """The same for any leading axes: [.. 3 h e]."""
        return torch.stack([self._read(x, letter) for letter in "QKV"], -3)

    def out(self, z: Tensor) -> Tensor:
        """z W_O + b_O, summed over heads: [.. d] of [.. h e]."""
        return self.backend.linear(z.flatten(-2), self.W_O.flatten(0, 1), self.b_O)

    def forward(
        self,
        query_input: Tensor,
        key_input: Any = None,
        value_input: Any = None,
        attention_mask: Tensor | None = None,
    ) -> Any:
        """What the heads write [b p d], given what queries, keys and values read.

        The package's pass gives `Places` and what stores keys and values instead of the last two.
        """
        if isinstance(key_input, Places):
            q, k, v = self.read(query_input, key_input)
            return self.attend(q, k, v, key_input, cast("Extend | None", value_input))
        key_input = query_input if key_input is None else key_input
        value_input = query_input if value_input is None else value_input
        inputs = zip((query_input, key_input, value_input), "QKV", strict=True)
        q, k, v = (self._read(x, letter) for x, letter in inputs)
        return self.attend(q, k, v, _places(query_input, attention_mask), None)


class MLP(GPT2MLP):
    """act(x W_in + b_in) W_out + b_out."""

    def __init__(self, cfg: Config, backend: Backend | None = None) -> None:
        cfg = HookedTransformerConfig.unwrap(cfg)
        super().__init__(cfg, backend or Backend())
        vars(self)["cfg"] = cfg
        hookable(self)


class LayerNorm(HouseLayerNorm):
    """(x - mean) / scale * w + b."""

    def __init__(self, cfg: Config, length: int | None = None) -> None:
        cfg = HookedTransformerConfig.unwrap(cfg)
        super().__init__(cfg)
        if length is not None:
            self.w, self.b = nn.Parameter(torch.ones(length)), nn.Parameter(torch.zeros(length))
        vars(self)["cfg"] = cfg
        hookable(self)


class LayerNormPre(LayerNorm):
    """(x - mean) / scale, where the weights are folded into what reads it."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        freeze(self)


class TransformerBlock(HouseBlock):
    """A block of these parts."""

    attn: Attention
    mlp: MLP
    ln1: LayerNorm
    ln2: LayerNorm

    def __init__(self, cfg: Config, block_index: int, backend: Backend | None = None) -> None:
        cfg, backend = HookedTransformerConfig.unwrap(cfg), backend or Backend()
        norm1, norm2 = layer_norm(cfg), layer_norm(cfg)
        # The norms first, then the rest: the order of TransformerLens' parameters.
        attn, mlp = Attention(cfg, layer_id=block_index, backend=backend), MLP(cfg, backend)
        super().__init__(norm1, attn, norm2, mlp)
        del self._modules["attn"], self._modules["mlp"]
        self.attn, self.mlp = attn, mlp
        self.cfg = cfg
        hookable(self)

    def forward(
        self, x: Tensor, places: Places | None = None, past: Any = None, **options: Any
    ) -> Any:
        """The stream after this block [b p d]."""
        if places is not None:
            return super().forward(x, places, past)
        return super().forward(x, _places(x, options.get("attention_mask")), None)


AbstractAttention = Attention


def layer_norm(cfg: HookedTransformerConfig) -> LayerNorm:
    """A LayerNorm; where its weights are folded (``LNPre``), they are constants."""
    return (LayerNormPre if cfg.normalization_type == "LNPre" else LayerNorm)(cfg)


def freeze(norm: LayerNorm) -> None:
    """Make it a `LayerNormPre`: w = 1 and b = 0 are constants that no list or file has."""
    norm.__class__ = LayerNormPre
    for name, fill in (("w", torch.ones_like), ("b", torch.zeros_like)):
        weight = norm._parameters.pop(name, None)
        if weight is not None:
            norm.register_buffer(name, fill(weight.detach()), persistent=False)


def hookable(module: nn.Module) -> None:
    """Put TransformerLens' hook points where the package's own are."""
    for part in list(module.modules()):
        for name, value in list(vars(part).items()):
            if isinstance(value, HousePoint):
                setattr(part, name, HookPoint())


def _places(x: Tensor, attention_mask: Tensor | None) -> Places:
    places = Places.causal(x.shape[1], x.device)
    if attention_mask is None:
        return places
    real = attention_mask.bool()
    return Places(places.queries, places.keys, causal_mask(x.shape[1], x.shape[1], real, x.device))
