"""The loop that all training here goes through, and how the size of its steps changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from torch import Tensor

Rate = Callable[[int], float]  # the learning rate of each step


class Optimizer(Protocol):
    """What makes a step of gradients: `Adam` and torch's optimizers do."""

    param_groups: list[dict[str, object]]

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> object:
        """Change the weights by them."""


def descend(
    optimizer: Optimizer,
    gradients: Callable[[int], float],
    steps: range,
    rate: Rate,
    *,
    clip: float | None = None,
) -> Iterator[tuple[int, float]]:
    """Which loss does each step see? Each of `steps` is made when the next one is asked for.

    `gradients` computes the gradients of a step, from its number alone, and returns the loss: what
    depends on nothing else can be interrupted and resumed. With `clip`, the norm of all gradients
    is at most that. Yields the number of the step that was made, and its loss.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> def gradients(step):
    ...     loss = weight.square().sum()
    ...     loss.backward()
    ...     return loss.item()
    >>> from circuits.training.adam import Adam
    >>> adam = Adam([weight])
    >>> losses = [loss for _, loss in descend(adam, gradients, range(9), falling(0.1, 9))]
    >>> losses[0], losses[-1] < 0.5
    (1.0, True)
    """
    for step in steps:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = gradients(step)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(_weights(optimizer), clip)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        yield step, loss


def falling(
    lr: float,
    steps: int,
    *,
    warmup: int = 0,
    shape: Literal["cosine", "linear"] = "linear",
    last: float = 0.0,
) -> Rate:
    """The learning rate of each of so many steps: it warms up to `lr`, then falls.

    It falls to the share `last` of `lr`, along a line or a half cosine (which ends at 0).

    >>> rate = falling(1.0, 10, warmup=2)
    >>> [rate(step) for step in (0, 1, 5)]
    [0.5, 0.9, 0.5]
    """

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if shape == "cosine":
            return lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        return lr * warm * (1 - (1 - last) * step / steps)

    return rate


@contextmanager
def repeatable() -> Iterator[None]:
    """One thread and deterministic algorithms: the same seed gives the same weights, bit for bit.

    On the same kind of machine. Products of small matrices gain nothing from a second thread.
    """
    n_threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
        torch.use_deterministic_algorithms(strict)


def _weights(optimizer: Optimizer) -> list[Tensor]:
    groups = [group["params"] for group in optimizer.param_groups]
    return [weight for group in groups if isinstance(group, list) for weight in group]
