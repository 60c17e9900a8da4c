"""Classes of other architectures: names that imports and ``isinstance`` find, and nothing more.

Code for several architectures names them all, and runs a GPT-2 through none of them.
"""

from __future__ import annotations

from typing import Any

from circuits.errors import CircuitsError

COMPONENTS = (
    "BertBlock",
    "BertEmbed",
    "BertMLMHead",
    "BertNSPHead",
    "BertPooler",
    "GatedMLP",
    "GroupedQueryAttention",
    "MoE",
    "RMSNorm",
    "RMSNormPre",
    "T5Attention",
    "T5Block",
    "TokenTypeEmbed",
)
MODELS = (
    "BertNextSentencePrediction",
    "HookedAudioEncoder",
    "HookedEncoder",
    "HookedEncoderDecoder",
)


class Elsewhere:
    """A class that nothing here is an instance of."""

    def __init__(self, *given: Any, **options: Any) -> None:
        raise CircuitsError(
            f"{type(self).__name__} is part of another architecture, and only GPT-2-family models "
            "can be built here; transformer_lens itself has it, and circuits.adapt takes its models"
        )

    @classmethod
    def from_pretrained(cls, *given: Any, **options: Any) -> Any:
        """The same error."""
        return cls(*given, **options)


CLASSES = {name: type(name, (Elsewhere,), {}) for name in (*COMPONENTS, *MODELS)}
