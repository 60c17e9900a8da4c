"""The same prompts several times, one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits.prompts.prompts import Prompts

_TENSORS = (
    "tokens",
    "mask",
    "targets",
    "corrupted",
    "answers",
    "distractors",
    "answer_sets",
    "distractor_sets",
)


def tiled(prompts: Prompts, times: int) -> Prompts:
    """All prompts, and all of them again, so many times: what is asked of each stays the same.

    >>> from circuits.checkpoints import load
    >>> from circuits.prompts import make
    >>> prompts = make("sorting", load("sort-abc"), 2)
    >>> tiled(prompts, 2).texts == prompts.texts * 2
    True
    """
    again: dict[str, Any] = {
        name: None if value is None else value.repeat(times, *[1] * (value.ndim - 1))
        for name in _TENSORS
        for value in [getattr(prompts, name)]
    }
    again["templates"] = None if prompts.templates is None else prompts.templates * times
    again["columns"] = {name: values * times for name, values in prompts.columns.items()}
    roles = {role: at.repeat(times) for role, at in prompts.roles.items()}
    return replace(prompts, texts=prompts.texts * times, roles=roles, **again)
