"""A folder's vocabulary is read, and written, as transformers reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from circuits.errors import TokenError
from circuits.tokenizer import Roles, Tokenizer

transformers = pytest.importorskip("transformers")

MINI = Path(__file__).parents[1] / "circuits" / "models" / "mini"
PLAIN = ("vocab.json", "merges.txt")
SIZE = 8192  # the first free id of mini's vocabulary, whose last token is <|endoftext|>
END = SIZE - 1
TEXTS = (
    "the cat <s> sat</s>",
    "COVID-19 and COVID",
    " a<mask> b <mask>",
    "{  }\t\t x",
    "<|endoftext|>hi <pad>",
    "cat concat cat",
    "",
)
Files = dict[str, Any]


def write(folder: Path, files: Files, keep: tuple[str, ...] = PLAIN, **config: Any) -> Path:
    """Mini's vocabulary, and these files beside it."""
    folder.mkdir(parents=True)
    for name in keep:
        shutil.copy(MINI / name, folder / name)
    files = {"config.json": {"model_type": "gpt2", "vocab_size": SIZE + 20, **config}, **files}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def whole(*added: dict[str, Any], prefix_space: bool = False) -> Files:
    """Mini's vocabulary as a ``tokenizer.json``."""
    end = {"id": END, "content": "<|endoftext|>", "special": True}
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), False)
    split = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    data = {
        "version": "1.0",
        "added_tokens": [flags | token for token in (end, *added)],
        "normalizer": None,
        "pre_tokenizer": split | {"add_prefix_space": prefix_space},
        "post_processor": None,
        "decoder": split | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "vocab": json.loads((MINI / "vocab.json").read_text()),
            "merges": (MINI / "merges.txt").read_text().splitlines()[1:],
        },
    }
    return {"tokenizer.json": data}


COVID = {"id": SIZE, "content": "COVID"}
COVID_19 = {"id": SIZE + 1, "content": "COVID-19", "normalized": True}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False}
FOLDERS: dict[str, tuple[Files, tuple[str, ...]]] = {
    "vocab.json and merges.txt": ({}, PLAIN),
    "a start token of its own": ({"tokenizer_config.json": {"bos_token": "<s>"}}, PLAIN),
    "a start token put before every text": (
        {"tokenizer_config.json": {"bos_token": "<s>", "add_bos_token": True}},
        PLAIN,
    ),
    "special tokens without a role": (
        {"tokenizer_config.json": {"additional_special_tokens": ["<pad>", "COVID"]}},
        PLAIN,
    ),
    "a space first": (
        {"tokenizer_config.json": {"pad_token": "<pad>", "add_prefix_space": True}},
        PLAIN,
    ),
    "special_tokens_map.json": (
        {
            "special_tokens_map.json": {"bos_token": "<s>", "mask_token": MASK},
            "tokenizer_config.json": {"eos_token": "</s>", "bos_token": "<s>"},
        },
        PLAIN,
    ),
    "added_tokens.json": (
        {
            "added_tokens.json": {"COVID": SIZE, "COVID-19": SIZE + 1, "</s>": SIZE + 2},
            "special_tokens_map.json": {"eos_token": "</s>"},
        },
        PLAIN,
    ),
    "no roles": (
        {"tokenizer_config.json": {f"{r}_token": None for r in ("bos", "eos", "unk")}},
        PLAIN,
    ),
    "flags in tokenizer_config.json": (
        {
            "tokenizer_config.json": {
                "bos_token": "<s>",
                "added_tokens_decoder": {
                    str(SIZE): {"content": "<s>", "lstrip": True, "special": True},
                    str(SIZE + 1): {"content": "cat", "single_word": True},
                },
            }
        },
        PLAIN,
    ),
    "tokenizer.json": (whole(COVID, COVID_19), ()),
    "tokenizer.json beside its parts": (whole(COVID, COVID_19), PLAIN),
    "a space that only tokenizer.json wants": (whole(prefix_space=True), ()),
    "a space that tokenizer.json decides": (
        {**whole(prefix_space=True), "tokenizer_config.json": FAST},
        (),
    ),
    "a space that only tokenizer_config.json wants": (
        {**whole(COVID), "tokenizer_config.json": {"add_prefix_space": True}},
        (),
    ),
    "roles beside tokenizer.json": (
        {**whole(COVID), "tokenizer_config.json": {"bos_token": "<s>", "pad_token": "<pad>"}},
        (),
    ),
}


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    files, keep = FOLDERS[request.param]
    return write(tmp_path / "given", files, keep)


