"""The shape of a GPT-2, and the four sizes that OpenAI released."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from circuits.errors import CircuitsError

if TYPE_CHECKING:
    import torch


# The environment variable that names the model which is meant where none is named.
MODEL_VARIABLE = "CIRCUITS_MODEL"
# What neurons do to what they read; `circuits.architectures.parts` has them. The first is GPT-2's,
# the second the exact one, which nanoGPT uses.
ActFn = Literal["gelu_new", "gelu", "gelu_fast", "quick_gelu", "relu", "silu"]
ACTIVATIONS: tuple[str, ...] = get_args(ActFn)
AttnType = Literal["global", "local"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT-2.

    The field names are those of ``HookedTransformer.cfg``, so ``model.cfg.n_heads`` reads the same
    in both libraries. ``device`` and ``dtype`` say where and in which precision the weights are;
    the model keeps them current, they take no part in comparisons.

    Raises:
        CircuitsError: when a size is not a positive whole number, or eps is no number.

    >>> ModelConfig(n_layers=2, n_heads=4, d_model=32, n_ctx=16, d_vocab=50).d_head
    8
    """

    n_layers: int
    n_heads: int
    d_model: int
    n_ctx: int
    d_vocab: int
    d_head: int = 0  # 0: d_model / n_heads
    d_mlp: int = 0  # 0: 4 * d_model
    eps: float = 1e-5
    tied: bool = True  # the unembedding is the transposed token embedding
    model_name: str = "gpt2"
    default_prepend_bos: bool = True
    act_fn: str = "gelu_new"  # one of `ACTIVATIONS`
    normalization_type: str = "LN"
    # Switches that some checkpoints of GPT-2's shape set (Stanford's, GPT-Neo's).
    use_attn_scale: bool = True  # scores are divided by the root of d_head
    scale_attn_by_inverse_layer_idx: bool = False  # and by the layer's number, from 1 on
    attn_types: tuple[AttnType, ...] | None = None  # of each layer; None: all are global
    window_size: int | None = None  # how many tokens a local layer sees, its own included
    device: torch.device | None = field(default=None, compare=False)
    dtype: torch.dtype | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "n_ctx", "d_vocab"):
            self._require_whole(name, least=1)
        for name in ("d_head", "d_mlp"):
            self._require_whole(name, least=0)
        is_real = isinstance(self.eps, int | float) and not isinstance(self.eps, bool)
        if not is_real or not 0 <= self.eps < math.inf:
            raise CircuitsError(f"eps={self.eps!r}: LayerNorm adds a number of at least 0")
        if not isinstance(self.tied, bool):
            raise CircuitsError(f"tied={self.tied!r}: choose True or False")
        if not self.d_head:
            if self.d_model % self.n_heads:
                raise CircuitsError(
                    f"d_model={self.d_model} does not divide into n_heads={self.n_heads} equal "
                    "heads; choose n_heads that divides d_model, or give d_head"
                )
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        if not self.d_mlp:
            object.__setattr__(self, "d_mlp", 4 * self.d_model)
        if self.act_fn not in ACTIVATIONS:
            raise CircuitsError(
                f"act_fn={self.act_fn!r}: choose {' or '.join(map(repr, ACTIVATIONS))}"
            )
        self._require_windows()

    def _require_whole(self, name: str, *, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CircuitsError(
                f"{name}={value!r}: a model needs a whole number of at least {least}"
            )

    def _require_windows(self) -> None:
        types = self.attn_types
        if types is None:
            return
        if len(types) != self.n_layers or {*types} - {*get_args(AttnType)}:
            raise CircuitsError(
                f"attn_types={types!r}: give 'global' or 'local' for each of the "
                f"{self.n_layers} layers"
            )
        if "local" in types:
            self._require_whole("window_size", least=1)

    def score_scale(self, layer: int) -> float:
        """What this layer divides the product of a query and a key by to get their score.

        >>> GPT2_SIZES["gpt2"].score_scale(3)
        8.0
        """
        scale = math.sqrt(self.d_head) if self.use_attn_scale else 1.0
        return scale * (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def window(self, layer: int) -> int | None:
        """How many tokens a query of this layer sees, its own included; None: all before it."""
        is_local = self.attn_types is not None and self.attn_types[layer] == "local"
        return self.window_size if is_local else None

    @property
    def architecture(self) -> str:
        """Which file of `circuits.architectures` computes it."""
        return "gpt2"

    @property
    def n_key_value_heads(self) -> int | None:
        """In how many groups heads share keys and values; None: GPT-2's have their own."""
        return None

    @property
    def positional_embedding_type(self) -> str:
        """How positions enter the model: GPT-2 adds a vector for each to the stream."""
        return "standard"

    @property
    def gated_mlp(self) -> bool:
        """Whether a gate multiplies what neurons read; GPT-2 has none."""
        return False

    @property
    def post_norms(self) -> bool:
        """Whether what a layer writes is normalized before it is added; not in GPT-2."""
        return False

    @property
    def scores_soft_cap(self) -> float:
        """The number that attention scores cannot exceed; 0: GPT-2's have no cap."""
        return 0.0

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP read the same stream; not in GPT-2."""
        return False

    @property
    def has_middle(self) -> bool:
        """Whether there is a stream between attention and MLP, which the MLP reads."""
        return not (self.parallel or self.attn_only)

    @property
    def attn_only(self) -> bool:
        """Whether there are no MLPs."""
        return False

    @property
    def keeps_keys(self) -> bool:
        """Whether a pass can continue from the keys and values of an earlier one."""
        return True

    @property
    def n_params(self) -> int:
        """How many numbers the checkpoint holds, with tied weights counted once.

        >>> GPT2_SIZES["gpt2"].n_params
        124439808
        """
        attn = 4 * self.d_model * self.n_heads * self.d_head
        attn += 3 * self.n_heads * self.d_head + self.d_model
        mlp = 2 * self.d_model * self.d_mlp + self.d_mlp + self.d_model
        block = attn + mlp + 4 * self.d_model
        embed = (self.d_vocab + self.n_ctx) * self.d_model
        unembed = 0 if self.tied else (self.d_model + 1) * self.d_vocab
        return embed + self.n_layers * block + 2 * self.d_model + unembed


def _gpt2(name: str, n_layers: int, n_heads: int, d_model: int) -> ModelConfig:
    return ModelConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        n_ctx=1024,
        d_vocab=50257,
        model_name=name,
        # OpenAI trained without a token at the start; the field prepends one all the same.
    )


GPT2_SIZES: dict[str, ModelConfig] = {
    "gpt2": _gpt2("gpt2", 12, 12, 768),
    "gpt2-medium": _gpt2("gpt2-medium", 24, 16, 1024),
    "gpt2-large": _gpt2("gpt2-large", 36, 20, 1280),
    "gpt2-xl": _gpt2("gpt2-xl", 48, 25, 1600),
}

# What OpenAI's own script, and picoGPT, call the four sizes.
OPENAI_NAMES = {
    "124M": "gpt2",
    "355M": "gpt2-medium",
    "774M": "gpt2-large",
    "1558M": "gpt2-xl",
}
