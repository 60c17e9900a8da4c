"""The MLP: neurons whose keys match the stream, and the values they write.

Shapes: b batch, p position, d = d_model, m = d_mlp, n some of the neurons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from circuits.hooks import HookPoint

if TYPE_CHECKING:
    from circuits.model.contract import MLPWeights
else:  # a protocol's members would stand in the way of parameters of the same names
    MLPWeights = ABC

ALL = slice(None)


class MLP(nn.Module, MLPWeights):
    """Keys that match the residual stream (W_in) and the values they write (W_out).

    An architecture gives the weights, and the steps `pre`, `activate` and `out`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hook_pre = HookPoint()  # [b p m]
        self.hook_post = HookPoint()  # [b p m]

    @abstractmethod
    def pre(self, x: Float[Tensor, "*any d"], which: slice = ALL) -> Float[Tensor, "*any n"]:
        """What goes into the nonlinearity of these neurons, of all if none are given."""

    @abstractmethod
    def activate(
        self, pre: Float[Tensor, "*any n"], x: Float[Tensor, "*any d"], which: slice = ALL
    ) -> Float[Tensor, "*any n"]:
        """What comes out of it. With a gate, that multiplies another reading of `x`."""

    @abstractmethod
    def out(self, post: Float[Tensor, "*any m"]) -> Float[Tensor, "*any d"]:
        """What the neurons write, b_out included."""

    def neurons(self, x: Float[Tensor, "*any d"], which: slice = ALL) -> Float[Tensor, "*any n"]:
        """The activations of these neurons, without hooks, for any leading axes."""
        return self.activate(self.pre(x, which), x, which)

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The whole step without hooks, for any leading axes."""
        return self.out(self.neurons(x))

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """The whole step, by way of its sites if they are watched."""
        if not (self.hook_pre.watched or self.hook_post.watched):
            return self.plain(x)
        pre = self.hook_pre(self.pre(x))
        return self.out(self.hook_post(self.activate(pre, x)))
