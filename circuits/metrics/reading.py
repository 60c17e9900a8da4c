"""Where metrics read, and what they make of it: the parts that several share.

Shapes: b prompts, p positions, v vocabulary, n positions read over all prompts (row by row).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from circuits.prompts import Prompts


def end(prompts: Prompts) -> Tensor:
    """[b p], True at each prompt's END."""
    columns = torch.arange(prompts.tokens.shape[1], device=prompts.tokens.device)
    return columns == rearrange(prompts.roles["END"], "b -> b 1")


def scored(prompts: Prompts) -> Tensor:
    """[b p], True where the next token is scored."""
    return prompts.targets >= 0


def scored_and_end(prompts: Prompts) -> Tensor:
    """[b p], True where the next token is scored, and at each prompt's END."""
    return scored(prompts) | end(prompts)


def answered(prompts: Prompts) -> Tensor:
    """[b p], True where the next token is scored; with sets of answers alone, at each END."""
    at = scored(prompts)
    return at if prompts.answer_sets is None or bool(at.any()) else end(prompts)


def pair(prompts: Prompts) -> Tensor:
    """[b 2]: the answer and the distractor, read at END."""
    assert prompts.answers is not None
    assert prompts.distractors is not None
    return torch.stack([prompts.answers, prompts.distractors], 1)


def sets(prompts: Prompts, *, single: bool = False) -> tuple[Tensor | None, Tensor | None]:
    """The tokens that are right and those that are wrong after END [b t], filled up with -1.

    Where a task has no sets, or a `single` token of each is wanted, answer and distractor are sets.
    """
    pairs = (
        (prompts.answer_sets, prompts.answers),
        (prompts.distractor_sets, prompts.distractors),
    )
    right, wrong = (
        several
        if several is not None and not single
        else None
        if alone is None
        else rearrange(alone, "b -> b 1")
        for several, alone in pairs
    )
    return right, wrong


def set_probs(probs: Tensor, tokens: Tensor | None) -> Tensor:
    """The probability that any of these tokens follows: [n v], [n t] -> [n]; -1 is no token."""
    assert tokens is not None
    tokens = tokens.to(probs.device)
    return (probs.gather(1, tokens.clamp(min=0)) * (tokens >= 0)).sum(1)


def per_prompt(values: Tensor, positions: Tensor) -> Tensor:
    """The mean over each prompt's positions: values [n], positions [b p] -> [b]."""
    positions = positions.to(values.device)
    total = values.new_zeros(positions.shape).masked_scatter(positions, values).sum(1)
    return total / positions.sum(1)


def target_log_probs(logits: Tensor, prompts: Prompts) -> Tensor:
    """The log-probability of each scored token: [n v] -> [n]."""
    targets = prompts.targets[scored(prompts)].to(logits.device)
    return logits.log_softmax(-1).gather(1, rearrange(targets, "n -> n 1")).squeeze(1)


def divergence(expected: Tensor, given: Tensor) -> Tensor:
    """KL(expected || given) in nats, from the log-probabilities of both [... v] -> [...].

    >>> same = torch.zeros(2, 4).log_softmax(-1)
    >>> divergence(same, same)
    tensor([0., 0.])
    """
    return (expected.exp() * (expected - given)).sum(-1)
