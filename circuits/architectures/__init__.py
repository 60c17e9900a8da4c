"""One file an architecture: its blocks, what its ``config.json`` says, what checkpoints call it.

They are read side by side; each begins with what differs from GPT-2. What several share is in
`rotary` (positions), `heads` (attention), `parts` (norms, MLPs, the unembedding) and `decoder`.
"""

from __future__ import annotations

from circuits.architectures.config import DecoderConfig
from circuits.architectures.decoder import Decoder
from circuits.architectures.gemma import HookedGemma
from circuits.architectures.gemma2 import HookedGemma2
from circuits.architectures.gpt2 import HookedGPT2
from circuits.architectures.gpt_neox import HookedGPTNeoX
from circuits.architectures.llama import HookedLlama
from circuits.architectures.parts import LayerNorm, RMSNorm
from circuits.architectures.qwen2 import HookedQwen2
from circuits.architectures.qwen3 import HookedQwen3
from circuits.architectures.rotary import Rotary
from circuits.architectures.settings import Said
from circuits.architectures.toy import HookedToy

_EVERY: tuple[type[Decoder], ...] = (
    HookedGPTNeoX,
    HookedLlama,
    HookedQwen2,
    HookedQwen3,
    HookedGemma,
    HookedGemma2,
    HookedToy,
)
# By the type that a config.json names; GPT-2 and GPT-Neo are read by `circuits.checkpoints`.
DECODERS: dict[str, type[Decoder]] = {kind: each for each in _EVERY for kind in each.kinds}

__all__ = [
    "DECODERS",
    "Decoder",
    "DecoderConfig",
    "HookedGPT2",
    "HookedGPTNeoX",
    "HookedGemma",
    "HookedGemma2",
    "HookedLlama",
    "HookedQwen2",
    "HookedQwen3",
    "HookedToy",
    "LayerNorm",
    "RMSNorm",
    "Rotary",
    "Said",
]
