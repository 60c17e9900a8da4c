"""Norms: what takes the scale out of the stream before a layer reads it.

Shapes: b batch, p position, d = d_model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from circuits.hooks import HookPoint
from circuits.precision import wide


class Norm(nn.Module, ABC):
    """center(x) / scale(x) * w + b. Kinds of norms differ in what `center` takes away.

    A subclass has the weight `w` [d] and the bias `b` [d], zeros where there is none.
    """

    w: Tensor
    b: Tensor

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.hook_scale = HookPoint()  # [b p 1]
        self.hook_normalized = HookPoint()  # [b p d], before w and b

    @abstractmethod
    def center(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The stream less what the norm ignores, in float32 at least."""

    def scale(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 1"]:
        """What the centered stream is divided by: the root of its mean square, eps added."""
        return self.scale_of(self.center(x))

    def scale_of(self, centered: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 1"]:
        """The same, of a stream that is centered already."""
        return (centered.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The whole step without hooks, for any leading axes."""
        centered = self.center(x)
        return (centered / self.scale_of(centered)).to(x.dtype) * self.w + self.b

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """The whole step, by way of its two sites if they are watched."""
        if not (self.hook_scale.watched or self.hook_normalized.watched):
            return self.plain(x)
        centered = self.center(wide(x))  # the squares of half precision overflow
        scale = self.hook_scale(self.scale_of(centered).to(x.dtype))
        return self.hook_normalized((centered / scale).to(x.dtype)) * self.w + self.b
