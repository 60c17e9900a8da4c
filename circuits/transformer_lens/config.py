"""`HookedTransformerConfig`: the shape of a model, with TransformerLens' names, and settable.

It is a `ModelConfig`, so the package's functions read it as any other. What belongs to another
architecture is an error that says so, when the configuration is made.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from circuits.config import ACTIVATIONS, ModelConfig
from circuits.errors import CircuitsError, nearest

# Settings of TransformerLens with their defaults, besides the sizes.
_SETTINGS: dict[str, Any] = {
    "model_name": "custom",
    "act_fn": "relu",
    "eps": 1e-5,
    "normalization_type": "LN",
    "default_prepend_bos": True,
    "tied": False,  # every weight is a parameter of its own here
    "dtype": torch.float32,
    "use_attn_result": False,
    "use_split_qkv_input": False,
    "use_hook_mlp_in": False,
    "use_attn_in": False,
    "use_hook_tokens": False,
    "use_attn_scale": True,
    "attn_scale": -1.0,
    "scale_attn_by_inverse_layer_idx": False,
    "use_local_attn": False,
    "attn_types": None,
    "window_size": None,
    "ungroup_grouped_query_attention": False,
    "original_architecture": None,
    "from_checkpoint": False,
    "checkpoint_index": None,
    "checkpoint_label_type": None,
    "checkpoint_value": None,
    "tokenizer_name": None,
    "tokenizer_prepends_bos": None,
    "init_mode": "gpt2",
    "init_weights": True,
    "initializer_range": -1.0,
    "seed": None,
    "d_vocab_out": -1,
    "rotary_dim": None,
    "trust_remote_code": False,
    "tie_word_embeddings": False,
    "train_seq_length": None,
    "layer_norm_folding": False,
    "load_in_4bit": False,
    "quantization_method": None,
    "rotary_base": 10000,
}
# What is GPT-2's mathematics; another value is another architecture.
_FIXED: dict[str, tuple[Any, ...]] = {
    "positional_embedding_type": ("standard",),
    "n_key_value_heads": (None,),
    "attn_only": (False,),
    "gated_mlp": (False,),
    "uses_rms_norm": (False,),
    "final_rms": (False,),
    "num_experts": (None,),
    "experts_per_token": (None,),
    "parallel_attn_mlp": (False,),
    "post_embedding_ln": (False,),
    "attention_dir": ("causal",),
    "n_devices": (1,),
    "use_qk_norm": (False,),
    "clip_qkv": (None,),
    "use_logn_attn": (False,),
    "use_attention_sinks": (False,),
    "use_normalization_before_and_after": (False,),
    "attn_scores_soft_cap": (-1.0, 0.0, None),
    "output_logits_soft_cap": (-1.0, 0.0, None),
    "use_yarn_rope": (False,),
    "use_NTK_by_parts_rope": (False,),
    "use_dynamic_ntk_rope": (False,),
    "relative_attention_max_distance": (None,),
    "relative_attention_num_buckets": (None,),
    "decoder_start_token_id": (None,),
}
_ACT_FN = {"gelu_pytorch_tanh": "gelu_new"}  # other names of the same function
_UNUSED = ("rotary_", "yarn_", "NTK_", "norm_topk_prob")  # settings of what is fixed above


class HookedTransformerConfig(ModelConfig):
    """The shape of a GPT-2, as ``HookedTransformerConfig`` says it.

    Flags such as `use_attn_result` may be set at any time: their sites always exist here, and the
    flags only say what caches keep, and predicates meet, by default.

    >>> cfg = HookedTransformerConfig(d_model=8, d_head=4, n_layers=1, n_ctx=16, d_vocab=9)
    >>> cfg.use_attn_result = True
    >>> cfg.n_heads, cfg.d_mlp, HookedTransformerConfig.from_dict(cfg.to_dict()).use_attn_result
    (2, 32, True)

    Raises:
        CircuitsError: for a setting of another architecture, or that nobody knows.
    """

    def __init__(
        self,
        d_model: int,
        d_head: int = 0,
        n_layers: int = 0,
        n_ctx: int = 0,
        n_heads: int = -1,
        d_mlp: int | None = None,
        d_vocab: int = -1,
        device: Any = None,
        **settings: Any,
    ) -> None:
        put = vars(self).update
        fixed = {name: values[0] for name, values in _FIXED.items()}
        put(_SETTINGS | fixed | {name: self._checked(name, settings[name]) for name in settings})
        head = d_head or d_model // max(n_heads, 1)
        put({"d_model": d_model, "d_head": head, "n_layers": n_layers, "n_ctx": n_ctx})
        put({"n_heads": d_model // head if n_heads in (-1, None) else n_heads})
        put({"d_mlp": 4 * d_model if d_mlp in (None, 0) else d_mlp, "d_vocab": d_vocab})
        put({"device": torch.device("cpu" if device is None else device)})
        self._complete()
        if self.seed is not None:
            self.set_seed_everywhere(self.seed)

    def _checked(self, name: str, value: Any) -> Any:
        if name in _FIXED:
            wanted = _FIXED[name]
            grouped = name == "n_key_value_heads"
            if value not in wanted and not grouped:
                raise CircuitsError(
                    f"{name}={value!r} is no GPT-2's mathematics, and only GPT-2-family models "
                    f"(with {name}={wanted[0]!r}) can be built here"
                )
            return value
        if name not in _SETTINGS and not name.startswith(_UNUSED) and name != "n_params":
            known = {*_SETTINGS, *_FIXED}
            raise CircuitsError(f"a model has no setting {name!r}{nearest(name, known)}")
        return value

    def _complete(self) -> None:
        """Fill in what follows from other settings, and refuse what cannot be built."""
        put = vars(self).update
        put({"act_fn": _ACT_FN.get(self.act_fn, self.act_fn)})
        put({"dtype": _dtype(self.dtype)})
        if vars(self)["n_key_value_heads"] not in (None, self.n_heads):
            raise CircuitsError(
                f"n_key_value_heads={vars(self)['n_key_value_heads']}: heads that share keys and "
                "values are no GPT-2's, and only GPT-2-family models can be built here"
            )
        put({"n_key_value_heads": None})
        if self.act_fn not in ACTIVATIONS:
            raise CircuitsError(
                f"act_fn={self.act_fn!r}: choose {' or '.join(map(repr, ACTIVATIONS))}"
            )
        if self.normalization_type not in ("LN", "LNPre"):
            raise CircuitsError(
                f"normalization_type={self.normalization_type!r}: a GPT-2 has LayerNorm, 'LN', or "
                "'LNPre' where its weights are folded into what reads it"
            )
        root = math.sqrt(self.d_head)
        if self.attn_scale != -1.0 and not math.isclose(self.attn_scale, root, rel_tol=1e-6):
            raise CircuitsError(
                f"attn_scale={self.attn_scale}: scores are divided by the root of d_head, {root:g}"
            )
        put({"attn_scale": root if self.use_attn_scale else self.attn_scale})
        types = self.attn_types if self.use_local_attn else None
        put({"attn_types": None if types is None else tuple(types)})
        if self.d_vocab_out not in (-1, self.d_vocab):
            raise CircuitsError(
                f"d_vocab={self.d_vocab} and d_vocab_out={self.d_vocab_out}: a GPT-2 predicts the "
                "tokens that it reads; give both the same size"
            )
        put({"d_vocab_out": self.d_vocab})
        if self.initializer_range < 0:
            usual = 0.8 / math.sqrt(self.d_model) if self.init_mode == "gpt2" else 1.0
            put({"initializer_range": usual})
        if self.d_vocab != -1:
            self._check_sizes()

    def _check_sizes(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "n_ctx", "d_head", "d_mlp"):
            self._require_whole(name, least=1)
        self._require_whole("d_vocab", least=0)  # built by code that only asks what a model has
        self._require_windows()

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("use_") and name not in vars(self):
            flags = [flag for flag in vars(self) if flag.startswith("use_")]
            raise CircuitsError(f"a model has no flag {name!r}{nearest(name, flags)}")
        vars(self)[name] = self._checked(name, value) if name in _FIXED else value

    def __delattr__(self, name: str) -> None:
        vars(self).pop(name)

    def __getattribute__(self, name: str) -> Any:
        # A ModelConfig says some of these by properties, which a setting here takes the place of.
        settings = object.__getattribute__(self, "__dict__")
        return settings[name] if name in settings else object.__getattribute__(self, name)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, HookedTransformerConfig)
        return same and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"HookedTransformerConfig({vars(self)})"

    @property
    def n_params(self) -> int:
        """How many numbers the matrices of the blocks hold, as TransformerLens counts."""
        attn = 4 * self.d_model * self.d_head * self.n_heads
        return self.n_layers * (attn + 2 * self.d_model * self.d_mlp)

    @property
    def scores_soft_cap(self) -> float:
        """The number that attention scores cannot exceed; 0: there is no cap."""
        return 0.0

    @classmethod
    def of(cls, cfg: ModelConfig, **settings: Any) -> HookedTransformerConfig:
        """The same shape as that of a model of this package."""
        names = "n_layers n_heads d_model n_ctx d_vocab d_head d_mlp eps model_name".split()
        names += "default_prepend_bos act_fn use_attn_scale window_size attn_types".split()
        names += "scale_attn_by_inverse_layer_idx device dtype".split()
        given = {name: getattr(cfg, name) for name in names}
        return cls(**given | {"use_local_attn": cfg.attn_types is not None} | settings)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> HookedTransformerConfig:
        """The configuration that `to_dict` wrote."""
        return cls(**config_dict)

    @classmethod
    def unwrap(cls, config: HookedTransformerConfig | Mapping[str, Any]) -> HookedTransformerConfig:
        """A configuration as it is, or made from a dictionary.

        Raises:
            CircuitsError: for anything else, such as a name.
        """
        if isinstance(config, cls):
            return config
        if isinstance(config, ModelConfig):
            return cls.of(config)
        if isinstance(config, Mapping):
            return cls.from_dict(config)
        raise CircuitsError(
            f"the configuration is {config!r}; give a HookedTransformerConfig or a dictionary, or "
            "load a model by its name with HookedTransformer.from_pretrained"
        )

    def to_dict(self) -> dict[str, Any]:
        """All settings by their names."""
        return dict(vars(self))

    def set_seed_everywhere(self, seed: int) -> None:
        """Seed the random numbers of torch, Python and NumPy, as TransformerLens does."""
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  what TransformerLens seeds

    def is_layer_norm_activation(self) -> bool:
        """Whether the activation is followed by a LayerNorm: none here is."""
        return False


def _dtype(given: Any) -> torch.dtype:
    dtype = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype):
        raise CircuitsError(f"dtype={given!r}: give one such as torch.float32, or its name")
    return dtype


TransformerLensConfig = HookedTransformerConfig  # the base of its configurations there
