"""The shape of a transformer_lens model, as a `ModelConfig`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from circuits.config import ModelConfig
from circuits.errors import CircuitsError

BRIDGE = "TransformerBridge"  # the class that wraps models of Hugging Face, since 4.0
CLASSES = ("HookedTransformer", BRIDGE)
_MODULES = ("embed", "unembed", "blocks", "ln_final")
_NORMS = ("LN", "LNPre", "RMS", "RMSPre")
_POSITIONS = ("standard", "rotary", "alibi")
# Their norms stand behind attention and MLP instead of before, so that `ln1` and `ln2` mean
# something else.
_OTHER_BLOCKS = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")


@dataclass(frozen=True)
class AdaptedConfig(ModelConfig):
    """`ModelConfig`, and what other architectures than GPT-2 differ in.

    Attributes:
        n_key_value_heads: in how many groups heads share keys and values; None: each has its own.
        positional_embedding_type: standard (added to the stream, as in GPT-2), rotary or alibi.
        gated_mlp: whether a gate multiplies what the neurons read.
        post_norms: whether a norm stands between a layer and the stream, so that what its heads or
            neurons write is not added as it is (Gemma 2).
        parallel: whether attention and MLP read the same stream (GPT-J, Pythia).
        attn_only: whether there are no MLPs.
        logits_soft_cap: the logits are this times tanh(logits / this); 0 for none.
        scores_soft_cap: the same of attention scores.
        n_weights: how many numbers it holds.
        keeps_keys: never: there is no key-value cache.
    """

    n_key_value_heads: int | None = None
    positional_embedding_type: str = "standard"
    gated_mlp: bool = False
    post_norms: bool = False
    parallel: bool = False
    attn_only: bool = False
    logits_soft_cap: float = 0.0
    scores_soft_cap: float = 0.0
    n_weights: int = 0
    keeps_keys: bool = False

    def __post_init__(self) -> None:
        """Nothing: the library that built the model has checked these."""

    @property
    def n_params(self) -> int:
        """How many numbers the model holds."""
        return self.n_weights


def class_of(theirs: Any) -> str | None:
    """The class of transformer_lens that this is an instance of; None for anything else."""
    for kind in type(theirs).__mro__:
        if kind.__name__ in CLASSES and kind.__module__.startswith("transformer_lens."):
            return kind.__name__
    return None


def config_of(theirs: nn.Module, *, tied: bool) -> AdaptedConfig:
    """The shape of this model.

    Raises:
        CircuitsError: for an architecture whose sites mean something else.
    """
    cfg: Any = theirs.cfg
    _require_decoder(theirs, cfg)
    grouped = getattr(cfg, "n_key_value_heads", None)
    return AdaptedConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab,
        d_head=cfg.d_head,
        d_mlp=cfg.d_mlp or 0,
        eps=cfg.eps,
        tied=tied,
        model_name=cfg.model_name,
        default_prepend_bos=cfg.default_prepend_bos,
        act_fn=cfg.act_fn,
        normalization_type=cfg.normalization_type,
        device=torch.device(cfg.device),
        dtype=cfg.dtype,
        n_key_value_heads=None if grouped == cfg.n_heads else grouped,
        positional_embedding_type=cfg.positional_embedding_type,
        gated_mlp=bool(cfg.gated_mlp),
        post_norms=any(hasattr(block, "ln1_post") for block in _blocks(theirs)),
        parallel=bool(cfg.parallel_attn_mlp),
        attn_only=bool(cfg.attn_only),
        logits_soft_cap=max(0.0, getattr(cfg, "output_logits_soft_cap", None) or 0.0),
        scores_soft_cap=max(0.0, getattr(cfg, "attn_scores_soft_cap", None) or 0.0),
        n_weights=sum(weight.numel() for weight in theirs.parameters()),
    )


def _blocks(theirs: Any) -> Iterable[nn.Module]:
    blocks: Iterable[nn.Module] = theirs.blocks
    return blocks


def _require_decoder(theirs: Any, cfg: Any) -> None:
    missing = [module for module in _MODULES if not hasattr(theirs, module)]
    architecture = getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", "")
    oddities = {
        f"it has no {', '.join(missing)}": missing,
        f"normalization_type={cfg.normalization_type!r}": cfg.normalization_type not in _NORMS,
        f"positions of kind {cfg.positional_embedding_type!r}": cfg.positional_embedding_type
        not in _POSITIONS,
        f"attention_dir={cfg.attention_dir!r}": cfg.attention_dir != "causal",
        f"it is a {architecture}, whose norms follow its layers": architecture in _OTHER_BLOCKS,
        f"{cfg.d_vocab} tokens in and {cfg.d_vocab_out} out": cfg.d_vocab_out != cfg.d_vocab,
    }
    odd = [oddity for oddity, holds in oddities.items() if holds]
    if odd:
        raise CircuitsError(
            f"{cfg.model_name} cannot be adapted: {'; '.join(odd)}. Decoders with LayerNorm or "
            f"RMSNorm before attention and MLP can, with positions {', '.join(_POSITIONS)}"
        )
