"""What does an ablation write instead? Where its values come from, also in words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.interventions import partners
from circuits.model import HookedModel
from circuits.prompts import TASKS, Prompts, make
from circuits.registry import PromptOptions
from circuits.registry.asked_prompts import Batch
from circuits.sweep import Source


def reference(
    model: HookedModel, prompts: Prompts, batch: Batch, method: str, options: PromptOptions
) -> tuple[Source, str]:
    """Where the values come from that are written instead; also in words.

    `prompts` are one block of the batch, which these options asked for.

    Raises:
        CircuitsError: for ``resample``, when a prompt is the only one of its length.
    """
    first, seed = batch.first, options.seed
    which = f"{'these' if batch.share == 1 else 'the first'} {len(first)} prompts"
    n_tokens = int(first.mask.sum())
    if method == "zero":
        return Source(method, prompts.tokens[:1, :1], prompts.mask[:1, :1]), "zeros"
    if method == "mean":
        words = f"the mean over the {n_tokens} tokens of {which}"
        return Source(method, first.tokens, first.mask), words
    if method == "position-mean":
        alike = "as long" if first.templates is None else "as long and of the same template"
        words = f"the mean at each position, over those of {which} that are {alike}"
        return Source(method, first.tokens, first.mask, templates=first.templates), words
    if method == "noise":
        # Every block of a long input draws anew.
        its_own = seed + int(prompts.checksum[:8], 16)
        spread = f"the mean and spread of the {n_tokens} tokens of {which}"
        words = f"noise with {spread} (seed {seed})"
        return Source(method, first.tokens, first.mask, its_own), words
    return _of_others(model, prompts, batch, method, options)


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
