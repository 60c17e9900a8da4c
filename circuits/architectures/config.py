"""The shape of a decoder that is no GPT-2, and what it computes otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from circuits.architectures.rotary import Rotary
from circuits.config import ModelConfig
from circuits.errors import CircuitsError


@dataclass(frozen=True)
class DecoderConfig(ModelConfig):
    """`ModelConfig`, and what other architectures than GPT-2 differ in.

    Attributes:
        architecture: the file of `circuits.architectures` that builds it.
        n_key_value_heads: in how many groups heads share keys and values; None: each has its own.
        positional_embedding_type: rotary (queries and keys are turned), standard (added to the
            stream), shortformer (added to what queries and keys read).
        rotary: how positions turn queries and keys.
        attn_scale: what scores are divided by; None: the root of d_head.
        embedding_scale: what a token's row of the embedding is multiplied by.
        attn_bias: whether queries, keys and values have biases.
        use_qk_norm: whether queries and keys are normalized before they are turned.
        gated_mlp: whether a gate multiplies what the neurons read.
        post_norms: whether a norm stands between a layer and the stream (Gemma 2).
        parallel: whether attention and MLP read the same stream (Pythia).
        attn_only: whether there are no MLPs.
        logits_soft_cap: the logits are this times tanh(logits / this); 0 for none.
        scores_soft_cap: the same of attention scores.
        n_weights: how many numbers it holds; the model tells.

    >>> cfg = DecoderConfig(1, 4, d_model=8, n_ctx=16, d_vocab=9, n_key_value_heads=2)
    >>> cfg.positional_embedding_type, cfg.score_scale(0)
    ('rotary', 1.4142135623730951)
    """

    tied: bool = False
    default_prepend_bos: bool = False
    act_fn: str = "silu"
    normalization_type: str = "RMS"
    architecture: str = "llama"
    n_key_value_heads: int | None = None
    positional_embedding_type: str = "rotary"
    rotary: Rotary | None = None
    attn_scale: float | None = None
    embedding_scale: float = 1.0
    attn_bias: bool = False
    use_qk_norm: bool = False
    gated_mlp: bool = True
    post_norms: bool = False
    parallel: bool = False
    attn_only: bool = False
    logits_soft_cap: float = 0.0
    scores_soft_cap: float = 0.0
    n_weights: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attn_only:
            object.__setattr__(self, "d_mlp", 0)
        if self.n_key_value_heads == self.n_heads:
            object.__setattr__(self, "n_key_value_heads", None)
        elif self.n_key_value_heads is not None:
            self._require_whole("n_key_value_heads", least=1)
            if self.n_heads % self.n_key_value_heads:
                raise CircuitsError(
                    f"n_key_value_heads={self.n_key_value_heads} does not divide "
                    f"n_heads={self.n_heads} into equal groups"
                )

    @property
    def n_groups(self) -> int:
        """How many keys and values are stored for each token."""
        return self.n_key_value_heads or self.n_heads

    @property
    def n_params(self) -> int:
        """How many numbers the model holds, shared keys and values counted once."""
        return self.n_weights

    def score_scale(self, layer: int) -> float:
        """What this layer divides the product of a query and a key by to get their score."""
        return super().score_scale(layer) if self.attn_scale is None else self.attn_scale

    def switches(self) -> dict[str, Any]:
        """What the numbers do not show, and the mathematics depend on."""
        names = (
            "architecture rotary attn_scale embedding_scale act_fn eps positional_embedding_type "
            "attn_types window_size n_key_value_heads logits_soft_cap scores_soft_cap"
        ).split()
        switches = {name: getattr(self, name) for name in names if getattr(self, name)}
        if self.rotary is not None:
            switches["rotary"] = asdict(self.rotary)
        return switches