def named(theirs: Any) -> tuple[object, ...]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")
    return tuple(getattr(theirs, name) for name in names)


@pytest.mark.slow
def test_the_same_ids_as_transformers(folder: Path) -> None:
    mine, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert mine.encode(text) == theirs.encode(text, add_special_tokens=False), text
    if theirs.bos_token_id is not None:
        roles = (theirs.bos_token_id, (theirs.eos_token_id,), theirs.pad_token_id)
        assert (mine.bos_id, mine.eos_ids, mine.pad_id) == roles


@pytest.mark.slow
def test_saved_and_read_again(folder: Path, tmp_path: Path) -> None:
    first = Tokenizer.from_folder(folder)
    folders = [tmp_path / name for name in ("once", "twice")]
    again = first
    for place in folders:
        place.mkdir()
        again.save(place)
        again = Tokenizer.from_folder(place)
        for part in ("ranks", "special", "added", "roles", "prefix_space", "checksum"):
            assert getattr(again, part) == getattr(first, part), part
    once, twice = ({p.name: p.read_bytes() for p in place.iterdir()} for place in folders)
    assert once == twice
    (folders[0] / "config.json").write_bytes((folder / "config.json").read_bytes())
    before, after = map(transformers.AutoTokenizer.from_pretrained, (folder, folders[0]))
    for text in TEXTS:
        ids = first.encode(text)
        assert after.encode(text, add_special_tokens=False) == ids, text
        assert after.encode(text) == before.encode(text), text
    if before.bos_token_id is not None:
        assert named(after) == named(before)


def test_older_files_beside_tokenizer_json_are_not_read(tmp_path: Path) -> None:
    vocab = json.loads((MINI / "vocab.json").read_text())
    vocab["Ġthe"], vocab["Ġcat"] = vocab["Ġcat"], vocab["Ġthe"]
    folder = write(tmp_path / "x", {**whole(COVID), "vocab.json": vocab}, ("merges.txt",))
    with pytest.warns(UserWarning, match=r"two vocabularies: tokenizer\.json is read"):
        tokenizer = Tokenizer.from_folder(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode("COVID the cat")
    assert ids == [SIZE, vocab["Ġcat"], vocab["Ġthe"]]
    assert ids == theirs.encode("COVID the cat")


@pytest.mark.parametrize(
    ("config", "generation", "roles"),
    [
        ({"bos_token_id": 5, "eos_token_id": [13, END], "pad_token_id": 0}, {}, (5, (13, END), 0)),
        ({"eos_token_id": 13}, {"eos_token_id": [13, 6]}, (END, (13, 6), None)),
        ({"eos_token_id": [13, 6]}, {"eos_token_id": 6}, (END, (6,), None)),
        ({"bos_token_id": 50256, "eos_token_id": 50256}, {}, (END, (END,), None)),
        ({"bos_token_id": 5}, {"bos_token_id": END}, (5, (END,), None)),
        ({}, {"bos_token_id": 5}, (5, (END,), None)),
        ({"bos_token_id": None, "pad_token_id": -1}, {}, (END, (END,), None)),
    ],
)
def test_the_models_own_roles(
    tmp_path: Path, config: Files, generation: Files, roles: tuple[object, ...]
) -> None:
    folder = write(tmp_path / "x", {"generation_config.json": generation}, **config)
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == roles


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        (
            {"tokenizer_config.json": {"bos_token": "<s>"}},
            {"bos_token_id": END},
            r"start token: tokenizer_config\.json says 8192 and config\.json says 8191",
        ),
        (
            {"special_tokens_map.json": {"pad_token": "<s>"}},
            {"pad_token_id": 3},
            r"padding token: special_tokens_map\.json says 8192 and config\.json says 3",
        ),
        (
            {"tokenizer_config.json": {"eos_token": "</s>"}},
            {"eos_token_id": [13, 5]},
            r"end token: tokenizer_config\.json says 8192 and config\.json says 13, 5",
        ),
        (
            {"generation_config.json": {"eos_token_id": 5}},
            {"eos_token_id": 13},
            r"end token: config\.json says 13 and generation_config\.json says 5",
        ),
        (
            {**whole(COVID), "tokenizer_config.json": {"added_tokens_decoder": {}}},
            {},
            r"adds '<\|endoftext\|>' .* tokenizer_config\.json has no such token",
        ),
        ({"added_tokens.json": {"COVID": 9000}}, {}, "'COVID' is said to have the id 9000.* 8192"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"8192": "<s>"}}},
            {},
            "should have a content and flags, and one is '<s>'",
        ),
        ({"tokenizer.json": {"model": {"type": "BPE"}}}, {}, "is not GPT-2's kind"),
        (
            {"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizerFast"}},
            {},
            "tokenizer_class='GPTNeoXTokenizer', which splits texts in another way",
        ),
        (
            {"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}},
            {},
            "adds tokens of its own; a tokenizer.json, which transformers writes, may be readable",
        ),
        (
            {"tokenizer_config.json": {"split_special_tokens": True}},
            {},
            "sets split_special_tokens, which makes special tokens in a text letters",
        ),
        ({}, {"bos_token_id": "<s>"}, r"config\.json has bos_token_id='<s>'"),
    ],
)
def test_files_that_contradict_each_other(
    tmp_path: Path, files: Files, config: Files, said: str
) -> None:
    with pytest.raises(TokenError, match=said):
        Tokenizer.from_folder(write(tmp_path / "x", files, **config))


