"""Adam, for small trainings: torch's own steps, without what its optimizers import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """torch.optim.Adam, bit for bit, and AdamW without decay.

    Making one of torch's optimizers imports its compiler, which takes as long as importing torch.

    Attributes:
        param_groups: one, with the weights and the learning rate.
        state: of each weight that had a gradient, its ``step``, ``exp_avg`` and ``exp_avg_sq``.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> optimizer = Adam([weight], lr=0.5)
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> weight.detach()
    tensor([0.5000])
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        *,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": [*weights], "lr": lr}]
        self.betas = betas
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self.param_groups[0]["params"]:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights by their gradients, those that have one."""
        weights = [w for w in self.param_groups[0]["params"] if w.grad is not None]
        for weight in weights:
            if weight not in self.state:
                moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                self.state[weight] = {"step": torch.tensor(0.0), **moments}
        states = [self.state[weight] for weight in weights]
        adam(
            weights,
            [weight.grad for weight in weights],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.param_groups[0]["lr"],
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
