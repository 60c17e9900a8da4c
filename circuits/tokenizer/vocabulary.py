"""Text to token ids and back: tiktoken merges what stands between a vocabulary's added tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tiktoken

from circuits.errors import TokenError
from circuits.files import named_path
from circuits.tokenizer import reading, writing
from circuits.tokenizer.added import AddedToken, AddedTokens
from circuits.tokenizer.byte_pairs import CHARACTERS, GPT2_PATTERN, UNUSED, reads_as
from circuits.tokenizer.roles import Roles, roles_by_name


class Tokenizer:
    """Text to token ids and back.

    Args:
        ranks: each ordinary token's bytes and its id, lower ids merging first.
        special: the other tokens' names and ids.
        name: what messages call the vocabulary.
        pattern: the regular expression that splits a text before anything is merged.
        roles: which tokens start, end and fill up a text; None: those whose names say so.
        added: which of the special tokens are looked for in texts, and how; None: all of them, as
            they stand. The others have a name, and no text is made of them.
        prefix_space: whether a space is put before a text, and behind every added token, that has
            none there.

    >>> letters = Tokenizer.characters("ABC")
    >>> letters.encode("CAB"), letters.decode([2, 0, 1])
    ([2, 0, 1], 'CAB')
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special: Mapping[str, int],
        *,
        name: str,
        pattern: str = GPT2_PATTERN,
        roles: Roles | None = None,
        added: Iterable[AddedToken] | None = None,
        prefix_space: bool = False,
    ) -> None:
        self.name, self.pattern, self.prefix_space = name, pattern, prefix_space
        self.ranks, self.special = dict(ranks), dict(special)
        self.roles = roles_by_name(special) if roles is None else roles
        every = [AddedToken(token, i) for token, i in special.items()]
        self.added = tuple(sorted(every if added is None else added, key=lambda token: token.id))
        # An ordinary token may be looked for as it stands, too; it keeps its id.
        both = sum(self.ranks.get(reads_as(token)) == i for token, i in special.items())
        ids = {*self.ranks.values(), *self.special.values()}
        if not ids or len(ids) < len(self.ranks) + len(self.special) - both or min(ids) < 0:
            raise TokenError(f"the vocabulary {name!r} must give every token an id of its own")

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, {self.n_vocab} tokens)"

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a checkpoint folder.

        Reads what transformers reads, in its order: ``tokenizer.json``, otherwise ``vocab.json``
        and ``merges.txt`` (or OpenAI's names for them) with ``added_tokens.json``; then
        ``tokenizer_config.json`` and ``special_tokens_map.json``; and which tokens start, end and
        fill up a text in these, in ``config.json`` and in ``generation_config.json``.

        Raises:
            TokenError: when the folder has no vocabulary, or its files contradict each other.
        """
        return reading.read_folder(cls, named_path(folder))

    @classmethod
    def from_json(cls, text: str, *, name: str, roles: Roles | None = None) -> Tokenizer:
        """The tokenizer that the text of a Hugging Face ``tokenizer.json`` describes.

        Raises:
            TokenError: when it is not a byte-level BPE that splits text as GPT-2 does.
        """
        return reading.read_json(cls, text, name=name, roles=roles)

    @classmethod
    def gpt2(cls, *, download: bool = True) -> Tokenizer:
        """GPT-2's own 50,257 tokens, from tiktoken's cache, or else downloaded into it.

        Raises:
            TokenError: when they are not cached and cannot, or may not, be downloaded.
        """
        ranks, special = reading.read_cache(download=download)
        return cls(ranks, special, name="gpt2")

    @classmethod
    def characters(
        cls, letters: str, special: Sequence[str] = (), *, name: str = "characters"
    ) -> Tokenizer:
        """One token a letter, of any script, in the order given; the special tokens follow.

        Raises:
            TokenError: for a repeated letter, or a special token not in brackets.

        >>> from circuits.tokenizer import END_OF_TEXT
        >>> Tokenizer.characters("Aé日", [END_OF_TEXT]).encode("日é<|endoftext|>")
        [2, 1, 3]
        """
        if len(set(letters)) < len(letters) or any(
            0xD800 <= ord(char) < 0xE000 for char in letters
        ):
            raise TokenError(f"{letters!r}: give each letter once, and whole characters only")
        if loose := [token for token in special if not reading.bracketed(token)]:
            raise TokenError(f"special tokens {loose!r} need brackets, such as '<|endoftext|>'")
        ranks = {letter.encode(): i for i, letter in enumerate(letters)}
        ids = {token: len(letters) + i for i, token in enumerate(special)}
        return cls(ranks, ids, name=name, pattern=CHARACTERS)

    def with_roles(self, roles: Roles) -> Tokenizer:
        """The same tokens, of which these start, end and fill up a text."""
        return self._changed(roles=roles)

    def fitted(self, n_vocab: int) -> Tokenizer:
        """The same tokens for a model that embeds exactly `n_vocab` ids.

        Models often pad their vocabulary to a round number; the ids without a token get one named
        ``<|unused_50257|>``, so that every id the model can predict has a name. Special tokens
        that the model does not embed are dropped, with the end or padding they may have been.

        Raises:
            TokenError: when tokens that texts are made of, or the start token, lie beyond the
                model's vocabulary.
        """
        needed = {*self.ranks.values(), *(token.id for token in self.added if not token.special)}
        beyond = sum(i >= n_vocab for i in needed)
        if beyond:
            raise TokenError(
                f"the vocabulary {self.name!r} has {beyond} tokens more than the model's {n_vocab}"
            )
        roles = self.roles
        if roles.bos_id is not None and not 0 <= roles.bos_id < n_vocab:
            raise TokenError(
                f"the start token of the vocabulary {self.name!r} has the id {roles.bos_id}, and "
                f"the model embeds ids from 0 to {n_vocab - 1}: give the vocabulary the start "
                "token that the model was trained with"
            )
        special = {token: i for token, i in self.special.items() if i < n_vocab}
        taken = {*self.ranks.values(), *special.values()}
        special |= {UNUSED.format(i): i for i in range(n_vocab) if i not in taken}
        roles = roles.within(n_vocab)
        if special == self.special and roles == self.roles:
            return self
        added = [token for token in self.added if token.id < n_vocab]
        return self._changed(special=special, added=added, roles=roles)

    def _changed(
        self,
        *,
        special: Mapping[str, int] | None = None,
        added: Iterable[AddedToken] | None = None,
        roles: Roles | None = None,
    ) -> Tokenizer:
        return Tokenizer(
            self.ranks,
            self.special if special is None else special,
            name=self.name,
            pattern=self.pattern,
            roles=roles or self.roles,
            added=self.added if added is None else added,
            prefix_space=self.prefix_space,
        )

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        """The tiktoken object that merges what stands between added tokens."""
        return tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=self.ranks, special_tokens={}
        )

    @cached_property
    def _added_tokens(self) -> AddedTokens:
        return AddedTokens(self.added)

    @cached_property
    def n_vocab(self) -> int:
        """The highest id, plus 1."""
        return max([*self.ranks.values(), *self.special.values()]) + 1

    @property
    def bos_id(self) -> int | None:
        """The token at the start of a text; None when the vocabulary has none."""
        return self.roles.bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text: none, one, or several."""
        return self.roles.eos_ids

    @property
    def pad_id(self) -> int | None:
        """The token that fills up a batch; None when the vocabulary has none."""
        return self.roles.pad_id

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the vocabulary: the same checksum means the same tokens of the same texts.

        Roles do not count. A flag of an added token, or the space before a text, does.
        """
        ordinary = sorted((i, token.hex()) for token, i in self.ranks.items())
        special = sorted((i, token) for token, i in self.special.items())
        content: list[object] = [ordinary, special]
        wishes = [
            [token.id, token.flags | {"special": False}]
            for token in self.added
            if not token.is_plain
        ]
        matched = {token.id for token in self.added}
        mute = [i for i, token in special if i not in matched and token != UNUSED.format(i)]
        if wishes or mute or self.prefix_space:
            content += [wishes, mute, self.prefix_space]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The token ids of a text. An added token's name counts as that token.

        Raises:
            TokenError: when a small vocabulary has no token for a character.
        """
        ids: list[int] = []
        for piece in self._added_tokens.split(text):
            if isinstance(piece, int):
                ids.append(piece)
                continue
            if self.prefix_space and not piece.startswith(" "):
                piece = f" {piece}"
            if self._missing_bytes:
                self._refuse_unknown(piece)
            ids += self.encoding.encode_ordinary(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text that these tokens spell. Bytes that are no text become the character U+FFFD.

        Raises:
            TokenError: for an id outside the vocabulary.
        """
        return self._token_bytes(ids).decode(errors="replace")

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        r"""Each token as it reads by itself.

        A token may be part of a character; its bytes are then spelled out, as in ``\xe2\x80``, so
        that different tokens never look the same.

        Raises:
            TokenError: for an id outside the vocabulary.

        >>> Tokenizer.characters("AB").token_strings([1, 0])
        ['B', 'A']
        """
        return [self._token_bytes([i]).decode(errors="backslashreplace") for i in ids]

    def single_token(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
            TokenError: when it is several tokens, or none; the message shows the split.
        """
        ids = self.encode(text)
        if len(ids) == 1:
            return ids[0]
        split = " | ".join(f"'{token}'" for token in self.token_strings(ids)) or "empty"
        bare = text and not text.startswith(" ") and self._knows(" ")
        spaced = bare and len(self.encode(f" {text}")) == 1
        hint = f"; with a leading space it is one: {' ' + text!r}" if spaced else ""
        raise TokenError(
            f"{text!r} is {len(ids)} tokens in the vocabulary {self.name!r} ({split}), and one "
            f"token is needed{hint}"
        )

    def save(self, folder: str | Path) -> None:
        """Write the files that `from_folder` and Hugging Face read, flags and roles included.

        Raises:
            TokenError: when the vocabulary cannot be expressed as merges of pairs.
        """
        writing.write_folder(self, named_path(folder))

    def _token_bytes(self, ids: Iterable[int]) -> bytes:
        ids = [int(i) for i in ids]
        try:
            return b"".join(self._bytes_of[i] for i in ids)
        except KeyError:
            bad = sorted({*ids}.difference(self._bytes_of))
            raise TokenError(
                f"{bad[:4]}: no such token ids in the vocabulary {self.name!r}, whose ids run "
                f"from 0 to {self.n_vocab - 1}"
            ) from None

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        named = {i: token.encode() for token, i in self.special.items()}
        return named | {i: token for token, i in self.ranks.items()}

    @cached_property
    def _missing_bytes(self) -> frozenset[int]:
        """The bytes without a token: none in GPT-2, most in a vocabulary of a few letters."""
        return frozenset(b for b in range(256) if bytes([b]) not in self.ranks)

    def _knows(self, char: str) -> bool:
        data = char.encode(errors="surrogatepass")
        return data in self.ranks or self._missing_bytes.isdisjoint(data)

    def _refuse_unknown(self, text: str) -> None:
        unknown = [char for char in sorted(set(text)) if not self._knows(char)]
        if unknown:
            known = self.token_strings(sorted(self.ranks.values())[:80])
            raise TokenError(
                f"the vocabulary {self.name!r} has no token for {''.join(unknown)!r}; it knows "
                f"{''.join(known)!r}{' and more' if len(self.ranks) > 80 else ''}"
            )
