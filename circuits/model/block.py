"""A block, which adds what attention and the MLP write to the stream; and how logits are read.

Shapes: b batch, p position, h head, d = d_model, n rows, t tokens, v = d_vocab.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.hooks import HookPoint
from circuits.kv_cache import Extend
from circuits.model.attention import Attention, Places
from circuits.model.mlp import MLP
from circuits.model.norm import Norm

if TYPE_CHECKING:
    from circuits.model.contract import UnembedWeights
else:  # a protocol's members would stand in the way of parameters of the same names
    UnembedWeights = ABC


Stepper = Callable[[Tensor, Places], Tensor]  # from the stream [b d] of one more token to the next


class Block(nn.Module):
    """x + attention(ln1(x)), then x + mlp(ln2(x))."""

    ln2: Norm
    mlp: MLP

    def __init__(
        self, ln1: Norm, attn: Attention, ln2: Norm | None = None, mlp: MLP | None = None
    ) -> None:
        super().__init__()
        self.ln1, self.attn = ln1, attn
        self.hook_resid_pre = HookPoint()  # [b p d], as all below without another shape
        self.hook_attn_in = HookPoint()  # [b p h d], as the next three
        self.hook_q_input, self.hook_k_input, self.hook_v_input = (HookPoint() for _ in range(3))
        self.hook_attn_out = HookPoint()
        self.hook_resid_post = HookPoint()
        if ln2 is not None and mlp is not None:
            self.ln2, self.mlp = ln2, mlp
            self.hook_resid_mid = HookPoint()
            self.hook_mlp_in = HookPoint()
            self.hook_mlp_out = HookPoint()

    def forward(
        self, x: Float[Tensor, "b p d"], places: Places, past: Extend | None
    ) -> Float[Tensor, "b p d"]:
        """The residual stream after this block. `past` stores keys and values if they are kept."""
        resid_pre = self.hook_resid_pre(x)
        attn_out = self.attend(resid_pre, places, past)
        resid_mid = self.hook_resid_mid(resid_pre + self.hook_attn_out(attn_out))
        mlp_out = self.mlp(self.ln2(self.hook_mlp_in(resid_mid)))
        return self.hook_resid_post(resid_mid + self.hook_mlp_out(mlp_out))

    def plain(
        self, x: Float[Tensor, "b p d"], places: Places, past: Extend | None
    ) -> Float[Tensor, "b p d"]:
        """The whole step without hooks."""
        x = x + self.attn.plain(self.ln1.plain(x), places, past)
        return x + self.mlp.plain(self.ln2.plain(x))

    def stepper(self, past: Extend, n_rows: int) -> Stepper:
        """What computes the same of one token more of so many prompts.

        It may be kept for the next tokens as long as nobody changes the block or its weights.
        """
        return lambda x, places: self.plain(x.unsqueeze(1), places, past)[:, 0]

    def attend(
        self, resid_pre: Float[Tensor, "b p d"], places: Places, past: Extend | None
    ) -> Float[Tensor, "b p d"]:
        """What attention writes."""
        split = (self.hook_attn_in, self.hook_q_input, self.hook_k_input, self.hook_v_input)
        if any(hook.watched for hook in split):
            return self._attn_split(resid_pre, places, past)
        out: Tensor = self.attn(self.ln1(resid_pre), places, past)
        return out

    def _attn_split(
        self, resid_pre: Float[Tensor, "b p d"], places: Places, past: Extend | None
    ) -> Float[Tensor, "b p d"]:
        """Attention whose heads each read a residual stream of their own, [b p h d]."""
        normalized = self.ln1(resid_pre)
        per_head = resid_pre.unsqueeze(2).expand(-1, -1, len(self.attn.b_Q), -1)
        attn_in = self.hook_attn_in(per_head)
        plain = self.ln1.plain
        # ln1's own sites describe the shared stream; an edit there reaches every branch as a shift.
        shift = (normalized - plain(resid_pre)).unsqueeze(2)
        q, k, v = (
            plain(hook(attn_in)) + shift
            for hook in (self.hook_q_input, self.hook_k_input, self.hook_v_input)
        )
        return self.attn.forward_split((q, k, v), places, past)


class Unembed(nn.Module, UnembedWeights):
    """From what the final norm writes to logits, [.. d] to [.. v]: x W_U + b_U."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_in = HookPoint()  # [b p d]
        self.hook_out = HookPoint()  # [b p v]

    @abstractmethod
    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any v"]:
        """Logits, without hooks."""

    def prepared(self, n_rows: int) -> Callable[[Tensor], Tensor]:
        """What computes them of so many rows, as long as nobody changes the weights."""
        return self.plain

    def read(
        self, x: Float[Tensor, "n d"], tokens: Int[Tensor, "n t"] | None
    ) -> Float[Tensor, "n v"]:
        """The logits of these tokens, [n t], which may differ from row to row; None for all."""
        if tokens is None:
            return self.plain(x)
        logits = einsum(x, self.W_U.T[tokens], "n d, n t d -> n t")
        return logits if self.b_U is None else logits + self.b_U[tokens]

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p v"]:
        """Logits."""
        return self.hook_out(self.plain(self.hook_in(x)))
