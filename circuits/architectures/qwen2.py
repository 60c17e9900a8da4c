"""Qwen 2 and 2.5 (Yang et al. 2024).

What differs from GPT-2 is what does in Llama (see `llama`: rotary positions, RMSNorm, gated MLP,
heads in groups), and:

- Queries, keys and values have biases, as GPT-2's; nothing else has.
- Positions turn more slowly, by a base of a million, for longer texts.
- The small ones share their embedding with the unembedding.
- A text begins without a start token.
"""

from __future__ import annotations

from typing import Any, ClassVar

from circuits.architectures.config import DecoderConfig
from circuits.architectures.llama import HookedLlama
from circuits.architectures.settings import Said


class HookedQwen2(HookedLlama):
    """A Qwen 2 that can be read and edited at every step."""

    kinds: ClassVar[tuple[str, ...]] = ("qwen2",)
    inside: ClassVar = {
        **HookedLlama.inside,
        "attn.q_bias": "self_attn.q_proj.bias",
        "attn.k_bias": "self_attn.k_proj.bias",
        "attn.v_bias": "self_attn.v_proj.bias",
    }

    @classmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` describes."""
        return DecoderConfig(**windowed(said), attn_bias=True)


def windowed(said: Said) -> dict[str, Any]:
    """The sizes of a Qwen, whose later layers see the last tokens only where it says so."""
    sizes = said.sizes()
    if not said.flag("use_sliding_window", False):
        return sizes | {"attn_types": None, "window_size": None}
    first = said.size("max_window_layers", 28)
    types = ["full_attention"] * first + ["sliding_attention"] * sizes["n_layers"]
    windows = said.windows(types[: sizes["n_layers"]])
    size = said.size("sliding_window") if windows else None
    return sizes | {"attn_types": windows, "window_size": size}
