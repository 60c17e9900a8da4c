"""The weights of a transformer_lens model under our names, and its layers as plain maps.

Weights that the model itself stores are not copied: these are views that look them up.
Shapes: h head, d = d_model, e = d_head, m = d_mlp, v = d_vocab.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from circuits.adapter.config import AdaptedConfig
from circuits.errors import CircuitsError
from circuits.precision import wide


class _View:
    """Weights of one of their modules; a bias that the architecture lacks is zeros."""

    def __init__(self, theirs: Any, cfg: AdaptedConfig) -> None:
        self._theirs, self._cfg = theirs, cfg

    def _tensor(self, *names: str) -> Tensor | None:
        for name in names:
            try:
                value = getattr(self._theirs, name)
            except AttributeError:
                continue
            if isinstance(value, Tensor):
                return value
        return None

    def _weight(self, name: str) -> Tensor:
        weight = self._tensor(name)
        if weight is None:
            raise CircuitsError(
                f"{self._cfg.model_name} has no {name} in its {type(self._theirs).__name__}: ask "
                "about another part of the model"
            )
        return weight

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self._cfg.device, dtype=self._cfg.dtype)


class AdaptedNorm(_View):
    """LayerNorm or RMSNorm: (x - mean) / scale * w + b, where RMSNorm has no mean and no b."""

    def plain(self, x: Tensor) -> Tensor:
        """The norm of a stream [.. d], without our hooks."""
        return _on_rows(self._theirs, x)

    __call__ = plain

    def center(self, x: Tensor) -> Tensor:
        """The stream less its mean, which RMSNorm keeps; in float32 at least."""
        x = wide(x)
        is_rms = self._cfg.normalization_type.startswith("RMS")
        return x if is_rms else x - x.mean(-1, keepdim=True)

    def scale(self, x: Tensor) -> Tensor:
        """What the centered stream [.. d] is divided by: [.. 1]."""
        return (self.center(x).square().mean(-1, keepdim=True) + self._cfg.eps).sqrt()

    @property
    def w(self) -> Tensor:
        """[d]; ones where it was folded into the weights that read it."""
        weight = self._tensor("w", "weight")
        if weight is None:
            return self._zeros(self._cfg.d_model) + 1
        # Gemma's checkpoints hold w - 1; HookedTransformer adds the 1 when it loads them.
        cfg = getattr(self._theirs, "config", None)
        offset = getattr(cfg, "rmsnorm_uses_offset", False)
        return weight + 1 if getattr(self._theirs, "uses_weight_offset", offset) else weight

    @property
    def b(self) -> Tensor:
        """[d]; zeros for RMSNorm, and where it was folded."""
        bias = self._tensor("b", "bias")
        return self._zeros(self._cfg.d_model) if bias is None else bias


class AdaptedAttention(_View):
    """One layer's heads. With grouped queries, keys and values are repeated for each query head."""

    def _per_head(self, name: str) -> Tensor:
        weight = self._weight(name)
        if weight.ndim != 3:
            raise CircuitsError(
                f"{name} of {self._cfg.model_name} has shape {tuple(weight.shape)}, which is not "
                "one matrix for each head; its weights cannot be read head by head"
            )
        return self._repeated(weight)

    def _repeated(self, weight: Tensor) -> Tensor:
        return weight.repeat_interleave(self._cfg.n_heads // len(weight), 0)

    def _bias(self, name: str) -> Tensor:
        bias = self._tensor(name)
        if bias is None:
            return self._zeros(self._cfg.n_heads, self._cfg.d_head)
        return self._repeated(bias.view(-1, self._cfg.d_head))

    W_Q = property(lambda self: self._per_head("W_Q"), doc="[h d e]")
    W_K = property(lambda self: self._per_head("W_K"), doc="[h d e]")
    W_V = property(lambda self: self._per_head("W_V"), doc="[h d e]")
    W_O = property(lambda self: self._per_head("W_O"), doc="[h e d]")
    b_Q = property(lambda self: self._bias("b_Q"), doc="[h e]")
    b_K = property(lambda self: self._bias("b_K"), doc="[h e]")
    b_V = property(lambda self: self._bias("b_V"), doc="[h e]")

    @property
    def q_norm(self) -> Tensor | None:
        """[e], of the norm of queries, where there is one."""
        return getattr(getattr(self._theirs, "q_norm", None), "w", None)

    @property
    def k_norm(self) -> Tensor | None:
        """[e], of the norm of keys, where there is one."""
        return getattr(getattr(self._theirs, "k_norm", None), "w", None)

    @property
    def b_O(self) -> Tensor:
        """[d]"""
        bias = self._tensor("b_O")
        return self._zeros(self._cfg.d_model) if bias is None else bias


class AdaptedMLP(_View):
    """One layer's neurons; with a gate, W_in is what it multiplies, and W_gate is the gate's."""

    def __init__(self, theirs: Any, cfg: AdaptedConfig, norm: nn.Module | None) -> None:
        super().__init__(theirs, cfg)
        self._norm = norm

    def plain(self, x: Tensor) -> Tensor:
        """What the layer adds to the stream, given what it reads [.. d], without our hooks."""
        written = _on_rows(self._theirs, x)
        return written if self._norm is None else _on_rows(self._norm, written)

    W_in = property(lambda self: self._weight("W_in"), doc="[d m]")
    W_gate = property(lambda self: self._weight("W_gate"), doc="[d m]")
    W_out = property(lambda self: self._weight("W_out"), doc="[m d]")

    @property
    def b_in(self) -> Tensor:
        """[m]"""
        bias = self._tensor("b_in")
        return self._zeros(self._cfg.d_mlp) if bias is None else bias

    @property
    def b_out(self) -> Tensor:
        """[d]"""
        bias = self._tensor("b_out")
        return self._zeros(self._cfg.d_model) if bias is None else bias


class AdaptedBlock:
    """One layer: its norms, heads and neurons."""

    def __init__(self, theirs: Any, cfg: AdaptedConfig) -> None:
        self._theirs, self._cfg = theirs, cfg

    ln1 = property(lambda self: self._norm("ln1"), doc="What attention reads passes it.")
    ln2 = property(lambda self: self._norm("ln2"), doc="What the MLP reads passes it.")
    ln2_post = property(lambda self: self._norm("ln2_post"), doc="What the MLP writes passes it.")
    ln1_post = property(lambda self: self._norm("ln1_post"), doc="What attention writes passes it.")

    @property
    def attn(self) -> AdaptedAttention:
        """The heads."""
        return AdaptedAttention(self._theirs.attn, self._cfg)

    @property
    def mlp(self) -> AdaptedMLP:
        """The neurons."""
        return AdaptedMLP(self._module("mlp"), self._cfg, getattr(self._theirs, "ln2_post", None))

    def _norm(self, name: str) -> AdaptedNorm:
        return AdaptedNorm(self._module(name), self._cfg)

    def _module(self, name: str) -> Any:
        if not hasattr(self._theirs, name):
            raise CircuitsError(f"the blocks of {self._cfg.model_name} have no {name}")
        return getattr(self._theirs, name)


class AdaptedUnembed(_View):
    """x W_U + b_U, and their soft cap on it where they have one: the logits."""

    def plain(self, x: Tensor) -> Tensor:
        """Logits [.. v] of what the final norm wrote [.. d], without our hooks."""
        logits, cap = _on_rows(self._theirs, x), self._cfg.logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap else logits

    __call__ = plain

    def read(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        """The logits of these tokens, [n t] of rows [n d]; all of them, [n v], for None."""
        logits = self.plain(x)
        return logits if tokens is None else logits.gather(-1, tokens)

    W_U = property(lambda self: self._weight("W_U"), doc="[d v]")

    @property
    def b_U(self) -> Tensor:
        """[v]"""
        bias = self._tensor("b_U")
        return self._zeros(self._cfg.d_vocab) if bias is None else bias

    @property
    def tied(self) -> bool:
        """Whether W_U is the transposed token embedding."""
        return self._cfg.tied


def _on_rows(theirs: Any, x: Tensor) -> Tensor:
    """What a module of theirs, which may need [b p d], makes of a tensor with any leading axes."""
    out: Tensor = theirs(x.reshape(1, -1, x.shape[-1]))
    return out.view(*x.shape[:-1], out.shape[-1])
