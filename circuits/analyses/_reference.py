"""What does an ablation write instead? Where its values come from, also in words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.analyses._prompts import Batch
from circuits.interventions import Source, get_method, partners
from circuits.model import HookedModel
from circuits.prompts import TASKS, Prompts, make
from circuits.registry import PromptOptions


def reference(
    model: HookedModel, prompts: Prompts, batch: Batch, method: str, options: PromptOptions
) -> tuple[Source, str]:
    """Where do the values come from that are written instead? Also in words.

    `prompts` are one block of the batch, which these options asked for.

    Raises:
        CircuitsError: when values are taken row by row, and a prompt is the only one of its length.
    """
    rule, first = get_method(method), batch.first
    if rule.needs == "rows":
        source, others = _of_others(model, prompts, batch, method, options)
        return source, rule.source.format(others=others)
    words = rule.source.format(
        which=f"{'these' if batch.share == 1 else 'the first'} {len(first)} prompts",
        n_tokens=int(first.mask.sum()),
        alike="as long" if first.templates is None else "as long and of the same template",
        seed=options.seed,
    )
    if rule.needs == "nothing":
        return Source(method, prompts.tokens[:1, :1], prompts.mask[:1, :1]), words
    # Every block of a long input draws anew.
    seed = options.seed + int(prompts.checksum[:8], 16) if rule.drawn else 0
    templates = first.templates if rule.needs == "alike" else None
    return Source(method, first.tokens, first.mask, seed, templates), words


def _of_others(
    model: HookedModel, prompts: Prompts, batch: Batch, method: str, options: PromptOptions
) -> tuple[Source, str]:
    """Other prompts of the task if they can be drawn, else the block's own in another order."""
    drawn_with, first, seed = prompts.seed, batch.first, options.seed
    if drawn_with is not None and prompts.task in TASKS and options.task is not prompts:
        others = make(prompts.task, model, len(prompts), drawn_with + 1)
        if others.mask.equal(prompts.mask):
            words = f"{len(prompts)} other {prompts.task} prompts (seed {drawn_with + 1})"
            return Source(method, others.tokens, others.mask), words
    if batch.share == 1:
        words = f"another of these {len(first)} prompts (seed {seed})"
    else:
        words = f"another of its block of {len(first)} or of the first (seed {seed})"
    tokens, mask = prompts.tokens, prompts.mask
    if not torch.equal(tokens, first.tokens):
        tokens, mask = _stacked(tokens, first.tokens), _stacked(mask, first.mask)
    rows, width = partners(mask, seed)[: len(prompts)], prompts.tokens.shape[1]
    return Source(method, tokens[rows, :width], mask[rows, :width]), words


def _stacked(rows: Tensor, more: Tensor) -> Tensor:
    """Both, one above the other, padded on the right to the same width."""
    width = max(rows.shape[1], more.shape[1])
    return torch.cat([F.pad(part, (0, width - part.shape[1])) for part in (rows, more)])
