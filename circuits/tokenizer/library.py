"""A tokenizer of the libraries ``transformers`` or ``tokenizers`` with the methods of ours.

`library_tokenizer` reads any ``tokenizer.json``: byte-level merges with a splitter of their own,
merges of characters with bytes for the rest, Unigram. GPT-2's kind has a shorter way: see
`circuits.tokenizer.reading`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from circuits.errors import TokenError
from circuits.tokenizer.byte_pairs import UNUSED
from circuits.tokenizer.reading import JSON_FILE
from circuits.tokenizer.roles import Roles
from circuits.tokenizer.settings import Settings
from circuits.tokenizer.vocabulary import Tokenizer

_UNDECODED = "\N{REPLACEMENT CHARACTER}"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes one


class LibraryTokenizer(Tokenizer):
    """A tokenizer of another library, with the methods of ours.

    `theirs` is a ``PreTrainedTokenizerBase``, or has its methods. Start tokens are never added
    here: the model puts `bos_id` before a text where it is asked to.
    """

    def __init__(self, theirs: Any, *, name: str, roles: Roles, n_vocab: int = 0) -> None:
        self.theirs = theirs
        vocabulary: dict[str, int] = theirs.get_vocab()
        ids = set(theirs.all_special_ids)
        special = {token: i for token, i in vocabulary.items() if i in ids}
        ranks = {token.encode(): i for token, i in vocabulary.items() if i not in ids}
        taken = set(vocabulary.values())
        self.unused = {i: UNUSED.format(i) for i in range(n_vocab) if i not in taken}
        special |= {token: i for i, token in self.unused.items()}
        super().__init__(ranks, special, name=name, roles=roles)

    def fitted(self, n_vocab: int) -> LibraryTokenizer:
        """The same tokens, and names for the other ids of a model that embeds `n_vocab`.

        Raises:
            TokenError: when ordinary tokens lie beyond the model's vocabulary.
        """
        if beyond := sum(i >= n_vocab for i in self.ranks.values()):
            raise TokenError(
                f"the vocabulary {self.name!r} has {beyond} tokens more than the model's {n_vocab}"
            )
        return self._remade(n_vocab, self.roles.within(n_vocab))

    def with_roles(self, roles: Roles) -> LibraryTokenizer:
        """The same tokens, of which these start, end and fill up a text."""
        return self._remade(self.n_vocab, roles)

    def _remade(self, n_vocab: int, roles: Roles) -> LibraryTokenizer:
        return LibraryTokenizer(self.theirs, name=self.name, roles=roles, n_vocab=n_vocab)

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

    def single_token(self, text: str) -> int:
        """The id of a text that is one token.

        SentencePiece puts a space before a text: where one stands there already, it is the same.

        Raises:
            TokenError: when it is several tokens, or none; the message shows the split.
        """
        ids = self.encode(text) if text.startswith(" ") else []
        if len(ids) == 2 and self.theirs.convert_ids_to_tokens(ids)[0] == _SPACE:
            return ids[1]
        return super().single_token(text)

    def save(self, folder: str | Path) -> None:
        """Nothing: this vocabulary is kept where it came from.

        Raises:
            TokenError: always.
        """
        raise TokenError(
            f"the vocabulary {self.name!r} is another library's; copy its tokenizer.json instead"
        )

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


class _Library:
    """A ``tokenizers.Tokenizer`` with those methods of ``transformers`` that are needed above."""

    def __init__(self, backend: Any, unk_token: str | None) -> None:
        self._backend = backend
        self.unk_token = unk_token
        self.unk_token_id = None if unk_token is None else backend.token_to_id(unk_token)
        added = backend.get_added_tokens_decoder()
        self.special = {token.content: i for i, token in added.items() if token.special}
        self.all_special_ids = [*self.special.values()]

    def get_vocab(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocabulary

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        encoded = self._backend.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.ids
        return ids

    def decode(self, ids: list[int], *, clean_up_tokenization_spaces: bool = False) -> str:
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self._backend.id_to_token(i) for i in ids]


def library_tokenizer(folder: Path) -> LibraryTokenizer | None:
    """The tokenizer of this folder's ``tokenizer.json``, as transformers reads it; None without.

    Whether a text begins with the start token is what ``tokenizer_config.json`` says of it
    (``add_bos_token``), otherwise what tokenizer.json itself does.

    Raises:
        TokenError: when the file is damaged, or the folder's files contradict each other.
    """
    path = folder / JSON_FILE
    if not path.is_file():
        return None
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises plain ones
        raise TokenError(f"{path} cannot be read: {error}") from error
    settings = Settings.of(folder)
    model = json.loads(backend.to_str())["model"]
    unknown = model.get("unk_token")
    if model.get("unk_id") is not None:  # Unigram's
        unknown = backend.id_to_token(model["unk_id"])
    theirs = _Library(backend, unknown)
    roles = settings.roles(theirs.get_vocab(), theirs.special, False)
    adds = settings.tokenizer.get("add_bos_token")
    if adds is None:
        adds = backend.encode("", add_special_tokens=True).ids[:1] == [roles.bos_id]
    roles = replace(roles, adds_bos=bool(adds) and roles.bos_id is not None)
    return LibraryTokenizer(theirs, name=folder.name, roles=roles)
