"""The vocabulary of a checkpoint: its own, or GPT-2's where its name or settings say so.

A GPT-2 of 50,257 tokens may be of any language, so the size alone says nothing: its vocabulary is
the folder's, or GPT-2's when the checkpoint is, or names, a model that OpenAI released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from circuits.checkpoints.plain_pickle import read_plain
from circuits.config import GPT2_SIZES, OPENAI_NAMES
from circuits.errors import TokenError, brief
from circuits.files import is_broken
from circuits.tokenizer import (
    JSON_FILE,
    MERGES_FILES,
    SETTINGS_FILES,
    VOCAB_FILES,
    Roles,
    Settings,
    Tokenizer,
    complete,
    model_roles,
)

_VOCABULARY = (*VOCAB_FILES, *MERGES_FILES, JSON_FILE)
TOKENIZER_FILES = (*_VOCABULARY, "added_tokens.json", *SETTINGS_FILES)
GPT2_N_VOCAB = 50257
_PADDED_TO = 128  # or 64: a number of which sizes of vocabularies are made a multiple
_PADDED = 50304  # the next multiple of 64, to which nanoGPT pads
# How the released models are called: by OpenAI's names, and by those of transformer_lens.
_SIZES = (*GPT2_SIZES, *OPENAI_NAMES, "gpt2-small")
_RELEASED = {owner + size for size in _SIZES for owner in ("", "openai-community/")}
LETTERS_FILE = "meta.pkl"  # nanoGPT's, of a model of characters
_OTHERWISE = "correct it, or move it away and set model.tokenizer yourself"
# What holds another vocabulary: WordPiece, SentencePiece, nanoGPT's letters.
_FOREIGN = ("vocab.txt", "*.model", "*.spm", LETTERS_FILE)
_GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], name: str | None = None
) -> Tokenizer | None:
    """The vocabulary in this folder; or GPT-2's, if the name or the configuration is GPT-2's.

    `name` is what the user called the model. None where there is neither, or where tiktoken does
    not have GPT-2's in its cache.

    Raises:
        TokenError: when the files contradict each other.
    """
    if any((folder / file).is_file() for file in _VOCABULARY):
        return Tokenizer.from_folder(folder)
    says_gpt2 = is_released(name, config.get("_name_or_path"))
    if not says_gpt2 or config.get("tokenizer_class") not in _GPT2_CLASSES or is_foreign(folder):
        return None
    gpt2 = cached_gpt2(int(config.get("vocab_size", GPT2_N_VOCAB)))
    return gpt2 and complete(gpt2, folder)


def folder_roles(folder: Path) -> Roles:
    """The tokens that start, end and fill up a text, for a folder that has no vocabulary.

    Raises:
        TokenError: when its files contradict each other.
    """
    settings = Settings.of(folder)
    return model_roles(settings.config, settings.generation)


def is_released(*names: object) -> bool:
    """Whether one of these is the name of a model that OpenAI released.

    >>> is_released("gpt2-xl"), is_released(None, "openai-community/gpt2"), is_released("me/gpt2")
    (True, True, False)
    """
    return any(isinstance(name, str) and name in _RELEASED for name in names)


def is_foreign(folder: Path) -> bool:
    """Whether the folder has a file with a vocabulary of another kind."""
    return any(True for pattern in _FOREIGN for _ in folder.glob(pattern))


def cached_gpt2(n_vocab: int) -> Tokenizer | None:
    """GPT-2's vocabulary, if the model has room for it and it can be had without a network."""
    if n_vocab < GPT2_N_VOCAB:
        return None
    try:
        return Tokenizer.gpt2(download=False)
    except TokenError:
        return None