def test_gpt2s_end_of_text_is_none_where_it_is_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab = json.loads((MINI / "vocab.json").read_text())
    vocab["<s>"], vocab["</s>"] = vocab.pop("<|endoftext|>"), SIZE
    unasked = {"bos_token_id": vocab["Ġcat"], "eos_token_id": vocab["Ġcat"]}
    folder = write(tmp_path / "x", {"vocab.json": vocab}, ("merges.txt",), **unasked)
    assert Tokenizer.from_folder(folder).roles == Roles(vocab["Ġcat"], (vocab["Ġcat"],))
    monkeypatch.setattr("circuits.tokenizer.settings.GPT2_END", vocab["Ġcat"])
    assert Tokenizer.from_folder(folder).roles == Roles(END, (SIZE,))


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_tokens_with_a_role_need_no_brackets(tmp_path: Path, where: str) -> None:
    vocab = json.loads((MINI / "vocab.json").read_text()) | {"BOS": SIZE, "PAD": SIZE + 1}
    roles = {"bos_token_id": SIZE, "pad_token_id": SIZE + 1}
    files: Files = {"vocab.json": vocab}
    if where != "config.json":
        files[where], roles = {"bos_token": "BOS", "pad_token": "PAD"}, {}
    folder = write(tmp_path / "x", files, ("merges.txt",), **roles)
    mine, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (mine.bos_id, mine.pad_id) == (SIZE, SIZE + 1)
    assert mine.token_strings([SIZE, SIZE + 1]) == ["BOS", "PAD"]
    assert mine.encode("BOS the PAD") == theirs.encode("BOS the PAD")
    assert (mine.encode("BOS")[0] == SIZE) == (where != "config.json")


def test_letters_of_any_script(tmp_path: Path) -> None:
    letters = Tokenizer.characters("aé日\U0001f642 b", ["<s>", "</s>"])
    text = "日本"[:1] + "é\U0001f642 ba</s>éé"
    ids = [2, 1, 3, 4, 5, 0, 7, 1, 1]
    assert letters.encode(text) == ids
    assert letters.decode(ids) == text
    assert (letters.bos_id, letters.eos_ids) == (6, (7,))
    letters.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.encode(text) == ids
    assert (again.checksum, again.roles) == (letters.checksum, letters.roles)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(text) == ids
    assert theirs.decode(ids) == text
    assert theirs.bos_token_id == 6
    with pytest.raises(TokenError, match="no token for '本'"):
        again.encode("日本")


def test_roles_are_guessed_only_where_nothing_is_said() -> None:
    special = {"<s>": 3, "</s>": 4, "[PAD]": 5}
    ranks = {b"a": 0, b"b": 1, b"c": 2}
    assert Tokenizer(ranks, special, name="x").roles == Roles(3, (4,), 5)
    said = Roles(bos_id=1)
    tokenizer = Tokenizer(ranks, special, name="x", roles=said)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (1, (), None)
