"""A view on a model: which tokens, which position, which two tokens are followed, which twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits.errors import CircuitsError, TokenError, brief
from circuits.prompts import Prompts
from circuits.prompts.prompts import Example, assemble

if TYPE_CHECKING:
    from circuits.explorer.view import Token, View
    from circuits.model import HookedModel


@dataclass(frozen=True, eq=False)
class Subject:
    """What a view is about, in the terms of its model. p positions.

    Attributes:
        view: what was asked about.
        ids: the prompt's tokens, the start token included.
        at: the position after which is predicted, from 0.
        twin: the contrast's tokens, where there is one.
        unaligned: why contrast and prompt cannot be compared token by token, if they cannot.
        has_start: whether the first token is the start token.
    """

    model: HookedModel
    view: View
    ids: tuple[int, ...]
    at: int
    twin: tuple[int, ...] | None
    unaligned: str | None
    has_start: bool

    @property
    def tokens(self) -> Tensor:
        """The prompt [1 p]."""
        return _row(self.model, self.ids)

    @property
    def cut(self) -> tuple[int, ...]:
        """The prompt's tokens up to `at`: later ones change nothing there."""
        return self.ids[: self.at + 1]

    @property
    def text(self) -> str | None:
        """The text of `cut`, without a start token; None where it is read as other tokens."""
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            return None
        ids = list(self.cut[1:] if self.has_start else self.cut)
        text = tokenizer.decode(ids)
        return text if ids and _reads(self.model, text) == ids else None

    def require_twin(self) -> tuple[int, ...]:
        """The contrast's tokens, up to the position that is looked at.

        Raises:
            CircuitsError: when there is none, it cannot be aligned, or differs only later.
        """
        if self.twin is None:
            raise CircuitsError("this needs a second, contrasting prompt; write one")
        if self.unaligned is not None:
            raise CircuitsError(self.unaligned)
        twin = self.twin[: self.at + 1]
        if twin == self.cut:
            raise CircuitsError(
                f"up to position {self.at} prompt and contrast are the same, so there is nothing "
                "to patch; look at a later position, or change an earlier word"
            )
        return twin

    def prompts(self, answer: int, distractor: int, *, paired: bool = False) -> Prompts:
        """The prompt up to `at`, asked for the answer over the distractor; `paired` with its twin.

        Raises:
            CircuitsError: when a twin is asked for and there is none that fits.
        """
        twin = self.require_twin() if paired else None
        text = " ".join(words(self.model, self.cut))
        example = Example(self.text or text, self.cut, answer, distractor, twin)
        prompts = assemble(
            self.model, [example], task="prompt", metric="logit_diff", prepend_bos=self.has_start
        )
        return replace(prompts, mask=torch.ones_like(prompts.mask))


def subject(model: HookedModel, view: View) -> Subject:
    """The view's subject.

    Raises:
        CircuitsError: for a position that the prompt does not have.
        TokenError: for a prompt without tokens, or longer than the context.
    """
    ids = _tokens(model, view.prompt, "the prompt")
    if not -len(ids) <= view.at < len(ids):
        raise CircuitsError(
            f"there is no position {view.at}: the prompt has {len(ids)} tokens, so choose 0 to "
            f"{len(ids) - 1}; negative ones count from the end"
        )
    twin = unaligned = None
    if view.contrast:
        twin = _tokens(model, view.contrast, "the contrast")
        if len(twin) != len(ids):
            unaligned = (
                f"the prompt has {len(ids)} tokens and the contrast {len(twin)}; the two are "
                "compared token by token, so reword one of them until they are equally long"
            )
        elif twin == ids:
            unaligned = "prompt and contrast are the same; change in one the word that matters"
    return Subject(model, view, ids, view.at % len(ids), twin, unaligned, _starts(model))


def token_id(model: HookedModel, given: Token, what: str) -> int:
    """The id of a token that was given as text, with or without its leading space, or as id.

    Raises:
        TokenError: when it is no token, or several.
    """
    if isinstance(given, int):
        if not 0 <= given < model.cfg.d_vocab:
            raise TokenError(
                f"{what}: there is no token {given}; ids go from 0 to {model.cfg.d_vocab - 1}"
            )
        return given
    tokenizer = model.tokenizer
    if tokenizer is None:
        if not given.strip().isdecimal():
            raise TokenError(f"{what} is {brief(given)}; this model has no vocabulary: give an id")
        return token_id(model, int(given), what)
    spaced = f" {given}"
    try:
        return tokenizer.single_token(given)
    except TokenError as error:
        try:
            return tokenizer.single_token(spaced)
        except TokenError:
            raise TokenError(f"{what}: {error}") from error


def words(model: HookedModel, ids: Sequence[int]) -> list[str]:
    """Each token as it reads by itself; its id where there is no tokenizer."""
    if model.tokenizer is None:
        return [str(i) for i in ids]
    return model.tokenizer.token_strings(ids)


def _tokens(model: HookedModel, text: str, what: str) -> tuple[int, ...]:
    """The ids of a text, with the start token that this model expects."""
    ids = _reads(model, text)
    if _starts(model):
        assert model.tokenizer is not None
        ids = [*([model.tokenizer.bos_id] if model.tokenizer.bos_id is not None else []), *ids]
    if not ids:
        raise TokenError(f"{what} has no tokens; write at least one word")
    if len(ids) > model.cfg.n_ctx:
        raise TokenError(
            f"{what} has {len(ids)} tokens, and {model.cfg.model_name} reads at most "
            f"{model.cfg.n_ctx}; shorten it"
        )
    return tuple(ids)


def _reads(model: HookedModel, text: str) -> list[int]:
    """The tokens of a text, without a start token."""
    if model.tokenizer is not None:
        return model.tokenizer.encode(text)
    numbers = text.replace(",", " ").split()
    wrong = [n for n in numbers if not (n.isdecimal() and int(n) < model.cfg.d_vocab)]
    if wrong:
        raise TokenError(
            f"{model.cfg.model_name} has no tokenizer, and {brief(wrong[0])} is no token id; write "
            f"ids from 0 to {model.cfg.d_vocab - 1}, separated by spaces"
        )
    return [int(n) for n in numbers]


def _starts(model: HookedModel) -> bool:
    tokenizer = model.tokenizer
    return model.cfg.default_prepend_bos and tokenizer is not None and tokenizer.bos_id is not None


def _row(model: HookedModel, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=model.W_E.device)
