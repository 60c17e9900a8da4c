"""What a ``config.json`` of Hugging Face says about a decoder, read entry by entry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from circuits.architectures.rotary import Rotary
from circuits.config import ACTIVATIONS, AttnType
from circuits.errors import CheckpointError, brief

# Functions of `ACTIVATIONS` that transformers has under other names, too.
_SAME_FUNCTION = {"gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu", "swish": "silu"}
_SIDES = {"yarn": ("beta_slow", 1.0, "beta_fast", 32.0)}
_LLAMA3_SIDES = ("low_freq_factor", 1.0, "high_freq_factor", 4.0)


class Said:
    """The entries of a configuration; `origin` says in errors where it was."""

    def __init__(self, config: Mapping[str, Any], origin: str, name: str) -> None:
        self.config, self.origin, self.name = config, origin, name

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1.

        Raises:
            CheckpointError: where it is something else, or is not there and has no default.
        """
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(name, value, "a whole number of at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number of at least 0.

        Raises:
            CheckpointError: where it is something else, or is not there and has no default.
        """
        value = self._given(name, default)
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not 0 <= value < math.inf:
            raise self._wrong(name, value, "a number of at least 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            CheckpointError: where it is something else.
        """
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def cap(self, name: str, default: float) -> float:
        """A soft cap; 0 for none, which a file says with null."""
        return 0.0 if self.config.get(name, default) is None else self.number(name, default)

    def require(self, name: str, *allowed: object) -> None:
        """Refuse an option that changes the mathematics; not to give it is always allowed.

        Raises:
            CheckpointError: naming what can be loaded.
        """
        value = self.config.get(name, allowed[0])
        if value not in allowed:
            raise CheckpointError(
                f"{self.origin} sets {name}={brief(value)}; only "
                f"{' or '.join(map(repr, allowed))} can be loaded"
            )

    def function(self, name: str, default: str) -> str:
        """An activation function, by our name.

        Raises:
            CheckpointError: for one that cannot be computed.
        """
        value = self._given(name, default)
        ours = _SAME_FUNCTION.get(str(value), value)
        if ours not in ACTIVATIONS:
            raise self._wrong(name, value, ", ".join([*ACTIVATIONS, *_SAME_FUNCTION]))
        return str(ours)

    def windows(self, default: Sequence[str] | None = None) -> tuple[AttnType, ...] | None:
        """Which layers see the last tokens only; None where none does.

        `default` is what the type of model does where ``layer_types`` does not say it.

        Raises:
            CheckpointError: for layers of another kind.
        """
        kinds = {"full_attention": "global", "sliding_attention": "local"}
        types = self.config.get("layer_types") or default
        if types is None or not self.config.get("sliding_window"):
            return None
        if odd := [kind for kind in types if kind not in kinds]:
            raise self._wrong("layer_types", odd[0], " or ".join(kinds))
        ours = tuple(cast(AttnType, kinds[kind]) for kind in types)
        return ours if "local" in ours else None

    def rotary(self, d_head: int, *, share: float = 1.0, base: float = 10_000.0) -> Rotary:
        """How positions turn queries and keys; `share` and `base` hold where it is not said.

        Raises:
            CheckpointError: for a kind of scaling that cannot be computed.
        """
        rope = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise self._wrong("rope_parameters", rope, "a JSON object")
        inner = Said(rope, f"rope_parameters of {self.origin}", self.name)
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        dims = int(d_head * inner.number("partial_rotary_factor", share))
        n_ctx = self.size("max_position_embeddings", 2048)
        theta = inner.number("rope_theta", self.number("rope_theta", base))
        if kind not in ("linear", "llama3", "yarn"):  # `Rotary` refuses those that it does not know
            return Rotary(dims, theta, kind)
        factor = inner.number("factor")
        if kind == "linear":
            return Rotary(dims, theta, kind, factor)
        low, low_default, high, high_default = _SIDES.get(kind, _LLAMA3_SIDES)
        return Rotary(
            dims,
            theta,
            kind,
            factor,
            inner.number(low, low_default),
            inner.number(high, high_default),
            inner.size("original_max_position_embeddings", n_ctx),
            _amplitude(inner, factor) if kind == "yarn" else 1.0,
        )

    def sizes(self) -> dict[str, Any]:
        """What all types with a gated MLP call alike, as arguments of `DecoderConfig`."""
        n_heads, d_model = self.size("num_attention_heads"), self.size("hidden_size")
        d_head = self.size("head_dim", None if d_model % n_heads else d_model // n_heads)
        windows = self.windows()
        return {
            "n_layers": self.size("num_hidden_layers"),
            "n_heads": n_heads,
            "d_model": d_model,
            "n_ctx": self.size("max_position_embeddings", 2048),
            "d_vocab": self.size("vocab_size"),
            "d_head": d_head,
            "d_mlp": self.size("intermediate_size"),
            "eps": self.number("rms_norm_eps", 1e-6),
            "tied": self.flag("tie_word_embeddings", False),
            "model_name": self.name,
            "act_fn": self.function("hidden_act", "silu"),
            "attn_types": windows,
            "window_size": self.size("sliding_window") if windows else None,
            "n_key_value_heads": self.size("num_key_value_heads", n_heads),
            "rotary": self.rotary(d_head),
        }

    def _given(self, name: str, default: object) -> Any:
        value = self.config.get(name)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{self.origin} does not say {name}, and nothing else does")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.origin} sets {name}={brief(value)}; it should be {wanted}")


def _amplitude(rope: Said, factor: float) -> float:
    """What YaRN multiplies queries and keys by."""

    def of(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.config.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if rope.config.get("mscale") and rope.config.get("mscale_all_dim"):
        return of(rope.number("mscale")) / of(rope.number("mscale_all_dim"))
    return of(1.0)
