"""Tokens: GPT-2's own vocabulary, small ones, their files, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import TokenError
from circuits.tokenizer import END_OF_TEXT, TIKTOKEN_FILES, Tokenizer, reading

MINI = Path(__file__).parents[1] / "circuits" / "models" / "mini"
GPT2 = Path(__file__).parents[2] / "shared" / "gpt2_bpe"

needs_gpt2 = pytest.mark.skipif(not GPT2.is_dir(), reason="GPT-2's vocabulary is not at hand")


def byte_level(*words: str) -> Tokenizer:
    """All 256 bytes, and each word grown letter by letter from the left."""
    ranks = {bytes([b]): i for i, b in enumerate(range(256))}
    for word in words:
        for end in range(2, len(word.encode()) + 1):
            ranks.setdefault(word.encode()[:end], len(ranks))
    return Tokenizer(ranks, {END_OF_TEXT: len(ranks)}, name="words")


WORDS = byte_level(" Mary", "ary", " kept", "née")


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return Tokenizer.from_folder(GPT2)


@needs_gpt2
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        (" Mary", [5335]),
        ("<|endoftext|>The", [50256, 464]),
        ("", []),
        ("it's  two\n\n", [270, 338, 220, 734, 628]),
    ],
)
def test_gpt2_tokens(gpt2: Tokenizer, text: str, ids: list[int]) -> None:
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


@needs_gpt2
def test_gpt2_facts(gpt2: Tokenizer) -> None:
    assert (gpt2.n_vocab, gpt2.bos_id, gpt2.single_token(" John")) == (50257, 50256, 1757)
    assert gpt2.token_strings([5335, 50256]) == [" Mary", END_OF_TEXT]
    with pytest.raises(TokenError, match=r"'Hermione' is 2 tokens .*'Herm' \| 'ione'"):
        gpt2.single_token("Hermione")


@pytest.mark.slow
@needs_gpt2
def test_gpt2_files_are_written_as_they_were_read(gpt2: Tokenizer, tmp_path: Path) -> None:
    gpt2.save(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == (GPT2 / "vocab.bpe").read_bytes()
    ours, theirs = (tmp_path / "vocab.json").read_text(), (GPT2 / "encoder.json").read_text()
    assert json.loads(ours) == json.loads(theirs)


@needs_gpt2
def test_gpt2_from_tiktokens_cache(
    gpt2: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for file, key in TIKTOKEN_FILES.items():
        (tmp_path / key).write_bytes((GPT2 / file).read_bytes())
    assert Tokenizer.gpt2(download=False).checksum == gpt2.checksum


def test_gpt2_offline_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("requests.get", no_network)
    for download in (False, True):
        with pytest.raises(TokenError) as caught:
            Tokenizer.gpt2(download=download)
        said = str(caught.value)
        assert "TIKTOKEN_CACHE_DIR" in said
        assert all(str(tmp_path / key) in said for key in TIKTOKEN_FILES.values())
        assert ("ConnectionError" in said) == download


def test_tiktoken_keeps_its_files_under_these_names() -> None:
    address = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    names = {f: hashlib.sha1((address + f).encode()).hexdigest() for f in TIKTOKEN_FILES}
    assert names == TIKTOKEN_FILES


def test_single_token_shows_the_split() -> None:
    assert WORDS.single_token(" Mary") == WORDS.ranks[b" Mary"]
    with pytest.raises(TokenError, match=r"'Mary' is 2 tokens .*\('M' \| 'ary'\).* one: ' Mary'"):
        WORDS.single_token("Mary")
    with pytest.raises(TokenError, match=r"'' is 0 tokens .*\(empty\), and one token is needed$"):
        WORDS.single_token("")
    with pytest.raises(TokenError, match=r"needed$"):
        WORDS.single_token("zebra")


def test_parts_of_characters_stay_apart() -> None:
    ids = WORDS.encode("€")
    assert WORDS.token_strings(ids) == [r"\xe2", r"\x82", r"\xac"]
    assert WORDS.decode(ids) == "€"
    assert WORDS.decode(ids[:2]) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("ids", [[-1], [10**6], [2**70], [0, 10**6]])
def test_unknown_ids_are_named(ids: list[int]) -> None:
    for call in (WORDS.decode, WORDS.token_strings):
        with pytest.raises(TokenError, match=f"{ids[-1]}.*from 0 to {WORDS.n_vocab - 1}"):
            call(ids)


@given(st.text(max_size=30))
def test_text_survives(text: str) -> None:
    assert WORDS.decode(WORDS.encode(text)) == text


@given(st.text(alphabet="ABC", max_size=12))
def test_letters_survive(text: str) -> None:
    letters = Tokenizer.characters("ABC")
    assert letters.token_strings(letters.encode(text)) == list(text)


def test_files_survive(tmp_path: Path) -> None:
    WORDS.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (again.ranks, again.special, again.name) == (WORDS.ranks, WORDS.special, tmp_path.name)
    assert again.checksum == WORDS.checksum != Tokenizer.characters("ABC").checksum


def test_openai_names(tmp_path: Path) -> None:
    WORDS.save(tmp_path)
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert Tokenizer.from_folder(tmp_path).checksum == WORDS.checksum


@pytest.mark.parametrize("special", [(), (END_OF_TEXT,), ("[PAD]", "<s>")])
def test_letters_in_files(tmp_path: Path, special: tuple[str, ...]) -> None:
    letters = Tokenizer.characters("CAB .\n", special)
    letters.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.checksum == letters.checksum
    assert again.encode("AB C.\n") == [1, 2, 3, 0, 4, 5]
    assert again.bos_id == (None if not special else 5 + len(special))


def test_letters_are_all_there_is() -> None:
    letters = Tokenizer.characters("ABC", [END_OF_TEXT])
    assert letters.encode(f"{END_OF_TEXT}BA") == [3, 1, 0]
    with pytest.raises(TokenError, match="no token for 'xé'; it knows 'ABC'"):
        letters.encode("AxéA")
    for wrong in ("AA", "日é日", "A\ud800"):
        with pytest.raises(TokenError, match="each letter once, and whole characters"):
            Tokenizer.characters(wrong)
    with pytest.raises(TokenError, match="need brackets"):
        Tokenizer.characters("AB", ["END"])


def test_fitted_names_every_id() -> None:
    letters = Tokenizer.characters("ABC", [END_OF_TEXT, "<pad>"])
    padded = letters.fitted(7)
    assert padded.token_strings(range(7))[4:] == ["<pad>", "<|unused_5|>", "<|unused_6|>"]
    assert padded.bos_id == letters.bos_id
    assert letters.fitted(5) is letters
    assert letters.fitted(4).n_vocab == 4
    with pytest.raises(TokenError, match="1 tokens more than the model's 2"):
        letters.fitted(2)


def test_added_tokens(tmp_path: Path) -> None:
    WORDS.save(tmp_path)
    added = {"[PAD]": WORDS.n_vocab, "extra": WORDS.n_vocab + 1}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    assert Tokenizer.from_folder(tmp_path).encode("aextra[PAD]") == [
        97,
        *list(added.values())[::-1],
    ]


def test_tokenizer_json(tmp_path: Path) -> None:
    WORDS.save(tmp_path)
    merges = (tmp_path / "merges.txt").read_text().splitlines()[1:]
    data = {
        "added_tokens": [{"id": WORDS.bos_id, "content": END_OF_TEXT}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": {
            "type": "BPE",
            "vocab": json.loads((tmp_path / "vocab.json").read_text()),
            "merges": merges,
        },
    }
    for file in ("vocab.json", "merges.txt"):
        (tmp_path / file).unlink()
    for pairs in (merges, [line.split(" ") for line in merges]):
        data["model"]["merges"] = pairs
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        assert Tokenizer.from_folder(tmp_path).checksum == WORDS.checksum
    for part, value in (("normalizer", {"type": "NFC"}), ("pre_tokenizer", {"type": "Whitespace"})):
        with pytest.raises(TokenError, match="not GPT-2's kind"):
            Tokenizer.from_json(json.dumps(data | {part: value}), name="x")


@pytest.mark.parametrize(
    ("vocab", "merges", "said"),
    [
        ('{"a": 0, "b": 1}', "a b", "'ab' is missing"),
        ('{"a": 0, "b": 1, "ab": 2, "ba": 3}', "a b", "no merge makes.*'ba'"),
        ('{"a": 0, "b": 1, "ab": 3, "ba": 2}', "a b\nb a", "another order.*'b a'"),
        ('{"a": 0, "aa": 1, "aaa": 2}', "a a\na aa", "another order.*'a aa'"),
        ('{"a": 0, "b": 0}', "", "an id of its own"),
        ('["a"]', "", "JSON object"),
        ('{"a": 0', "", "not valid JSON"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, vocab: str, merges: str, said: str) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(f"#version: 0.2 - Trained somewhere\n{merges}\n")
    with pytest.raises(TokenError, match=said):
        Tokenizer.from_folder(tmp_path)


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"neither vocab\.json nor encoder\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(TokenError, match=r"neither merges\.txt nor vocab\.bpe"):
        Tokenizer.from_folder(tmp_path)


def test_what_merges_cannot_express_is_not_written(tmp_path: Path) -> None:
    whole = Tokenizer({"€".encode(): 0}, {}, name="whole")
    with pytest.raises(TokenError, match="no pair of shorter tokens"):
        whole.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_hugging_face_reads_the_files(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    WORDS.save(tmp_path)
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    for text in (" Mary kept née €", "Mary  ary\n\n it's 12", END_OF_TEXT + "a"):
        assert theirs.encode(text) == WORDS.encode(text)
    json_text = theirs.backend_tokenizer.to_str()
    assert Tokenizer.from_json(json_text, name="theirs").checksum == WORDS.checksum


def test_minis_merges_are_sound_and_not_checked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    split = reading.split_token
    monkeypatch.setattr(reading, "split_token", lambda *given: asked.append(1) or split(*given))
    known = Tokenizer.from_folder(MINI)
    assert not asked
    monkeypatch.setattr(reading, "SOUND_MERGES", set())
    assert Tokenizer.from_folder(MINI).checksum == known.checksum
    assert len(asked) > 7000
