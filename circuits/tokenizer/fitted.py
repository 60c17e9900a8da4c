"""A model's vocabulary: always one that names exactly the ids that the model embeds."""

from __future__ import annotations

from typing import Protocol

from circuits.config import ModelConfig
from circuits.errors import TokenError
from circuits.tokenizer.roles import Roles
from circuits.tokenizer.vocabulary import Tokenizer


def no_tokenizer(model_name: str, but: str = ", and this needs one; ") -> TokenError:
    """What to say where words are to be read, or written, and the model has no vocabulary."""
    return TokenError(
        f"{model_name} has no tokenizer{but}set "
        "model.tokenizer (its checkpoint brings no vocabulary that can be read, a tokenizer.json, "
        "or vocab.json and merges.txt; if it speaks English as GPT-2 does, set "
        "circuits.Tokenizer.gpt2())"
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


class ModelRoles:
    """An attribute of a model: which tokens start, end and fill up its texts.

    Its tokenizer's; those that its checkpoint gives where it has none.
    """

    def __get__(self, model: _Model, owner: type) -> Roles:
        """The tokenizer's roles, or those that were set."""
        tokenizer: Tokenizer | None = vars(model).get("_tokenizer")
        untold: Roles = vars(model).get("_roles", Roles())
        return untold if tokenizer is None else tokenizer.roles

    def __set__(self, model: _Model, roles: Roles) -> None:
        """Give the tokenizer these roles, or keep them where there is none."""
        tokenizer: Tokenizer | None = vars(model).get("_tokenizer")
        vars(model)["_roles"] = roles.within(model.cfg.d_vocab)
        if tokenizer is not None:
            vars(model)["_tokenizer"] = tokenizer.with_roles(roles).fitted(model.cfg.d_vocab)
