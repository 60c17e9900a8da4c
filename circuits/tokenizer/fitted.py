"""A model's vocabulary: always one that names exactly the ids that the model embeds."""

from __future__ import annotations

from typing import Protocol

from circuits.config import ModelConfig
from circuits.errors import TokenError
from circuits.tokenizer.vocabulary import Tokenizer

NO_VOCABULARY = (
    "has no tokenizer; give token ids, or set model.tokenizer (its checkpoint brings no vocabulary "
    "that can be read, which is a tokenizer.json, or vocab.json and merges.txt; if it speaks "
    "English as GPT-2 does, set circuits.Tokenizer.gpt2())"
)


class _Model(Protocol):
    @property
    def cfg(self) -> ModelConfig:
        """The model's shape."""


class FittedTokenizer:
    """An attribute of a model that holds a tokenizer, fitted to the model's ids when it is set."""

    def __get__(self, model: _Model, owner: type) -> Tokenizer | None:
        """The tokenizer, or None."""
        return vars(model).get("_tokenizer")

    def __set__(self, model: _Model, tokenizer: Tokenizer | None) -> None:
        """Fit it.

        Raises:
            TokenError: for something else, and for a vocabulary that is larger than the model's.
        """
        if not (tokenizer is None or isinstance(tokenizer, Tokenizer)):
            raise TokenError(
                f"model.tokenizer takes a circuits.Tokenizer or None, not a "
                f"{type(tokenizer).__module__}.{type(tokenizer).__name__}; "
                "Tokenizer.from_folder and Tokenizer.from_json read those of transformers"
            )
        vars(model)["_tokenizer"] = tokenizer and tokenizer.fitted(model.cfg.d_vocab)
