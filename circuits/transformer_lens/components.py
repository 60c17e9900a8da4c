"""The parts of a `HookedTransformer`: the package's steps, with TransformerLens' parameters.

Every matrix is a parameter of its own, [head, d_model, d_head] for queries, keys and values. They
are stored so that a pass needs no copy of them; after ``W_Q.data = x`` the pass copies, and is
right all the same.

Shapes: b batch, p position, h head; d = d_model, e = d_head, v = d_vocab.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circuits.backend import Backend
from circuits.batch import causal_mask
from circuits.generation import KeyValue
from circuits.model import Attention as HouseAttention
from circuits.model import Block as HouseBlock
from circuits.model import Places, Visit
from circuits.model import Unembed as HouseUnembed
from circuits.model.gpt2 import GPT2MLP, GPT2Attention, LayerNorm
from circuits.transformer_lens.config import HookedTransformerConfig


class Embed(nn.Module):
    """W_E[token]; and, as the package's pass calls it, what enters the first block."""

    def __init__(self, cfg: HookedTransformerConfig, pos_embed: PosEmbed) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_E = nn.Parameter(torch.zeros(cfg.d_vocab, cfg.d_model))
        self._positions = (pos_embed,)  # in a tuple: it is no part of this module

    def forward(self, tokens: Tensor, where: Any = None, visit: Visit | None = None) -> Tensor:
        """[b p d]"""
        embed = F.embedding(tokens, self.W_E)
        if visit is None:
            return embed
        positions = self._positions[0].at(where, tokens)
        return visit("hook_embed", embed) + visit("hook_pos_embed", positions)


class PosEmbed(nn.Module):
    """W_pos[position]; zero at padding."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
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

    def __init__(self, cfg: HookedTransformerConfig, backend: Backend) -> None:
        super().__init__()
        self.cfg, self.backend = cfg, backend
        self.W_U = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_vocab))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))

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

    def __init__(self, cfg: HookedTransformerConfig, backend: Backend, layer: int) -> None:
        super().__init__(cfg.d_head, scale=cfg.score_scale(layer))
        self.cfg, self.layer_id, self.n_heads, self.backend = cfg, layer, cfg.n_heads, backend
        self.window, self.attn_scale = cfg.window(layer), cfg.score_scale(layer)
        self.attn_type = "local" if self.window else "global"
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

    def _read(self, x: Tensor, letter: str) -> Tensor:
        """Queries, keys or values [b p h e] of [b p d], or of a stream for each head [b p h d]."""
        W: Tensor = getattr(self, f"W_{letter}")
        b: Tensor = getattr(self, f"b_{letter}")
        if x.ndim == 4:
            return torch.einsum("bphd,hde->bphe", x, W) + b
        flat: Tensor = self.backend.linear(x, W.permute(1, 0, 2).flatten(1), b.flatten())
        return flat.view(*x.shape[:-1], self.n_heads, self.d_head)

    def qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values of what attention reads: [.. 3 h e]."""
        return torch.stack([self._read(x, letter) for letter in "QKV"], -3)

    def sight(self, places: Places) -> Tensor | None:
        """The mask of the keys that a query sees: in a local layer, those within the window."""
        return GPT2Attention.sight(cast(GPT2Attention, self), places)

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

        The package's pass gives `Places` and earlier keys and values instead of the last two, and
        gets the keys and values as well.
        """
        if isinstance(key_input, Places):
            q, k, v = (self._read(query_input, letter) for letter in "QKV")
            return self.attend(q, k, v, key_input, cast("KeyValue | None", value_input))
        key_input = query_input if key_input is None else key_input
        value_input = query_input if value_input is None else value_input
        inputs = zip((query_input, key_input, value_input), "QKV", strict=True)
        q, k, v = (self._read(x, letter) for x, letter in inputs)
        return self.attend(q, k, v, _places(query_input, attention_mask), None)[0]


class Block(HouseBlock):
    """A block of these parts."""

    attn: Attention
    mlp: GPT2MLP
    ln1: LayerNorm
    ln2: LayerNorm

    def __init__(self, cfg: HookedTransformerConfig, backend: Backend, layer: int) -> None:
        norm1, norm2 = layer_norm(cfg), layer_norm(cfg)
        # The norms first, then the rest: the order of TransformerLens' parameters.
        super().__init__(norm1, Attention(cfg, backend, layer), norm2, GPT2MLP(cfg, backend))
        attn = self._modules.pop("attn")
        mlp = self._modules.pop("mlp")
        self.attn, self.mlp = cast(Attention, attn), cast(GPT2MLP, mlp)
        self.cfg = vars(self.mlp)["cfg"] = cfg

    def forward(
        self, x: Tensor, places: Places | None = None, past: Any = None, **options: Any
    ) -> Any:
        """The stream after this block [b p d]; with `Places`, its keys and values, too."""
        if places is not None:
            return super().forward(x, places, past)
        return super().forward(x, _places(x, options.get("attention_mask")), None)[0]


def layer_norm(cfg: HookedTransformerConfig) -> LayerNorm:
    """A LayerNorm; where its weights are folded (``LNPre``), they are constants."""
    norm = LayerNorm(cfg)
    vars(norm)["cfg"] = cfg
    if cfg.normalization_type == "LNPre":
        freeze(norm)
    return norm


def freeze(norm: LayerNorm) -> None:
    """Make w = 1 and b = 0 constants that no list of parameters and no file has."""
    for name, fill in (("w", torch.ones_like), ("b", torch.zeros_like)):
        weight = norm._parameters.pop(name, None)
        if weight is not None:
            norm.register_buffer(name, fill(weight.detach()), persistent=False)


def _places(x: Tensor, attention_mask: Tensor | None) -> Places:
    places = Places.causal(x.shape[1], x.device)
    if attention_mask is None:
        return places
    real = attention_mask.bool()
    return Places(places.queries, places.keys, causal_mask(x.shape[1], x.shape[1], real, x.device))
