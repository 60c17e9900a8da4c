"""This package with packed weights.

A sweep packs the weights by itself, where that pays, and here that is part of its time. For single
passes they are packed before, as by a user who stays inside ``with circuits.packed(model)``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from circuits import load as load_checkpoint
from circuits import packed
from experiments.benchmarks.items import Given
from experiments.benchmarks.peers import ours

SWEEPS = ("ablate_heads", "patch_residual", "patch_heads")


def load(folder: Path) -> SimpleNamespace:
    """The model, and the block ``with packed(model)`` that it is in, or not."""
    own = SimpleNamespace(model=load_checkpoint(folder), block=ExitStack(), is_packed=False)
    prepare(own, "forward")
    return own


def prepare(own: SimpleNamespace, item: str) -> None:
    """Enter the block or leave it, where that changes anything: leaving drops the packed copies."""
    wants = item not in SWEEPS
    if wants and not own.is_packed:
        own.block.enter_context(packed(own.model))
    elif own.is_packed and not wants:
        own.block.close()
    own.is_packed = wants


def forward(own: SimpleNamespace, given: Given) -> Any:
    return ours.forward(own.model, given)


def last_logits(own: SimpleNamespace, given: Given) -> Any:
    return ours.last_logits(own.model, given)


def full_cache(own: SimpleNamespace, given: Given) -> Any:
    return ours.full_cache(own.model, given)


def ablate_heads(own: SimpleNamespace, given: Given) -> Any:
    return ours.ablate_heads(own.model, given)


def patch_residual(own: SimpleNamespace, given: Given) -> Any:
    return ours.patch_residual(own.model, given)


def patch_heads(own: SimpleNamespace, given: Given) -> Any:
    return ours.patch_heads(own.model, given)


def attribution(own: SimpleNamespace, given: Given) -> Any:
    return ours.attribution(own.model, given)


def logit_lens(own: SimpleNamespace, given: Given) -> Any:
    return ours.logit_lens(own.model, given)


def generate(own: SimpleNamespace, given: Given) -> Any:
    return ours.generate(own.model, given)
