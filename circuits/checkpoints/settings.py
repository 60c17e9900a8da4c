"""What a ``config.json`` of Hugging Face says about a GPT-2, under any name of a setting.

``transformers`` ignores entries that it does not know and takes GPT-2 small's value for what is
then missing. Heads cannot be counted in the weights, so a missing number of heads would go
unnoticed; here it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.architectures import DECODERS
from circuits.config import ACTIVATIONS
from circuits.errors import CheckpointError, brief

# Options of GPT2Config that change the mathematics, and the values that leave it GPT-2's.
_ALLOWED: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
# Functions of `ACTIVATIONS` that transformers has under other names, too.
_SAME_FUNCTION = {
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python": "gelu",
    "swish": "silu",
}
# What GPT2Config calls its settings, where it has a second name for them (its attribute_map).
_SECOND_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
}
# The first release's name of the context; transformers no longer reads it, so the others go first.
_FORMER_NAMES = {"n_positions": "n_ctx"}
# What other libraries call them. GPT2Config does not know these names.
_FOREIGN = {
    "n_layer": "n_layers num_layers num_hidden_layer nlayer nlayers",
    "n_head": "n_heads num_heads num_head nhead nheads heads attention_heads n_attention_heads "
    "num_attention_head",
    "n_embd": "d_model n_embed embed_dim embedding_dim emb_dim hidden_dim dim",
    "n_positions": "block_size max_seq_len seq_len context_length",
    "n_inner": "d_mlp d_ff d_inner ffn_dim intermediate_size",
    "vocab_size": "d_vocab n_vocab vocabulary_size",
    "layer_norm_epsilon": "layer_norm_eps layernorm_epsilon norm_eps norm_epsilon ln_eps epsilon "
    "eps",
    "activation_function": "hidden_act hidden_activation activation act_fn",
    "tie_word_embeddings": "tie_embeddings weight_tying tied",
}
_SMALL_WIDTH = 768  # GPT-2 small's; only at this width may the number of heads be left out (12)


@dataclass(frozen=True)
class Settings:
    """The settings of a GPT2Config under its own names, each given or GPT-2 small's."""

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    n_inner: int | None  # None: four times n_embd
    layer_norm_epsilon: float
    activation_function: str  # one of `ACTIVATIONS`
    tie_word_embeddings: bool
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    head_dim: int | None  # this package's own: for heads that do not divide the width


def read_settings(config: Mapping[str, Any], origin: str) -> Settings:
    """The settings that this ``config.json`` makes; `origin` says in errors where it was.

    Either name that GPT2Config has for a setting counts; ``n_ctx`` counts where neither of the
    context's is given, as in the first release. Absent ones are GPT-2 small's, as in
    ``transformers``, except the number of heads at another width.

    Raises:
        CheckpointError: for another architecture, an option that changes GPT-2's mathematics, two
            names that disagree, a value of a wrong type, a setting given under a name of other
            libraries alone, and no number of heads.
    """
    _require_gpt2(config, origin)
    read = _Reader(config, origin)
    n_embd = read("n_embd", _want_size, _SMALL_WIDTH)
    return Settings(
        n_layer=read("n_layer", _want_size, 12),
        n_head=read("n_head", _want_size, 12 if n_embd == _SMALL_WIDTH else None),
        n_embd=n_embd,
        n_positions=read("n_positions", _want_size, 1024),
        vocab_size=read("vocab_size", _want_size, 50257),
        n_inner=read("n_inner", _want_size_or_none, 4 * n_embd),
        layer_norm_epsilon=read("layer_norm_epsilon", _want_number, 1e-5),
        activation_function=_function(read("activation_function", _want_text, "gelu_new"), origin),
        tie_word_embeddings=read("tie_word_embeddings", _want_truth, True),
        scale_attn_weights=read("scale_attn_weights", _want_truth, True),
        scale_attn_by_inverse_layer_idx=read("scale_attn_by_inverse_layer_idx", _want_truth, False),
        head_dim=read("head_dim", _want_size_or_none, 0) or None,
    )


