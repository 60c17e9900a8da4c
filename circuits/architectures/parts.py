"""Norms, MLPs and an unembedding that several architectures share.

Matrices are kept as checkpoints of Hugging Face have them, a row for each output (``.rows``), so
that loading copies nothing; the views by our names are [in, out].

Shapes: b batch, p position; d = d_model, m = d_mlp, n neurons, v = d_vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from circuits.architectures.config import DecoderConfig
from circuits.backend import Backend
from circuits.config import ModelConfig
from circuits.hooks import HookPoint
from circuits.model.block import Unembed
from circuits.model.mlp import ALL, MLP
from circuits.model.norm import Norm
from circuits.model.views import view
from circuits.precision import wide

# GPT-2's is the first; torch fuses it, and the second, with the product before it.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}
FUSED: dict[str, str] = {"gelu_new": "tanh", "gelu": "none"}  # what torch calls them


class LayerNorm(Norm):
    """(x - mean) / scale * w + b, with scale = sqrt(var + eps)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg.eps)
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.b = nn.Parameter(torch.zeros(cfg.d_model))

    def center(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The stream less its mean, in float32 at least."""
        x = wide(x)
        return x - x.mean(-1, keepdim=True)

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The whole step without hooks, fused."""
        return torch.layer_norm(x, (x.shape[-1],), self.w, self.b, self.eps)


class RMSNorm(Norm):
    """x / scale * w, with scale = sqrt(mean(x^2) + eps): nothing is taken away, and no bias added.

    `offset` is added to the stored weight: 1 in Gemma's checkpoints, which store w - 1.
    """

    def __init__(self, eps: float, width: int, *, offset: float = 0.0) -> None:
        super().__init__(eps)
        self.offset = offset
        self.stored = nn.Parameter(torch.full((width,), 1.0 - offset))

    @property
    def w(self) -> Tensor:  # type: ignore[override]
        """[d]"""
        return self.stored + self.offset if self.offset else self.stored

    @property
    def b(self) -> Tensor:  # type: ignore[override]
        """[d], zeros."""
        return torch.zeros_like(self.stored)

    def center(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The stream itself, in float32 at least."""
        return wide(x)

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The whole step without hooks, fused."""
        return F.rms_norm(x, (x.shape[-1],), self.w, self.eps)


class PlainMLP(MLP):
    """act(x W_in + b_in) W_out + b_out, as GPT-2's, of matrices with a row for each output."""

    b_in: nn.Parameter
    b_out: nn.Parameter

    def __init__(self, cfg: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.act_fn, self.fused = ACTIVATIONS[cfg.act_fn], FUSED.get(cfg.act_fn)
        self.backend = backend
        self.in_rows = nn.Parameter(torch.zeros(cfg.d_mlp, cfg.d_model))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.out_rows = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_mlp))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))

    W_in = property(lambda self: view(self.in_rows.T), doc="[d m], a view")
    W_out = property(lambda self: view(self.out_rows.T), doc="[m d], a view")

    def pre(self, x: Float[Tensor, "*any d"], which: slice = ALL) -> Float[Tensor, "*any n"]:
        """x W_in + b_in"""
        return self.backend.linear(x, self.in_rows[which].T, self.b_in[which])

    def activate(
        self, pre: Float[Tensor, "*any n"], x: Float[Tensor, "*any d"], which: slice = ALL
    ) -> Float[Tensor, "*any n"]:
        """act(pre)"""
        return self.act_fn(pre)

    def out(self, post: Float[Tensor, "*any m"]) -> Float[Tensor, "*any d"]:
        """post W_out + b_out"""
        return self.backend.linear(post, self.out_rows.T, self.b_out)

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The whole step without hooks, with the nonlinearity inside of the product."""
        if self.fused is None:
            return self.out(self.neurons(x))
        return self.out(self.backend.linear(x, self.in_rows.T, self.b_in, self.fused))


class GatedMLP(MLP):
    """(act(x W_gate) * x W_in) W_out: a neuron's gate says how much of its reading passes.

    `hook_pre` is what goes into the gate's nonlinearity, `hook_pre_linear` what it multiplies.
    """

    def __init__(self, cfg: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.act_fn, self.backend = ACTIVATIONS[cfg.act_fn], backend
        self.hook_pre_linear = HookPoint()  # [b p m]
        self.gate_rows = nn.Parameter(torch.zeros(cfg.d_mlp, cfg.d_model))
        self.in_rows = nn.Parameter(torch.zeros(cfg.d_mlp, cfg.d_model))
        self.out_rows = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_mlp))

    W_gate = property(lambda self: view(self.gate_rows.T), doc="[d m], a view")
    W_in = property(lambda self: view(self.in_rows.T), doc="[d m], a view")
    W_out = property(lambda self: view(self.out_rows.T), doc="[m d], a view")
    b_in = property(lambda self: torch.zeros_like(self.in_rows[:, 0]), doc="[m], zeros")
    b_out = property(lambda self: torch.zeros_like(self.out_rows[:, 0]), doc="[d], zeros")

    def pre(self, x: Float[Tensor, "*any d"], which: slice = ALL) -> Float[Tensor, "*any n"]:
        """x W_gate"""
        return self.backend.linear(x, self.gate_rows[which].T, None)

    def read(self, x: Float[Tensor, "*any d"], which: slice = ALL) -> Float[Tensor, "*any n"]:
        """x W_in, what the gate multiplies."""
        return self.backend.linear(x, self.in_rows[which].T, None)

    def activate(
        self, pre: Float[Tensor, "*any n"], x: Float[Tensor, "*any d"], which: slice = ALL
    ) -> Float[Tensor, "*any n"]:
        """act(pre) * x W_in"""
        return self.act_fn(pre) * self.read(x, which)

    def out(self, post: Float[Tensor, "*any m"]) -> Float[Tensor, "*any d"]:
        """post W_out"""
        return self.backend.linear(post, self.out_rows.T, None)

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """The whole step, by way of its sites if they are watched."""
        sites = (self.hook_pre, self.hook_pre_linear, self.hook_post)
        return self.through_sites(x) if any(site.watched for site in sites) else self.plain(x)

    def through_sites(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """What the neurons write, by way of the sites."""
        gate = self.act_fn(self.hook_pre(self.pre(x)))
        return self.out(self.hook_post(gate * self.hook_pre_linear(self.read(x))))


class RowsUnembed(Unembed):
    """x W_U, a row of `rows` for each token: the embedding's own where they are tied.

    With a soft cap c the logits are c tanh(x W_U / c); the site `hook_out` comes before it.
    """

    b_U = None

    def __init__(self, cfg: DecoderConfig, embedding: nn.Parameter, backend: Backend) -> None:
        super().__init__()
        self.tied, self.backend, self.cap = cfg.tied, backend, cfg.logits_soft_cap
        self.rows = embedding if cfg.tied else nn.Parameter(torch.zeros(cfg.d_vocab, cfg.d_model))

    W_U = property(lambda self: view(self.rows.T), doc="[d v], a view")

    def _capped(self, logits: Tensor) -> Tensor:
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def _linear(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any v"]:
        return self.backend.linear(x, self.rows.T, None)

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any v"]:
        """Logits, without hooks."""
        return self._capped(self._linear(x))

    def read(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        """The logits of these tokens, [n t] of rows [n d]; all of them, [n v], for None."""
        return self.plain(x) if tokens is None else self._capped(super().read(x, tokens))

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p v"]:
        """Logits."""
        return self._capped(self.hook_out(self._linear(self.hook_in(x))))
