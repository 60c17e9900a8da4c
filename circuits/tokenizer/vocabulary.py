"""Text to token ids and back: tiktoken behind one small class.

A vocabulary comes from a checkpoint's folder (``vocab.json`` and ``merges.txt``, OpenAI's
``encoder.json`` and ``vocab.bpe``, or ``tokenizer.json``), so no network is needed; plain GPT-2's
comes from tiktoken's cache. tiktoken merges by token id, Hugging Face by the list of merges: a
folder in which the two would differ is refused, so both libraries always give the same tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from circuits.errors import TokenError
from circuits.tokenizer.byte_pairs import BYTE_OF, split_token, to_bytes, to_chars
from circuits.tokenizer.roles import END_OF_TEXT, Roles, roles_by_name

GPT2_PATTERN = (
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
)
VOCAB_FILES = ("vocab.json", "encoder.json")
MERGES_FILES = ("merges.txt", "vocab.bpe")
# Under these names (SHA-1 of the download address) tiktoken keeps GPT-2's two files.
TIKTOKEN_FILES = {
    "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
}
# GPT-2's own merges are known to be sound, and checking 50,000 of them takes a third of a second.
GPT2_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


class Tokenizer:
    """Which tokens is this text made of?

    `ranks` maps each token's bytes to its id, lower ids merging first; `special` maps special
    tokens to ids; `roles` says which tokens start, end and fill up a text (None: those whose
    names say so). Encoding treats a special token's name in a text (``<|endoftext|>``) as that
    token, as GPT-2's users expect.

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
    ) -> None:
        self.name, self.pattern = name, pattern
        self.ranks, self.special = dict(ranks), dict(special)
        self.roles = roles_by_name(special) if roles is None else roles
        ids = {*self.ranks.values(), *self.special.values()}
        if not ids or len(ids) < len(self.ranks) + len(self.special) or min(ids) < 0:
            raise TokenError(f"the vocabulary {name!r} must give every token an id of its own")

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, {self.n_vocab} tokens)"

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """What is the tokenizer of this checkpoint folder?

        Reads ``vocab.json`` and ``merges.txt`` (or OpenAI's names for them), with
        ``added_tokens.json`` when there is one; otherwise ``tokenizer.json``.

        Raises:
            TokenError: when the folder has no vocabulary, or its files contradict each other.
        """
        folder = Path(folder)
        vocab = next((folder / f for f in VOCAB_FILES if (folder / f).is_file()), None)
        merges = next((folder / f for f in MERGES_FILES if (folder / f).is_file()), None)
        if vocab is None and merges is None and (folder / "tokenizer.json").is_file():
            return cls.from_json(_read(folder / "tokenizer.json"), name=folder.name)
        if vocab is None or merges is None:
            missing = VOCAB_FILES if vocab is None else MERGES_FILES
            raise TokenError(f"{folder} has no vocabulary: neither {missing[0]} nor {missing[1]}")
        file = folder / "added_tokens.json"
        added = _parse(_read(file), file) if file.is_file() else {}
        return _build(_parse(_read(vocab), vocab), _read(merges), added=added, name=folder.name)

    @classmethod
    def from_json(cls, text: str, *, name: str) -> Tokenizer:
        """What tokenizer does the text of a Hugging Face ``tokenizer.json`` describe?

        Raises:
            TokenError: when it is not a byte-level BPE that splits text as GPT-2 does.
        """
        data = _parse(text, f"the tokenizer.json of {name}")
        model, splitter = data.get("model") or {}, data.get("pre_tokenizer") or {}
        if (
            model.get("type") != "BPE"
            or data.get("normalizer")
            or splitter.get("type") != "ByteLevel"
            or splitter.get("add_prefix_space")
            or not splitter.get("use_regex", True)
        ):
            raise TokenError(
                f"the tokenizer.json of {name} is not GPT-2's kind (byte-level BPE, no normalizer, "
                "no added leading space); give the model a folder with vocab.json and merges.txt"
            )
        merges = (m if isinstance(m, str) else " ".join(m) for m in model["merges"])
        added = {token["content"]: token["id"] for token in data.get("added_tokens", [])}
        return _build(model["vocab"], "\n".join(merges), added=added, name=name)

    @classmethod
    def gpt2(cls, *, download: bool = True) -> Tokenizer:
        """GPT-2's own 50,257 tokens, from tiktoken's cache, or else downloaded into it.

        Raises:
            TokenError: when they are not cached and cannot, or may not, be downloaded.
        """
        folder = tiktoken_cache()
        reason = "downloading was not asked for"
        if download or all((folder / file).is_file() for file in TIKTOKEN_FILES.values()):
            # tiktoken reports a failed download as an OSError, a damaged one as a ValueError.
            try:
                from tiktoken_ext.openai_public import gpt2  # type: ignore[import-untyped]

                data = gpt2()
                return cls(data["mergeable_ranks"], data["special_tokens"], name="gpt2")
            except (OSError, ValueError) as error:
                reason = f"the download failed with {type(error).__name__}"
        copies = " and ".join(f"{f} as {folder / key}" for f, key in TIKTOKEN_FILES.items())
        raise TokenError(
            f"GPT-2's vocabulary is not in tiktoken's cache ({reason}): run "
            "`python -c \"import tiktoken; tiktoken.get_encoding('gpt2')\"` with a network, or "
            f"copy OpenAI's {copies} (TIKTOKEN_CACHE_DIR names another folder)"
        )

    @classmethod
    def characters(
        cls, letters: str, special: Sequence[str] = (), *, name: str = "characters"
    ) -> Tokenizer:
        """One token a letter, in the order given; the special tokens follow.

        Raises:
            TokenError: for a repeated or non-ASCII letter, or a special token not in brackets.

        >>> Tokenizer.characters("ABC", [END_OF_TEXT]).bos_id
        3
        """
        if not letters.isascii() or len(set(letters)) < len(letters):
            raise TokenError(f"{letters!r}: give each letter once, and ASCII letters only")
        if loose := [token for token in special if not _bracketed(token)]:
            raise TokenError(f"special tokens {loose!r} need brackets, such as {END_OF_TEXT!r}")
        ranks = {letter.encode(): i for i, letter in enumerate(letters)}
        return cls(ranks, {t: len(letters) + i for i, t in enumerate(special)}, name=name)

    def fitted(self, n_vocab: int) -> Tokenizer:
        """The same tokens for a model that embeds exactly `n_vocab` ids.

        Models often pad their vocabulary to a round number; the ids without a token get a special
        token named ``<|unused_50257|>``, so that every id the model can predict has a name. Special
        tokens that the model does not embed are dropped.

        Raises:
            TokenError: when ordinary tokens lie beyond the model's vocabulary.
        """
        beyond = sum(i >= n_vocab for i in self.ranks.values())
        if beyond:
            raise TokenError(
                f"the vocabulary {self.name!r} has {beyond} tokens more than the model's {n_vocab}"
            )
        special = {token: i for token, i in self.special.items() if i < n_vocab}
        taken = {*self.ranks.values(), *special.values()}
        special |= {f"<|unused_{i}|>": i for i in range(n_vocab) if i not in taken}
        if special == self.special:
            return self
        return Tokenizer(
            self.ranks, special, name=self.name, pattern=self.pattern, roles=self.roles
        )

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        """The tiktoken object that does the work."""
        return tiktoken.Encoding(
            self.name,
            pat_str=self.pattern,
            mergeable_ranks=self.ranks,
            special_tokens=self.special,
        )

    @cached_property
    def n_vocab(self) -> int:
        """How many ids are there? (the highest one, plus 1)"""
        return max([*self.ranks.values(), *self.special.values()]) + 1

    @property
    def bos_id(self) -> int | None:
        """Which token stands at the start of a text? None when the vocabulary has none."""
        return self.roles.bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Which tokens end a text? None, one, or several."""
        return self.roles.eos_ids

    @property
    def pad_id(self) -> int | None:
        """Which token fills up a batch? None when the vocabulary has none."""
        return self.roles.pad_id

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the vocabulary: the same tokens with the same ids give the same checksum."""
        ordinary = sorted((i, token.hex()) for token, i in self.ranks.items())
        special = sorted((i, token) for token, i in self.special.items())
        return hashlib.sha256(json.dumps([ordinary, special]).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Which token ids is this text made of?

        Raises:
            TokenError: when a small vocabulary has no token for a character.
        """
        if self._missing_bytes:
            self._refuse_unknown(text)
        return self.encoding.encode(text, allowed_special="all")

    def decode(self, ids: Iterable[int]) -> str:
        """Which text do these tokens spell? Bytes that are no text become the character U+FFFD.

        Raises:
            TokenError: for an id outside the vocabulary.
        """
        return self._token_bytes(ids).decode(errors="replace")

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        r"""How does each token read by itself?

        A token may be part of a character; its bytes are then spelled out, as in ``\xe2\x80``, so
        that different tokens never look the same.

        Raises:
            TokenError: for an id outside the vocabulary.

        >>> Tokenizer.characters("AB").token_strings([1, 0])
        ['B', 'A']
        """
        return [self._token_bytes([i]).decode(errors="backslashreplace") for i in ids]

    def single_token(self, text: str) -> int:
        """Which one token is this text?

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
        """Write ``vocab.json`` and ``merges.txt``, which `from_folder` and Hugging Face read.

        Raises:
            TokenError: when the vocabulary cannot be expressed as merges of pairs.
        """
        folder = Path(folder)
        vocab = {to_chars(token): i for token, i in self.ranks.items()} | self.special
        vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
        longer = sorted((i, token) for token, i in self.ranks.items() if len(token) > 1)
        pairs = [split_token(self.ranks, token) for _, token in longer]
        if any(len(pair) != 2 or not self.ranks.keys() >= {*pair} for pair in pairs):
            raise TokenError(
                f"the vocabulary {self.name!r} has tokens that are no pair of shorter tokens, "
                f"which {MERGES_FILES[0]} cannot express"
            )
        lines = ["#version: 0.2", *(" ".join(map(to_chars, pair)) for pair in pairs), ""]
        text = json.dumps(vocab, ensure_ascii=False)
        (folder / VOCAB_FILES[0]).write_text(text, encoding="utf-8")
        (folder / MERGES_FILES[0]).write_text("\n".join(lines), encoding="utf-8", newline="\n")

    def _token_bytes(self, ids: Iterable[int]) -> bytes:
        ids = [int(i) for i in ids]
        try:
            return self.encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            bad = sorted({*ids}.difference(self.ranks.values(), self.special.values()))
            raise TokenError(
                f"{bad[:4]}: no such token ids in the vocabulary {self.name!r}, whose ids run "
                f"from 0 to {self.n_vocab - 1}"
            ) from None

    @cached_property
    def _missing_bytes(self) -> frozenset[int]:
        """The bytes without a token: none in GPT-2, most in a vocabulary of a few letters."""
        return frozenset(b for b in range(256) if bytes([b]) not in self.ranks)

    def _knows(self, char: str) -> bool:
        data = char.encode(errors="surrogatepass")
        return data in self.ranks or self._missing_bytes.isdisjoint(data)

    def _refuse_unknown(self, text: str) -> None:
        for token in self.special:
            text = text.replace(token, "")
        unknown = [char for char in sorted(set(text)) if not self._knows(char)]
        if unknown:
            known = self.token_strings(sorted(self.ranks.values())[:80])
            raise TokenError(
                f"the vocabulary {self.name!r} has no token for {''.join(unknown)!r}; it knows "
                f"{''.join(known)!r}{' and more' if len(self.ranks) > 80 else ''}"
            )


def tiktoken_cache() -> Path:
    """In which folder does tiktoken keep its downloads?"""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(named) if named else Path(tempfile.gettempdir(), "data-gym-cache")


def _build(
    vocab: Mapping[str, int], merges_text: str, *, added: Mapping[str, int], name: str
) -> Tokenizer:
    """The tokenizer of a vocabulary in printable characters and a list of merges, one a line."""
    lines = merges_text.splitlines()
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    merged = ["".join(pair) for pair in pairs]
    ordinary = BYTE_OF.keys() | merged
    special = {t: i for t, i in vocab.items() if t not in ordinary or t in added} | dict(added)
    if loose := [t for t in special if t not in added and not _bracketed(t)]:
        raise TokenError(f"the vocabulary {name!r} has tokens that no merge makes: {loose[:4]!r}")
    try:
        ids = [vocab[token] for token in merged]
        ranks = {to_bytes(t): i for t, i in vocab.items() if t not in special}
    except KeyError as error:
        raise TokenError(
            f"the vocabulary {name!r} and its merges do not fit together: {error} is missing"
        ) from None
    known = hashlib.sha256(merges_text.encode()).hexdigest() == GPT2_MERGES_SHA256
    for pair, i, previous in zip(pairs, ids, [-1, *ids], strict=False):
        sound = known or split_token(ranks, to_bytes("".join(pair))) == tuple(map(to_bytes, pair))
        if i <= previous or not sound:
            raise TokenError(
                f"the vocabulary {name!r} numbers its tokens in another order than it merges them "
                f"(at the merge {' '.join(pair)!r}), which tiktoken cannot reproduce"
            )
    return Tokenizer(ranks, special, name=name)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"{path} cannot be read: {error}") from None


def _parse(text: str, origin: object) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise TokenError(f"{origin} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise TokenError(f"{origin} should hold a JSON object, not a {type(data).__name__}")
    return data


def _bracketed(token: str) -> bool:
    return len(token) > 2 and token[0] + token[-1] in ("<>", "[]")
