"""Gemma 2 (Gemma Team 2024).

What differs from GPT-2 is what does in Gemma (see `gemma`), and:

- A second norm stands between each layer and the stream: what attention and the MLP write is
  normalized before it is added. So the stream is no sum of what heads and neurons write, and
  questions that take it apart by them are refused; whole layers still add up.
- Scores and logits have a soft cap c: c tanh(x / c), so that no score is beyond 50 and no logit
  beyond 30.
- Every other layer's queries see the last tokens only, from the first layer on.
- Scores are divided by the root of a number that the checkpoint gives, not of d_head.
"""

from __future__ import annotations

import math
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from circuits.architectures.config import DecoderConfig
from circuits.architectures.gemma import HookedGemma
from circuits.architectures.heads import GroupedAttention
from circuits.architectures.parts import GatedMLP, RMSNorm
from circuits.architectures.settings import Said
from circuits.backend import Backend
from circuits.kv_cache import Extend
from circuits.model.attention import Attention, Places
from circuits.model.block import Block
from circuits.model.norm import Norm

Stream = Float[Tensor, "b p d"]


class NormedMLP(GatedMLP):
    """A gated MLP behind which a norm stands: `plain` goes through it, the sites end before it."""

    def __init__(self, cfg: DecoderConfig, backend: Backend, norm: Norm) -> None:
        super().__init__(cfg, backend)
        self._norm = (norm,)  # in a tuple: it is a part of the block

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """What is added to the stream, without hooks."""
        return self._norm[0].plain(super().plain(x))

    def forward(self, x: Stream) -> Stream:
        """What the neurons write, before the norm."""
        return self.through_sites(x)


class NormedBlock(Block):
    """x + ln1_post(attention(ln1(x))), then x + ln2_post(mlp(ln2(x)))."""

    def __init__(self, norms: list[RMSNorm], attn: Attention, mlp: NormedMLP) -> None:
        super().__init__(norms[0], attn, norms[2], mlp)
        self.ln1_post, self.ln2_post = norms[1], norms[3]

    def forward(self, x: Stream, places: Places, past: Extend | None) -> Stream:
        """The residual stream after this block."""
        resid_pre = self.hook_resid_pre(x)
        attn_out = self.attend(resid_pre, places, past)
        resid_mid = self.hook_resid_mid(resid_pre + self.hook_attn_out(self.ln1_post(attn_out)))
        mlp_out = self.ln2_post(self.mlp(self.ln2(self.hook_mlp_in(resid_mid))))
        return self.hook_resid_post(resid_mid + self.hook_mlp_out(mlp_out))

    def plain(self, x: Stream, places: Places, past: Extend | None) -> Stream:
        """The whole step without hooks."""
        x = x + self.ln1_post.plain(self.attn.plain(self.ln1.plain(x), places, past))
        return x + self.mlp.plain(self.ln2.plain(x))


class HookedGemma2(HookedGemma):
    """A Gemma 2 that can be read and edited at every step."""

    kinds: ClassVar[tuple[str, ...]] = ("gemma2",)
    inside: ClassVar = {
        **HookedGemma.inside,
        "ln1_post.stored": "post_attention_layernorm.weight",
        "ln2.stored": "pre_feedforward_layernorm.weight",
        "ln2_post.stored": "post_feedforward_layernorm.weight",
    }

    @classmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` describes."""
        said.require("attention_bias", False)
        said.require("use_bidirectional_attention", None, False)
        kinds = ["sliding_attention", "full_attention"] * said.size("num_hidden_layers")
        windows = said.windows(kinds[: said.size("num_hidden_layers")])
        sizes = said.sizes() | {
            "attn_types": windows,
            "window_size": said.size("sliding_window") if windows else None,
            "act_fn": said.function("hidden_activation", "gelu_new"),
            "tied": said.flag("tie_word_embeddings", True),
        }
        return DecoderConfig(
            **sizes,
            attn_scale=math.sqrt(said.number("query_pre_attn_scalar", 256)),
            embedding_scale=math.sqrt(said.size("hidden_size")),
            post_norms=True,
            scores_soft_cap=said.cap("attn_logit_softcapping", 50.0),
            logits_soft_cap=said.cap("final_logit_softcapping", 30.0),
        )

    def block(self, layer: int) -> Block:
        """Attention and a gated MLP, each between two norms."""
        norms = [self.norm() for _ in range(4)]
        attn = GroupedAttention(self._cfg, layer, self.backend)
        return NormedBlock(norms, attn, NormedMLP(self._cfg, self.backend, norms[3]))
