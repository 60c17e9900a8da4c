"""Gemma (Gemma Team 2024).

What differs from GPT-2 is what does in Llama (see `llama`: rotary positions, RMSNorm, no biases,
heads in groups, in the smallest a single one), and:

- What a token puts into the stream is its row of the embedding times the root of d_model. The
  unembedding is the embedding itself, not scaled: W_E and W_U are no transposes of each other.
- Checkpoints store a norm's weight less 1.
- The gate is a GELU, by its tanh form: (gelu(x W_gate) * x W_in) W_out.
- Heads are wide: n_heads * d_head is more than d_model.
"""

from __future__ import annotations

import math
from typing import ClassVar

from circuits.architectures.config import DecoderConfig
from circuits.architectures.llama import HookedLlama
from circuits.architectures.parts import RMSNorm
from circuits.architectures.settings import Said


class HookedGemma(HookedLlama):
    """A Gemma that can be read and edited at every step."""

    kinds: ClassVar[tuple[str, ...]] = ("gemma",)

    @classmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` describes.

        Early ones say ``gelu`` and mean its tanh form, as ``hidden_activation`` does.
        """
        said.require("attention_bias", False)
        tied = said.flag("tie_word_embeddings", True)
        scale = math.sqrt(said.size("hidden_size"))
        sizes = said.sizes() | {"act_fn": "gelu_new", "tied": tied}
        return DecoderConfig(**sizes, embedding_scale=scale)

    def norm(self) -> RMSNorm:
        """A new norm of the stream, whose weight is stored less 1."""
        return RMSNorm(self._cfg.eps, self._cfg.d_model, offset=1.0)
