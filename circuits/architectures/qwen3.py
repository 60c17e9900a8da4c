"""Qwen 3 (Yang et al. 2025).

What differs from GPT-2 is what does in Llama (see `llama`), and:

- Each head's queries and keys are normalized (RMSNorm over the head's own numbers) before positions
  turn them. So a score is no product of what W_Q and W_K write: questions about these weights alone
  are refused, and `hook_attn_scores` has all of it.
- Heads are of a size of their own: n_heads * d_head is not d_model.
- No biases at all (Qwen 2's queries, keys and values had some).
"""

from __future__ import annotations

from typing import ClassVar

from circuits.architectures.config import DecoderConfig
from circuits.architectures.llama import HookedLlama
from circuits.architectures.qwen2 import windowed
from circuits.architectures.settings import Said


class HookedQwen3(HookedLlama):
    """A Qwen 3 that can be read and edited at every step."""

    kinds: ClassVar[tuple[str, ...]] = ("qwen3",)
    inside: ClassVar = {
        **HookedLlama.inside,
        "attn.q_norm": "self_attn.q_norm.weight",
        "attn.k_norm": "self_attn.k_norm.weight",
    }

    @classmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` describes."""
        said.require("attention_bias", False)
        return DecoderConfig(**windowed(said), use_qk_norm=True)