def _require_gpt2(config: Mapping[str, Any], origin: str) -> None:
    kind = config.get("model_type", _first_kind(config))
    if kind != "gpt2":
        raise CheckpointError(
            f"{origin} is a model of type {brief(kind)}; those that can be loaded are "
            f"{', '.join(['gpt2', 'gpt_neo', *DECODERS])}"
        )
    for option, allowed in _ALLOWED.items():
        if config.get(option, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{origin} sets {option}={brief(config[option])}, which is not GPT-2's "
                "mathematics; "
                f"only {' or '.join(map(repr, allowed))} can be loaded"
            )


def _first_kind(config: Mapping[str, Any]) -> str | None:
    """The type of a ``config.json`` of 2019, which names the class of the model alone."""
    classes = config.get("architectures")
    is_gpt2 = isinstance(classes, list) and any(str(name).startswith("GPT2") for name in classes)
    return "gpt2" if is_gpt2 else None


def _function(name: str, origin: str) -> str:
    """The name that this package has for an activation function."""
    ours = _SAME_FUNCTION.get(name, name)
    if ours not in ACTIVATIONS:
        known = [*ACTIVATIONS, *_SAME_FUNCTION]
        raise CheckpointError(
            f"{origin} sets activation_function={brief(name)}; those that can be computed are "
            f"{', '.join(known)}"
        )
    return ours


def _want_size(value: object) -> str | None:
    """What is wanted instead of this value; None if it is a size. So below for other types."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return None
    return "a whole number of at least 1"


def _want_size_or_none(value: object) -> str | None:
    is_good = value is None or not _want_size(value)
    return None if is_good else "a whole number of at least 1, or null"


def _want_number(value: object) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return None
    return "a number of at least 0"


def _want_text(value: object) -> str | None:
    return None if isinstance(value, str) else "a text"


def _want_truth(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


class _Reader:
    """Reads one setting after the other, by all names it may have."""

    def __init__(self, config: Mapping[str, Any], origin: str) -> None:
        self._config, self._origin = config, origin

    def __call__(self, name: str, want: Callable[[object], str | None], default: Any) -> Any:
        """The setting, or the default; a default of None means that it has to be given."""
        names = [given for given in self._names(name) if given in self._config]
        for given in names:
            if wanted := want(self._config[given]):
                raise CheckpointError(
                    f"{self._origin} sets {given}={brief(self._config[given])}; it has to be "
                    f"{wanted}"
                )
        values = [self._config[given] for given in names]
        if not values:
            return self._absent(name, default)
        if values[0] != values[-1]:
            raise CheckpointError(
                f"{self._origin} sets {names[0]}={brief(values[0])} and "
                f"{names[1]}={brief(values[1])}, two names of one setting; which is right cannot "
                "be told: remove the wrong one"
            )
        return values[0]

    def _names(self, name: str) -> list[str]:
        """The names by which it may be given; a former one counts where no other is used."""
        names = [name, _SECOND_NAMES[name]] if name in _SECOND_NAMES else [name]
        if name in _FORMER_NAMES and not self._config.keys() & names:
            return [_FORMER_NAMES[name]]
        return names

    def _absent(self, name: str, default: Any) -> Any:
        """The default; an error if there is none, or the setting has a name of other libraries."""
        names = " or ".join([name, _SECOND_NAMES[name]] if name in _SECOND_NAMES else [name])
        for foreign in _FOREIGN.get(name, "").split():
            value = self._config.get(foreign)
            if value is not None and value != default:
                raise CheckpointError(
                    f"{self._origin} sets {foreign}={brief(value)}, a name that GPT-2's "
                    f"configuration does not have, and no {names}; call it {name}"
                )
        if default is None:
            raise CheckpointError(
                f"{self._origin} has no {names}, and the weights cannot show how many heads there "
                f"are; add {name} to config.json"
            )
        return default
