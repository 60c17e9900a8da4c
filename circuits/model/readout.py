"""Another way out of the model than the vocabulary's: classes instead of tokens.

Shapes: d = d_model, n classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Readout(nn.Module):
    """x W + b of what the final norm wrote: one number for each class.

    >>> import torch
    >>> readout = Readout(torch.eye(2), labels=["no", "yes"])
    >>> readout(torch.tensor([1.0, 3.0])).tolist(), readout.labels
    ([1.0, 3.0], ('no', 'yes'))
    """

    def __init__(
        self,
        W: Float[Tensor, "d n"],
        b: Float[Tensor, n] | None = None,  # noqa: F821
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.W = nn.Parameter(W)
        self.b = nn.Parameter(W.new_zeros(W.shape[1]) if b is None else b)
        self.labels = tuple(labels) or tuple(f"LABEL_{i}" for i in range(W.shape[1]))

    def forward(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any n"]:
        """One number for each class."""
        return x @ self.W + self.b
