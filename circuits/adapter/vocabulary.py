"""A tokenizer of ``transformers`` with the methods of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from itertools import groupby
from typing import Any

from circuits.checkpoints.vocabulary import object_roles
from circuits.errors import TokenError
from circuits.tokenizer import UNUSED, Roles, Tokenizer

_UNDECODED = "\N{REPLACEMENT CHARACTER}"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes one


class TheirTokenizer(Tokenizer):
    """The tokenizer of a model of theirs, with the methods of ours.

    `theirs` is a ``PreTrainedTokenizerBase``. Start tokens are never added here: the model puts
    `bos_id` before a text where it is asked to.
    """

    def __init__(self, theirs: Any, *, name: str, n_vocab: int = 0) -> None:
        self.theirs = theirs
        vocabulary: dict[str, int] = theirs.get_vocab()
        ids = set(theirs.all_special_ids)
        special = {token: i for token, i in vocabulary.items() if i in ids}
        ranks = {token.encode(): i for token, i in vocabulary.items() if i not in ids}
        taken = set(vocabulary.values())
        self.unused = {i: UNUSED.format(i) for i in range(n_vocab) if i not in taken}
        special |= {token: i for i, token in self.unused.items()}
        super().__init__(ranks, special, name=name, roles=object_roles(theirs))

    def fitted(self, n_vocab: int) -> TheirTokenizer:
        """The same tokens, and names for the other ids of a model that embeds `n_vocab`.

        Raises:
            TokenError: when ordinary tokens lie beyond the model's vocabulary.
        """
        if beyond := sum(i >= n_vocab for i in self.ranks.values()):
            raise TokenError(
                f"the vocabulary {self.name!r} has {beyond} tokens more than the model's {n_vocab}"
            )
        return self._remade(n_vocab, self.roles.within(n_vocab))

    def with_roles(self, roles: Roles) -> TheirTokenizer:
        """The same tokens, of which these start, end and fill up a text."""
        return self._remade(self.n_vocab, roles)

    def _remade(self, n_vocab: int, roles: Roles) -> TheirTokenizer:
        tokenizer = TheirTokenizer(self.theirs, name=self.name, n_vocab=n_vocab)
        tokenizer.roles = roles
        return tokenizer

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the vocabulary."""
        tokens = sorted((i, token) for token, i in self.theirs.get_vocab().items())
        return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Which token ids is this text made of? Without a start token.

        Raises:
            TokenError: when a word is in no token, so that it would be lost.
        """
        ids: list[int] = self.theirs.encode(text, add_special_tokens=False)
        unknown = self.theirs.unk_token_id
        if unknown is not None and unknown in ids and self.theirs.unk_token not in text:
            raise TokenError(f"the vocabulary {self.name!r} has no token for a part of {text!r}")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Which text do these tokens spell?

        Raises:
            TokenError: for an id outside the vocabulary.
        """
        texts: list[str] = []
        for is_unused, run in groupby(self._checked(ids), self.unused.__contains__):
            row = list(run)
            if is_unused:
                texts += [self.unused[i] for i in row]
            else:
                texts.append(self.theirs.decode(row, clean_up_tokenization_spaces=False))
        return "".join(texts)

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        """How does each token read by itself?

        Raises:
            TokenError: for an id outside the vocabulary.
        """
        checked = self._checked(ids)
        pieces: list[str] = self.theirs.convert_ids_to_tokens(checked)
        return [
            self.unused.get(i) or self._reads(i, piece)
            for i, piece in zip(checked, pieces, strict=True)
        ]

    def _reads(self, token: int, piece: str) -> str:
        """The token's text. Decoding would drop a space before it, or parts of a character."""
        if _SPACE in piece:
            return piece.replace(_SPACE, " ")
        text = self.decode([token])
        return piece if _UNDECODED in text or not text else text

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = [int(i) for i in ids]
        if bad := sorted(i for i in set(ids) if not 0 <= i < self.n_vocab):
            raise TokenError(
                f"{bad[:4]}: no such token ids in the vocabulary {self.name!r}, whose ids run "
                f"from 0 to {self.n_vocab - 1}"
            )
        return ids

    def _knows(self, char: str) -> bool:
        unknown = self.theirs.unk_token_id
        return unknown is None or unknown not in self.theirs.encode(char, add_special_tokens=False)
