"""Drawing the next token of each prompt, from random numbers of the prompt's own."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.errors import CircuitsError


@dataclass(frozen=True)
class Sampler:
    """Draws tokens from softmax(logits / temperature).

    Only the `top_k` most likely tokens can be drawn, and of these only the fewest that hold a share
    `top_p` of their probability. Temperature 0 takes the most likely token.

    Raises:
        CircuitsError: for values outside these ranges.

    >>> logits = torch.tensor([[0.0, 2.0, 1.0]])
    >>> [Sampler(1.0, top_k=2)(logits, torch.tensor([u])).item() for u in (0.0, 0.7, 0.8)]
    [1, 1, 2]
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise CircuitsError(
                f"temperature={self.temperature}: choose 0 (always the most likely token) or more"
            )
        if self.top_k is not None and self.top_k < 1:
            raise CircuitsError(f"top_k={self.top_k}: choose at least 1, or None for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise CircuitsError(f"top_p={self.top_p}: choose more than 0 and at most 1")

    def __call__(self, logits: Tensor, noise: Tensor) -> Tensor:
        """`logits` [b v] and uniform `noise` [b] in [0, 1) give tokens [b]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        ids = None
        if self.top_k is not None:
            logits, ids = logits.topk(min(self.top_k, logits.shape[-1]))
        elif self.top_p is not None:
            logits, ids = logits.sort(descending=True, stable=True)
        # Subtracting first keeps a tiny temperature from making infinities of all large logits.
        probs = ((logits - logits.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.top_p is not None:
            before = probs.cumsum(-1) - probs  # 0 at the first token, which therefore stays
            probs = probs.where(before < self.top_p, 0.0)
        passed = probs.cumsum(-1) > noise[:, None] * probs.sum(-1, keepdim=True)
        pick = passed.int().argmax(-1, keepdim=True)  # the first place that is True
        return (pick if ids is None else ids.gather(-1, pick))[:, 0]


def random_numbers(
    prompts: Sequence[Sequence[int]], n_steps: int, seed: int | None = None
) -> Tensor:
    """The random numbers that each prompt draws: [b n], in float64, uniform in [0, 1).

    They depend on the seed, on the prompt's tokens, and on how many copies of it stand before it in
    the batch: not on its neighbors, and not on torch's random state, which stays as it is.
    Without a seed they differ from call to call.

    >>> together = random_numbers([[1, 2], [3], [3]], n_steps=2, seed=0)
    >>> torch.equal(together[1:2], random_numbers([[3]], n_steps=2, seed=0))
    True
    >>> torch.equal(together[1], together[2])
    False
    """
    root = secrets.randbits(64) if seed is None else int(seed)
    copies: Counter[tuple[int, ...]] = Counter()
    rows = []
    for prompt in map(tuple, prompts):
        digest = hashlib.sha256(f"{root} {copies[prompt]} {prompt}".encode()).digest()
        copies[prompt] += 1
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        rows.append(torch.rand(n_steps, generator=generator, dtype=torch.float64))
    return torch.stack(rows)
