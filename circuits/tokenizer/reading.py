"""A checkpoint's vocabulary, read from its files in the order in which transformers reads them.

tiktoken merges by token id, Hugging Face by the list of merges: a vocabulary in which the two would
differ is refused, so both libraries always give the same tokens.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import TokenError, brief
from circuits.tokenizer.added import AddedToken
from circuits.tokenizer.byte_pairs import (
    BYTE_OF,
    CHARACTERS,
    GPT2_PATTERN,
    split_token,
    to_bytes,
    to_chars,
)
from circuits.tokenizer.roles import Roles, roles_by_name
from circuits.tokenizer.settings import Settings, added_token, parse, parse_file, read_text

if TYPE_CHECKING:
    from circuits.tokenizer.vocabulary import Tokenizer

VOCAB_FILES = ("vocab.json", "encoder.json")
MERGES_FILES = ("merges.txt", "vocab.bpe")
JSON_FILE = "tokenizer.json"
# Under these names (SHA-1 of the download address) tiktoken keeps GPT-2's two files.
TIKTOKEN_FILES = {
    "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
}
# SHA-256 of merges that are known to be sound: checking 50,000 of them takes a third of a second.
SOUND_MERGES = {
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",  # of GPT-2
    "73fc1c4d411ef2c93841e50298a672845246481b7482bad6d03b69593c6156e0",  # of mini
}
# Options of tokenizer.json's model, and the values with which it merges as GPT-2 does.
_PLAIN: dict[str, tuple[object, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}


@dataclass(frozen=True)
class VocabularyFiles:
    """What a vocabulary's own files say, before the files beside them are read.

    `vocab` has tokens as files write them, `merges` is one a line, `added` the tokens that the same
    files add; `pattern`, `prefix_space` and `adds_bos` are as in `Tokenizer` and `Roles`.
    """

    vocab: Mapping[str, int]
    merges: str
    added: Sequence[AddedToken] = ()
    pattern: str = GPT2_PATTERN
    prefix_space: bool = False
    adds_bos: bool = False


def read_folder(cls: type[Tokenizer], folder: Path) -> Tokenizer:
    """`Tokenizer.from_folder`, of class `cls`."""
    settings = Settings.of(folder)
    settings.require_readable(folder, has_json=(folder / JSON_FILE).is_file())
    vocab = next((folder / f for f in VOCAB_FILES if (folder / f).is_file()), None)
    merges = next((folder / f for f in MERGES_FILES if (folder / f).is_file()), None)
    prefix_space = bool(settings.tokenizer.get("add_prefix_space"))
    adds_bos = bool(settings.tokenizer.get("add_bos_token"))
    if (folder / JSON_FILE).is_file():
        files = _from_json(read_text(folder / JSON_FILE), folder.name)
        _say_stale(folder, files, vocab, merges)
        if not settings.is_gpt2_class or files.pattern == CHARACTERS:
            prefix_space = files.prefix_space
        adds_bos = files.adds_bos
    elif vocab is None or merges is None:
        missing = VOCAB_FILES if vocab is None else MERGES_FILES
        raise TokenError(f"{folder} has no vocabulary: neither {missing[0]} nor {missing[1]}")
    else:
        file = folder / "added_tokens.json"
        listed = settings.bare(parse_file(file)) if file.is_file() else ()
        files = VocabularyFiles(parse_file(vocab), read_text(merges), listed)
    added = settings.added(files.vocab, files.added)
    ranks, special = _tokens(files, added, folder.name)
    named = {**files.vocab, **{token.content: token.id for token in added}}
    roles = settings.roles(named, special, adds_bos)
    _refuse_unreachable(special, added, roles, folder.name)
    return cls(
        ranks,
        special,
        name=folder.name,
        pattern=files.pattern,
        roles=roles,
        added=added,
        prefix_space=prefix_space,
    )


def read_json(cls: type[Tokenizer], text: str, *, name: str, roles: Roles | None) -> Tokenizer:
    """`Tokenizer.from_json`, of class `cls`."""
    files = _from_json(text, name)
    ranks, special = _tokens(files, files.added, name)
    roles = roles_by_name(special) if roles is None else roles
    _refuse_unreachable(special, files.added, roles, name)
    return cls(
        ranks,
        special,
        name=name,
        pattern=files.pattern,
        roles=roles,
        added=files.added,
        prefix_space=files.prefix_space,
    )


def complete(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """A vocabulary from elsewhere with the added tokens and roles that this folder's files give.

    Raises:
        TokenError: when they contradict each other.
    """
    settings = Settings.of(folder)
    vocab = {to_chars(token): i for token, i in tokenizer.ranks.items()} | tokenizer.special
    added = settings.added(vocab, tokenizer.added)
    special = tokenizer.special | {t.content: t.id for t in added if t.content not in vocab}
    named = {**vocab, **special}
    return type(tokenizer)(
        tokenizer.ranks,
        special,
        name=tokenizer.name,
        pattern=tokenizer.pattern,
        roles=settings.roles(named, special, bool(settings.tokenizer.get("add_bos_token"))),
        added=added,
        prefix_space=bool(settings.tokenizer.get("add_prefix_space")),
    )


def read_cache(*, download: bool) -> tuple[dict[bytes, int], dict[str, int]]:
    """GPT-2's ordinary and special tokens, from tiktoken's cache: see `Tokenizer.gpt2`."""
    folder = tiktoken_cache()
    reason = "downloading was not asked for"
    if download or all((folder / file).is_file() for file in TIKTOKEN_FILES.values()):
        # tiktoken reports a failed download as an OSError, a damaged one as a ValueError.
        try:
            from tiktoken_ext.openai_public import gpt2  # type: ignore[import-untyped]

            data = gpt2()
            return data["mergeable_ranks"], data["special_tokens"]
        except (OSError, ValueError) as error:
            reason = f"the download failed with {type(error).__name__}"
    copies = " and ".join(f"{f} as {folder / key}" for f, key in TIKTOKEN_FILES.items())
    raise TokenError(
        f"GPT-2's vocabulary is not in tiktoken's cache ({reason}): run "
        "`python -c \"import tiktoken; tiktoken.get_encoding('gpt2')\"` with a network, or "
        f"copy OpenAI's {copies} (TIKTOKEN_CACHE_DIR names another folder)"
    )


def tiktoken_cache() -> Path:
    """The folder in which tiktoken keeps its downloads."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(named) if named else Path(tempfile.gettempdir(), "data-gym-cache")


