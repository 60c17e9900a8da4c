"""The tokenizer of an adapted model."""

from __future__ import annotations

from typing import Any

from circuits.checkpoints.vocabulary import object_roles
from circuits.tokenizer import LibraryTokenizer


class TheirTokenizer(LibraryTokenizer):
    """The tokenizer of a model of theirs, a ``PreTrainedTokenizerBase``, with our methods."""

    def __init__(self, theirs: Any, *, name: str) -> None:
        super().__init__(theirs, name=name, roles=object_roles(theirs))
