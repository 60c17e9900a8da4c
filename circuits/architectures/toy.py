"""Small models in TransformerLens' own format, such as Neel Nanda's attn-only-2l and gelu-2l.

What differs from GPT-2:

- Some have no MLPs: every layer is attention alone, so that what a model does is written in its QK
  and OV matrices (Elhage et al. 2021).
- The older ones place tokens as Shortformer does (Press et al. 2021): a position's vector is added
  to what queries and keys read, in every layer, and never to the stream or to values.
- The nonlinearity is the exact GELU.
- The unembedding is a matrix of its own, with a bias.
- Each head's matrices stand by themselves, as W_Q [head, d_model, d_head]. SoLU, which has a norm
  inside of its MLPs, cannot be loaded.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.architectures.config import DecoderConfig
from circuits.architectures.decoder import Decoder
from circuits.architectures.gpt2 import GPT2MLP
from circuits.architectures.parts import LayerNorm
from circuits.architectures.separate_heads import SeparateHeads, ShortformerHeads
from circuits.architectures.settings import Said
from circuits.hooks import HookPoint
from circuits.kv_cache import Extend
from circuits.model.attention import Places
from circuits.model.block import Block, Unembed
from circuits.model.transformer import Visit

Stream = Float[Tensor, "b p d"]


class AttentionBlock(Block):
    """x + attention(ln1(x))."""

    def forward(self, x: Stream, places: Places, past: Extend | None) -> Stream:
        """The residual stream after this block."""
        resid_pre = self.hook_resid_pre(x)
        attn_out = self.attend(resid_pre, places, past)
        return self.hook_resid_post(resid_pre + self.hook_attn_out(attn_out))

    def plain(self, x: Stream, places: Places, past: Extend | None) -> Stream:
        """The whole step without hooks."""
        return x + self.attn.plain(self.ln1.plain(x), places, past)


class ToyUnembed(Unembed):
    """x W_U + b_U"""

    W_U: nn.Parameter
    b_U: nn.Parameter

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_vocab))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any v"]:
        """Logits, without hooks."""
        return x @ self.W_U + self.b_U


class HookedToy(Decoder):
    """A small model of TransformerLens' format that can be read and edited at every step."""

    kinds: ClassVar[tuple[str, ...]] = ("transformer_lens",)
    layer: ClassVar[str] = "blocks.{}."
    outside: ClassVar = {
        "embedding": "embed.W_E",
        "positions": "pos_embed.W_pos",
        "unembed.W_U": "unembed.W_U",
        "unembed.b_U": "unembed.b_U",
        "ln_final.w": "ln_final.w",
        "ln_final.b": "ln_final.b",
    }
    inside: ClassVar = {
        **{f"{norm}.{each}": f"{norm}.{each}" for norm in ("ln1", "ln2") for each in "wb"},
        **{f"attn.{kind}_{slot}": f"attn.{kind}_{slot}" for kind in "Wb" for slot in "QKVO"},
        **{f"mlp.{kind}_{end}": f"mlp.{kind}_{end}" for kind in "Wb" for end in ("in", "out")},
    }

    positions: nn.Parameter

    def begin(self) -> None:
        """Positions, which are known before the blocks that may read them."""
        self.positions = nn.Parameter(torch.zeros(self._cfg.n_ctx, self._cfg.d_model))
        if self._cfg.positional_embedding_type == "standard":
            self.hook_pos_embed = HookPoint()  # [b p d]

    @classmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` of TransformerLens describes."""
        said.require("final_rms", False)
        for name in ("normalization", "normalization_type"):
            said.require(name, "LN")
        said.require("positional_embedding_type", "standard", "shortformer")
        short = said.config.get("positional_embedding_type") == "shortformer"
        short = short or bool(said.config.get("shortformer_pos"))
        attn_only = said.flag("attn_only", False)
        return DecoderConfig(
            n_layers=said.size("n_layers"),
            n_heads=said.size("n_heads"),
            d_model=said.size("d_model"),
            n_ctx=said.size("n_ctx"),
            d_vocab=said.size("d_vocab"),
            d_head=said.size("d_head"),
            d_mlp=0 if attn_only else said.size("d_mlp"),
            eps=said.number("eps", 1e-5),
            model_name=said.name,
            act_fn="gelu" if attn_only else said.function("act_fn", "gelu"),
            normalization_type="LN",
            positional_embedding_type="shortformer" if short else "standard",
            gated_mlp=False,
            attn_only=attn_only,
        )

    @property
    def W_pos(self) -> Tensor:
        """[p d], what each position puts into the stream.

        Raises:
            CircuitsError: where positions do not enter the stream.
        """
        standard = self._cfg.positional_embedding_type == "standard"
        return self.positions if standard else super().W_pos

    def norm(self) -> LayerNorm:
        """A new norm of the stream."""
        return LayerNorm(self._cfg)

    def block(self, layer: int) -> Block:
        """Attention, and an MLP where there is one."""
        short = self._cfg.positional_embedding_type == "shortformer"
        attn = ShortformerHeads(self._cfg, self.positions) if short else SeparateHeads(self._cfg)
        if self._cfg.attn_only:
            return AttentionBlock(self.norm(), attn)
        return Block(self.norm(), attn, self.norm(), GPT2MLP(self._cfg, self.backend))

    def end(self) -> Unembed:
        """A new unembedding."""
        return ToyUnembed(self._cfg)

    def tie(self) -> None:
        """Let every layer read the model's positions again, after these were exchanged."""
        for block in self.blocks:
            if isinstance(block.attn, ShortformerHeads):
                block.attn.W_pos = self.positions

    def embed(self, tokens: Tensor, where: slice | Tensor, visit: Visit) -> Stream:
        """W_E[token] + W_pos[position], or the first alone."""
        embed = super().embed(tokens, where, visit)
        if self._cfg.positional_embedding_type != "standard":
            return embed
        return embed + visit("hook_pos_embed", self.positions[where].expand(*tokens.shape, -1))