def nanogpt_tokenizer(folder: Path, n_vocab: int) -> Tokenizer | None:
    """The vocabulary beside a ``ckpt.pt``; otherwise, at GPT-2's size, GPT-2's.

    Beside it are GPT-2's files, or the letters of a ``meta.pkl``. nanoGPT's own sample.py does the
    same.

    Raises:
        TokenError: for letters that are too few, or too many, to be the model's.
    """
    if any((folder / file).is_file() for file in _VOCABULARY):
        return Tokenizer.from_folder(folder)
    if (folder / LETTERS_FILE).is_file():
        letters = _letters(folder / LETTERS_FILE)
        if not len(letters) <= n_vocab < len(letters) + _PADDED_TO:
            raise TokenError(
                f"{folder / LETTERS_FILE} has {len(letters)} letters, and the model beside it a "
                f"vocabulary of {n_vocab}: they are not of one dataset; move the wrong one away"
            )
        return Tokenizer.characters(letters, name=LETTERS_FILE)
    fits = n_vocab in (GPT2_N_VOCAB, _PADDED)
    return cached_gpt2(n_vocab) if fits and not is_foreign(folder) else None


def _letters(path: Path) -> str:
    """The letters of a ``meta.pkl`` in the order of their ids.

    Raises:
        CheckpointError: when it cannot be read without running code.
        TokenError: when it holds anything but one letter for each id, or contradicts itself.
    """
    meta = read_plain(path)
    letters = meta.get("itos") if isinstance(meta, dict) else None
    if isinstance(letters, list | tuple):
        letters = dict(enumerate(letters))
    letters = letters if isinstance(letters, dict) else {}
    if not letters or not all(isinstance(c, str) and len(c) == 1 for c in letters.values()):
        raise TokenError(
            f"{path} should give one letter for each id under 'itos', as nanoGPT's character-level "
            f"datasets do; {_OTHERWISE}"
        )
    n = len(letters)
    if bad := [i for i in letters if type(i) is not int or not 0 <= i < n]:
        raise TokenError(
            f"{path} gives {n} letters under 'itos' the ids {brief([*letters])}, which should be 0 "
            f"to {n - 1}, and {brief(bad[0])} is none of them; {_OTHERWISE}"
        )
    said = meta.get("vocab_size", n)
    if said != n:
        raise TokenError(
            f"{path} contradicts itself: vocab_size is {brief(said)}, and 'itos' has {n} letters; "
            "correct the one that is wrong"
        )
    seen: dict[str, int] = {}
    for i in range(n):
        if letters[i] in seen or is_broken(letters[i]):
            first = seen.get(letters[i])
            fault = "is half a character" if first is None else f"is that of the id {first}, too"
            raise TokenError(
                f"{path} gives the id {i} the letter {letters[i]!r}, which {fault}; {_OTHERWISE}"
            )
        seen[letters[i]] = i
    _require_inverse(meta.get("stoi"), letters, path)
    return "".join(letters[i] for i in range(n))


def _require_inverse(ids: object, letters: Mapping[int, str], path: Path) -> None:
    """Whether the ids that a ``meta.pkl`` gives to letters are those that have these letters."""
    if ids is None:
        return
    given = ids if isinstance(ids, dict) else {}
    for i, letter in letters.items():
        if given.get(letter) != i:
            says = f"{letter!r} the id {brief(given[letter])}" if letter in given else "it no id"
            raise TokenError(
                f"{path} contradicts itself: 'itos' gives the id {i} the letter {letter!r}, and "
                f"'stoi' gives {says}; correct the one that is wrong"
            )
    if others := [letter for letter in given if letter not in letters.values()]:
        raise TokenError(
            f"{path} contradicts itself: 'stoi' gives {brief(others[0])} the id "
            f"{brief(given[others[0]])}, and 'itos' has no such letter; correct the one that is "
            "wrong"
        )


def object_tokenizer(
    config: Mapping[str, Any], generation: Mapping[str, Any], names: Iterable[object]
) -> Tokenizer | None:
    """GPT-2's vocabulary, with a model's own roles, for one in memory with a released name.

    Raises:
        TokenError: when its two configurations contradict each other about a role.
    """
    gpt2 = cached_gpt2(int(config["vocab_size"])) if is_released(*names) else None
    return gpt2 and gpt2.with_roles(model_roles(config, generation, gpt2.roles))


def object_roles(theirs: Any) -> Roles:
    """The tokens that start, end and fill up a text, for a tokenizer of ``transformers``."""
    ends = theirs.eos_token_id
    listed = ends if isinstance(ends, list | tuple) else [] if ends is None else [ends]
    return Roles(theirs.bos_token_id, tuple(listed), theirs.pad_token_id)
