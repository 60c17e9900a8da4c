"""Parts of a larger weight, which can be written to, and cannot be exchanged."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from circuits.errors import CircuitsError


class _LikeAnyTensor(type(Tensor)):  # type: ignore[misc]
    """``torch.testing`` compares only what is an instance of the other's class: all tensors are."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor)


class WeightView(Tensor, metaclass=_LikeAnyTensor):
    """A view of a weight. Writing into it (``W_O[3] = 0``) writes to the model.

    Giving it other data (``W_O.data = x``) would change the view alone, without effect, and is
    refused. What is computed from it is an ordinary tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> Any:
        """The numbers, in the memory of the weight."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> NoReturn:
        raise CircuitsError(
            "this weight is a view of a larger one, so .data = ... would have no effect; write "
            "into it: with torch.no_grad(), W.copy_(x), or W[head] = x"
        )


def view(part: Tensor) -> Tensor:
    """This view of a weight, whose data cannot be exchanged.

    >>> weight = torch.zeros(2, 3)
    >>> part = view(weight.T)
    >>> part[0] = 1
    >>> weight.tolist(), type(part + 1).__name__
    ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 'Tensor')
    """
    return part if torch.compiler.is_compiling() else part.as_subclass(WeightView)
