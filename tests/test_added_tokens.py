"""Added tokens are found where `tokenizers` finds them, whatever their flags and the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.tokenizer import AddedToken, Tokenizer
from circuits.tokenizer.added import AddedTokens
from circuits.tokenizer.byte_pairs import to_chars

BYTES = {bytes([b]): b for b in range(256)}
# Letters, marks, digits and spaces that regular expressions disagree about, and their neighbors.
CHARACTERS = "abA- \n\t_é\u00a0\u0301\u200dⒶ٣½\x1c."
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
flags = st.fixed_dictionaries({name: st.booleans() for name in FLAGS})
sets = st.dictionaries(st.text(CHARACTERS, min_size=2, max_size=4), flags, max_size=5)


def ours(tokens: Mapping[str, Mapping[str, Any]], *, prefix_space: bool = False) -> Tokenizer:
    """256 bytes and these tokens, numbered on."""
    added = [AddedToken(t, 256 + i, **wishes) for i, (t, wishes) in enumerate(tokens.items())]
    special = {token.content: token.id for token in added}
    return Tokenizer(BYTES, special, name="bytes", added=added, prefix_space=prefix_space)


def theirs(tokens: Mapping[str, Mapping[str, Any]], *, prefix_space: bool = False) -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {to_chars(token): i for token, i in BYTES.items()}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    splitter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.pre_tokenizer = splitter
    for token, wishes in tokens.items():
        add = tokenizer.add_special_tokens if wishes.get("special") else tokenizer.add_tokens
        add([tokenizers.AddedToken(token, **{"normalized": False, **wishes})])
    return tokenizer


@given(sets, st.data(), st.booleans())
@pytest.mark.slow
def test_the_same_ids_as_tokenizers(
    tokens: dict[str, dict[str, bool]], data: st.DataObject, prefix_space: bool
) -> None:
    pieces = data.draw(st.lists(st.sampled_from([*tokens, *CHARACTERS]), max_size=10))
    text = "".join(pieces)
    mine, other = (make(tokens, prefix_space=prefix_space) for make in (ours, theirs))
    assert mine.encode(text) == other.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("tokens", "text", "strings"),
    [
        ({"COVID": {}, "COVID-19": {}}, "COVID-19.", ["COVID-19", "."]),
        ({"COVID-19": {}, "COVID": {}}, "COVID-1", ["COVID", "-", "1"]),
        ({"  ": {}, "   ": {}, "    ": {}}, "     x", ["    ", " ", "x"]),
        ({"\t\t": {}, "\t\t\t": {}}, "\t\t\t\t\t", ["\t\t\t", "\t\t"]),
        ({"<mask>": {"lstrip": True}}, "a <mask> b", ["a", "<mask>", " ", "b"]),
        ({"<mask>": {"rstrip": True}}, "a <mask> b", ["a", " ", "<mask>", "b"]),
        ({"cat": {"single_word": True}}, "cat cats", ["cat", " ", "c", "a", "t", "s"]),
        ({"ab": {"normalized": True}, "bc": {}}, "abc", ["a", "bc"]),
    ],
)
def test_by_hand(tokens: dict[str, dict[str, bool]], text: str, strings: list[str]) -> None:
    tokenizer = ours(tokens)
    assert tokenizer.token_strings(tokenizer.encode(text)) == strings
    assert theirs(tokens).encode(text).ids == tokenizer.encode(text)


def test_a_space_before_every_text() -> None:
    tokenizer = ours({"<x>": {}}, prefix_space=True)
    strings = tokenizer.token_strings(tokenizer.encode("a<x>b<x> c"))
    assert strings == [" ", "a", "<x>", " ", "b", "<x>", " ", "c"]
    assert tokenizer.encode("") == []


def test_no_tokens_leave_the_text_whole() -> None:
    assert list(AddedTokens([]).split("a b")) == ["a b"]


def test_what_is_found_is_part_of_the_checksum() -> None:
    made = [
        ours({"<x>": {"lstrip": True}}),
        ours({"<x>": {}}),
        ours({"<x>": {}}, prefix_space=True),
        Tokenizer(BYTES, {"<x>": 256}, name="mute", added=[]),
    ]
    assert len({tokenizer.checksum for tokenizer in made}) == len(made)
    assert made[1].checksum == Tokenizer(BYTES, {"<x>": 256}, name="plain").checksum
    assert made[3].encode("<x>") == list(b"<x>")
    assert made[3].token_strings([256]) == ["<x>"]
