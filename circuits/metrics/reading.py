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


def last(prompts: Prompts) -> Tensor:
    """[b p], True at each prompt's last token, which need not be END."""
    return prompts.mask & (prompts.mask.cumsum(1) == prompts.mask.sum(1, keepdim=True))


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
    """[b t]: the answer and the distractor, or where they are sets, all of both; read at END.

    Where a set is filled up, token 0 is read, which `sides` leaves out again.
    """
    return torch.cat(_both(prompts), 1).clamp(min=0)


def sides(logits: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """What was read of `pair` [b t], the right tokens and the wrong ones; -inf is no token."""
    right, wrong = _both(prompts)
    absent = (torch.cat([right, wrong], 1) < 0).to(logits.device)
    split = logits.masked_fill(absent, -torch.inf).split([right.shape[1], wrong.shape[1]], 1)
    return split[0], split[1]


def _both(prompts: Prompts) -> tuple[Tensor, Tensor]:
    right, wrong = sets(prompts, single=True)
    assert right is not None
    assert wrong is not None
    return right, wrong


def sets(prompts: Prompts, *, single: bool = False) -> tuple[Tensor | None, Tensor | None]:
    """The tokens that are right and those that are wrong after END [b t], filled up with -1.

    Where a task has no sets, answer and distractor are sets; also where it has both, if a `single`
    token of each is wanted.
    """
    alone = tuple(
        None if token is None else token[:, None]
        for token in (prompts.answers, prompts.distractors)
    )
    if single and None not in alone:
        return alone[0], alone[1]
    several = (prompts.answer_sets, prompts.distractor_sets)
    right, wrong = (a if b is None else b for a, b in zip(alone, several, strict=True))
    return right, wrong


def set_probs(probs: Tensor, tokens: Tensor | None) -> Tensor:
    """The probability that any of these tokens follows: [n v], [n t] -> [n]; -1 is no token."""
    assert tokens is not None
    tokens = tokens.to(probs.device)
    return (probs.gather(1, tokens.clamp(min=0)) * (tokens >= 0)).sum(1)


def set_log_probs(log_probs: Tensor, tokens: Tensor | None) -> Tensor:
    """The logarithm of that probability: [n v], [n t] -> [n]."""
    assert tokens is not None
    tokens = tokens.to(log_probs.device)
    of_each = log_probs.gather(1, tokens.clamp(min=0))
    return of_each.masked_fill(tokens < 0, -torch.inf).logsumexp(1)


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
