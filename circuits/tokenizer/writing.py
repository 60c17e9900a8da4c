"""A vocabulary as files from which this package and transformers read the same tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import TokenError
from circuits.tokenizer.added import AddedToken
from circuits.tokenizer.byte_pairs import CHARACTERS, UNUSED, split_token, to_chars
from circuits.tokenizer.reading import JSON_FILE, MERGES_FILES, VOCAB_FILES
from circuits.tokenizer.roles import END_OF_TEXT, Roles
from circuits.tokenizer.settings import SETTINGS

if TYPE_CHECKING:
    from circuits.tokenizer.vocabulary import Tokenizer

WRITTEN = (VOCAB_FILES[0], MERGES_FILES[0], JSON_FILE, SETTINGS)


def write_folder(tokenizer: Tokenizer, folder: Path) -> None:
    """``vocab.json``, ``merges.txt``, and ``tokenizer_config.json`` where it differs from GPT-2's.

    Letters that are several bytes long cannot be written so without giving ids to their bytes: a
    vocabulary that has some becomes a ``tokenizer.json``.

    Raises:
        TokenError: when the vocabulary cannot be expressed as merges of pairs.
    """
    letters = tokenizer.pattern == CHARACTERS and any(len(token) > 1 for token in tokenizer.ranks)
    special = _written(tokenizer)
    if letters:
        vocab = {token.decode(): i for token, i in tokenizer.ranks.items()} | special
        _write(folder / JSON_FILE, _tokenizer_json(tokenizer, _in_order(vocab)))
    else:
        lines = _merges(tokenizer)
        ordinary = {to_chars(token): i for token, i in tokenizer.ranks.items()}
        clash = [t for t, i in special.items() if ordinary.get(t, i) != i]
        if clash:
            raise TokenError(
                f"the added tokens {clash[:4]!r} of {tokenizer.name!r} read like ordinary tokens "
                f"in {VOCAB_FILES[0]}, where both cannot stand; give them other names"
            )
        _write(folder / VOCAB_FILES[0], _in_order(ordinary | special))
        text = "\n".join(["#version: 0.2", *lines, ""])
        (folder / MERGES_FILES[0]).write_text(text, encoding="utf-8", newline="\n")
    if _says_nothing_new(tokenizer):
        return
    kind = "PreTrainedTokenizerFast" if letters else "GPT2Tokenizer"
    text = json.dumps(_settings(tokenizer, kind), ensure_ascii=False, indent=2)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def _says_nothing_new(tokenizer: Tokenizer) -> bool:
    """Whether ``tokenizer_config.json`` could only say what GPT-2's users take for granted."""
    end = tokenizer.special.get(END_OF_TEXT)
    return (
        end is not None
        and tokenizer.roles == Roles(end, (end,))
        and tokenizer.added == (AddedToken(END_OF_TEXT, end),)
        and not tokenizer.prefix_space
    )


def _written(tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens, without the names that ids behind the last token were given."""
    unused = {i for t, i in tokenizer.special.items() if t == UNUSED.format(i)}
    unused -= {token.id for token in tokenizer.added}
    named = {*tokenizer.ranks.values(), *tokenizer.special.values()} - unused
    last = max(named | tokenizer.roles.ids, default=-1)
    return {t: i for t, i in tokenizer.special.items() if i not in unused or i < last}


def _merges(tokenizer: Tokenizer) -> list[str]:
    longer = sorted((i, token) for token, i in tokenizer.ranks.items() if len(token) > 1)
    pairs = [split_token(tokenizer.ranks, token) for _, token in longer]
    if any(len(pair) != 2 or not tokenizer.ranks.keys() >= {*pair} for pair in pairs):
        raise TokenError(
            f"the vocabulary {tokenizer.name!r} has tokens that are no pair of shorter tokens, "
            f"which {MERGES_FILES[0]} cannot express"
        )
    return [" ".join(map(to_chars, pair)) for pair in pairs]


def _settings(tokenizer: Tokenizer, kind: str) -> dict[str, Any]:
    """What ``tokenizer_config.json`` says: added tokens with their flags, and the named ones."""
    roles, text_of = tokenizer.roles, {t.id: t.content for t in tokenizer.added if t.special}
    ends = [i for i in roles.eos_ids if i in text_of]
    known = END_OF_TEXT if END_OF_TEXT in text_of.values() else None
    named: dict[str, str | None] = {
        "bos_token": None if roles.bos_id is None else text_of.get(roles.bos_id),
        "eos_token": text_of[ends[0]] if ends else None,
        "unk_token": known,  # transformers would otherwise add GPT-2's
        "pad_token": None if roles.pad_id is None else text_of.get(roles.pad_id),
    }
    return {
        "tokenizer_class": kind,
        "add_prefix_space": tokenizer.prefix_space,
        "add_bos_token": roles.adds_bos and named["bos_token"] is not None,
        **named,
        **dict(roles.others),
        "added_tokens_decoder": {
            str(token.id): {"content": token.content, **token.flags} for token in tokenizer.added
        },
    }


def _tokenizer_json(tokenizer: Tokenizer, vocab: Mapping[str, int]) -> dict[str, Any]:
    """A ``tokenizer.json`` that merges nothing: one token a character."""
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": token.id, "content": token.content, **token.flags} for token in tokenizer.added
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def _in_order(vocab: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
