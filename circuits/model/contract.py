"""The layers of a model as analyses see them, whether they are ours or another library's.

Shapes: h head, d = d_model, e = d_head, m = d_mlp, n rows, t tokens, v = d_vocab.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class NormWeights(Protocol):
    """A norm: center(x) / scale(x) * w + b."""

    @property
    def w(self) -> Tensor:
        """[d]"""

    @property
    def b(self) -> Tensor:
        """[d]; zeros where the norm has none."""

    def center(self, x: Tensor) -> Tensor:
        """The stream [.. d] less what the norm ignores, in float32 at least."""

    def scale(self, x: Tensor) -> Tensor:
        """What the centered stream [.. d] is divided by: [.. 1]."""

    def plain(self, x: Tensor) -> Tensor:
        """The norm of a stream [.. d], without hooks."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """The same, through its sites."""


class AttentionWeights(Protocol):
    """The heads of a layer. Heads that share keys and values each show them."""

    @property
    def W_Q(self) -> Tensor:
        """[h d e]"""

    @property
    def W_K(self) -> Tensor:
        """[h d e]"""

    @property
    def W_V(self) -> Tensor:
        """[h d e]"""

    @property
    def W_O(self) -> Tensor:
        """[h e d]"""

    @property
    def b_Q(self) -> Tensor:
        """[h e]"""

    @property
    def b_K(self) -> Tensor:
        """[h e]"""

    @property
    def b_V(self) -> Tensor:
        """[h e]"""

    @property
    def b_O(self) -> Tensor:
        """[d]"""


class MLPWeights(Protocol):
    """The neurons of a layer."""

    @property
    def W_in(self) -> Tensor:
        """[d m]"""

    @property
    def b_in(self) -> Tensor:
        """[m]"""

    @property
    def W_out(self) -> Tensor:
        """[m d]"""

    @property
    def b_out(self) -> Tensor:
        """[d]"""

    def plain(self, x: Tensor) -> Tensor:
        """What the layer writes, given what it reads [.. d], without hooks."""


class BlockWeights(Protocol):
    """A layer."""

    @property
    def ln1(self) -> NormWeights:
        """What attention reads passes it."""

    @property
    def attn(self) -> AttentionWeights:
        """The heads."""

    @property
    def ln2(self) -> NormWeights:
        """What the MLP reads passes it."""

    @property
    def mlp(self) -> MLPWeights:
        """The neurons."""


class UnembedWeights(Protocol):
    """The way to the logits: x W_U + b_U."""

    @property
    def W_U(self) -> Tensor:
        """[d v]"""

    @property
    def b_U(self) -> Tensor | None:
        """[v]"""

    def plain(self, x: Tensor) -> Tensor:
        """Logits [.. v] of what the final norm wrote [.. d], without hooks."""

    def read(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        """The logits of these tokens, [n t] of rows [n d]; all of them, [n v], for None."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Logits, through the sites."""