def bracketed(token: str) -> bool:
    """Whether a token looks like none that a text could hold, such as <s> or [PAD]."""
    return len(token) > 2 and token[0] + token[-1] in ("<>", "[]")


def _from_json(text: str, name: str) -> VocabularyFiles:
    """What this text of a ``tokenizer.json`` says."""
    data = parse(text, f"the tokenizer.json of {name}")
    model, splitter = data.get("model") or {}, data.get("pre_tokenizer") or {}
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []]
    listed = data.get("added_tokens") or []
    added = tuple(added_token(token, token.get("id", -1)) for token in listed)
    plain = all(model.get(option, plain[0]) in plain for option, plain in _PLAIN.items())
    plain = plain and not data.get("normalizer") and isinstance(model.get("vocab"), dict)
    words = set(model["vocab"] if plain else ()) - {token.content for token in added}
    if plain and not splitter and not merges and all(len(word) == 1 for word in words):
        return VocabularyFiles(model["vocab"], "", added, CHARACTERS)
    if not plain or splitter.get("type") != "ByteLevel" or not splitter.get("use_regex", True):
        raise TokenError(
            f"the tokenizer.json of {name} is not GPT-2's kind (byte-level BPE, no normalizer); "
            "give the model a folder with vocab.json and merges.txt"
        )
    prefix_space, first = bool(splitter.get("add_prefix_space", True)), _first_piece(data)
    adds_bos = "SpecialToken" in first
    return VocabularyFiles(
        model["vocab"], "\n".join(merges), added, GPT2_PATTERN, prefix_space, adds_bos
    )


def _first_piece(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the post-processor puts first: the text itself, or a special token."""
    outer = data.get("post_processor") or {}
    for step in outer.get("processors") or [outer]:
        if step.get("type") == "TemplateProcessing" and step.get("single"):
            first: Mapping[str, Any] = step["single"][0]
            return first
    return {}


def _say_stale(
    folder: Path, files: VocabularyFiles, vocab: Path | None, merges: Path | None
) -> None:
    """Older files beside tokenizer.json that say something else are not read, which is said."""
    old = parse_file(vocab) if vocab else {}
    now = {**{token.content: token.id for token in files.added}, **files.vocab}
    differs = any(now.get(token) != i for token, i in old.items())
    lines = _lines(read_text(merges)) if merges else []
    if differs or (merges and lines != _lines(files.merges)):
        warnings.warn(
            f"{folder} holds two vocabularies: {JSON_FILE} is read, as in transformers, and "
            f"{' and '.join(file.name for file in (vocab, merges) if file)}, which differ from it, "
            "are not; remove the old ones",
            stacklevel=2,
        )


def _lines(merges: str) -> list[str]:
    return [line for line in merges.splitlines() if line and not line.startswith("#version")]


def _tokens(
    files: VocabularyFiles, added: Sequence[AddedToken], name: str
) -> tuple[dict[bytes, int], dict[str, int]]:
    """The ordinary tokens by their bytes, and all others by their names."""
    vocab, names = files.vocab, {token.content: token.id for token in added}
    if files.pattern == CHARACTERS:
        letters = {t.encode(): i for t, i in vocab.items() if t not in names}
        return letters, {t: i for t, i in vocab.items() if t in names} | names
    pairs = [line.split(" ") for line in _lines(files.merges)]
    merged = ["".join(pair) for pair in pairs]
    ordinary = BYTE_OF.keys() | merged
    special = {t: i for t, i in vocab.items() if t not in ordinary} | names
    try:
        ids = [vocab[token] for token in merged]
        ranks = {to_bytes(t): i for t, i in vocab.items() if t in ordinary}
    except KeyError as error:
        raise TokenError(
            f"the vocabulary {name!r} and its merges do not fit together: "
            f"{brief(error.args[0])} is missing"
        ) from None
    known = hashlib.sha256(files.merges.encode()).hexdigest() in SOUND_MERGES
    for pair, i, previous in zip(pairs, ids, [-1, *ids], strict=False):
        sound = known or split_token(ranks, to_bytes("".join(pair))) == tuple(map(to_bytes, pair))
        if i <= previous or not sound:
            raise TokenError(
                f"the vocabulary {name!r} numbers its tokens in another order than it merges them "
                f"(at the merge {brief(' '.join(pair))}), which tiktoken cannot reproduce"
            )
    return ranks, special


def _refuse_unreachable(
    special: Mapping[str, int], added: Sequence[AddedToken], roles: Roles, name: str
) -> None:
    """Tokens that nothing makes, adds or names hint at merges that are missing."""
    known = {token.content for token in added}
    loose = [t for t, i in special.items() if t not in known and i not in roles.ids]
    if loose := [token for token in loose if not bracketed(token)]:
        several = ", ".join(map(brief, loose[:4]))
        raise TokenError(f"the vocabulary {name!r} has tokens that no merge makes: {several}")
