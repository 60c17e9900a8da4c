"""nanoGPT's letters: a pickle whose instructions are looked at, and never run."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import single
from test_checkpoint_formats import NANO, nanogpt_checkpoint

from circuits.checkpoints import load
from circuits.checkpoints.plain_pickle import read_plain
from circuits.errors import CheckpointError, TokenError

META = {"vocab_size": 3, "itos": {0: "\n", 1: "é", 2: "日"}, "stoi": {"\n": 0, "é": 1, "日": 2}}
# The same as Python writes it, by each of its protocols.
PICKLED = [
    b64decode(
        "KGRwMApWdm9jYWJfc2l6ZQpwMQpJMwpzVml0b3MKcDIKKGRwMwpJMApWXHUwMDBhCnA0CnNJMQpW6Qpw"
        "NQpzSTIKVlx1NjVlNQpwNgpzc1ZzdG9pCnA3CihkcDgKZzQKSTAKc2c1CkkxCnNnNgpJMgpzcy4="
    ),
    b64decode(
        "fXEAKFgKAAAAdm9jYWJfc2l6ZXEBSwNYBAAAAGl0b3NxAn1xAyhLAFgBAAAACnEESwFYAgAAAMOpcQVL"
        "AlgDAAAA5pelcQZ1WAQAAABzdG9pcQd9cQgoaARLAGgFSwFoBksCdXUu"
    ),
    b64decode(
        "gAJ9cQAoWAoAAAB2b2NhYl9zaXplcQFLA1gEAAAAaXRvc3ECfXEDKEsAWAEAAAAKcQRLAVgCAAAAw6lx"
        "BUsCWAMAAADml6VxBnVYBAAAAHN0b2lxB31xCChoBEsAaAVLAWgGSwJ1dS4="
    ),
    b64decode(
        "gAN9cQAoWAoAAAB2b2NhYl9zaXplcQFLA1gEAAAAaXRvc3ECfXEDKEsAWAEAAAAKcQRLAVgCAAAAw6lx"
        "BUsCWAMAAADml6VxBnVYBAAAAHN0b2lxB31xCChoBEsAaAVLAWgGSwJ1dS4="
    ),
    b64decode(
        "gASVSwAAAAAAAAB9lCiMCnZvY2FiX3NpemWUSwOMBGl0b3OUfZQoSwCMAQqUSwGMAsOplEsCjAPml6WU"
        "dYwEc3RvaZR9lChoBEsAaAVLAWgGSwJ1dS4="
    ),
    b64decode(
        "gAWVSwAAAAAAAAB9lCiMCnZvY2FiX3NpemWUSwOMBGl0b3OUfZQoSwCMAQqUSwGMAsOplEsCjAPml6WU"
        "dYwEc3RvaZR9lChoBEsAaAVLAWgGSwJ1dS4="
    ),
]
VALUES = [
    1,
    -7,
    2**40,
    2.5,
    None,
    True,
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    b"x",
    ["a", "b"],
    {},
]
MORE = b64decode(
    "gASVTgAAAAAAAABdlChLAUr5////igYAAAAAAAFHQAQAAAAAAABOiEsBhZRLAUsChpRLAUsCSwOHlChL"
    "AUsCSwNLBHSUQwF4lF2UKIwBYZSMAWKUZX2UZS4="
)
CALLS_OPEN = b64decode(
    "gAJ9cQBYBAAAAGl0b3NxAWNpbwpvcGVuCnECWAYAAABzdG9sZW5xA1gBAAAAd3EEhnEFUnEGcy4="
)


@pytest.mark.parametrize("content", PICKLED, ids=range(6))
def test_what_python_writes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meta.pkl").write_bytes(content)
    assert read_plain(tmp_path / "meta.pkl") == META


def test_other_plain_values(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(MORE)
    assert read_plain(tmp_path / "meta.pkl") == VALUES


def test_nothing_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(CALLS_OPEN)
    with pytest.raises(CheckpointError, match="GLOBAL.*may run code; it is not read"):
        read_plain(tmp_path / "meta.pkl")
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("content", PICKLED, ids=range(6))
def test_damage_is_one_error_or_another_value(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meta.pkl"
    for at in range(len(content)):
        for damaged in (content[:at], content[:at] + b"\xff" + content[at + 1 :]):
            path.write_bytes(damaged)
            try:
                read_plain(path)
            except CheckpointError as error:
                message = str(error)
                continue
    assert "\n" not in message


def test_a_model_of_letters(tmp_path: Path) -> None:
    torch.save(nanogpt_checkpoint(single(NANO)), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(PICKLED[4])
    model = load(tmp_path)
    assert model.to_tokens("日é\n").tolist() == [[2, 1, 0]]
    assert not model.cfg.default_prepend_bos
    assert model.to_single_str_token(30) == "<|unused_30|>"


def plain(value: object) -> bytes:
    """A dictionary of texts and numbers in the oldest protocol."""
    if isinstance(value, dict):
        return b"(d" + b"".join(plain(k) + plain(v) + b"s" for k, v in value.items())
    return f"V{value}\n".encode() if isinstance(value, str) else f"I{value}\n".encode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"stoi": {"a": 0, "b": 2, "c": 1}},
            "the id 1 the letter 'b', and 'stoi' gives 'b' the id 2",
        ),
        ({"stoi": {"a": 0, "b": 1}}, "the id 2 the letter 'c', and 'stoi' gives it no id"),
        ({"stoi": {"a": 0, "b": 1, "c": 2, "d": 3}}, "'d' the id 3, and 'itos' has no such letter"),
        (
            {"itos": {1: "a", 2: "b", 3: "c"}},
            r"the ids \[1, 2, 3\], which should be 0 to 2, and 3 is",
        ),
        ({"itos": {0: "a", 1: "b", 2: "a"}}, "id 2 the letter 'a', which is that of the id 0, too"),
        ({"vocab_size": 65}, "vocab_size is 65, and 'itos' has 3 letters"),
    ],
)
def test_letters_that_contradict_themselves(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    right: dict[str, object] = {
        "vocab_size": 3,
        "itos": {0: "a", 1: "b", 2: "c"},
        "stoi": {"a": 0, "b": 1, "c": 2},
    }
    torch.save(nanogpt_checkpoint(single(NANO)), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(plain(right) + b".")
    assert load(tmp_path).to_tokens("cab").tolist() == [[2, 0, 1]]
    (tmp_path / "meta.pkl").write_bytes(plain(right | changes) + b".")
    with pytest.raises(TokenError, match=said):
        load(tmp_path)


def test_letters_of_another_dataset(tmp_path: Path) -> None:
    wide = replace(NANO, d_vocab=131)
    torch.save(nanogpt_checkpoint(single(wide)), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(plain({"itos": {0: "a", 1: "b", 2: "c"}}) + b".")
    with pytest.raises(TokenError, match="has 3 letters, and the model beside it .* of 131: they"):
        load(tmp_path)


@pytest.mark.parametrize(
    "wrong", [b"\x80\x02]q\x00.", b"\x80\x02}q\x00X\x04\x00\x00\x00itosK\x05s."]
)
def test_letters_that_are_none(tmp_path: Path, wrong: bytes) -> None:
    torch.save(nanogpt_checkpoint(single(NANO)), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(wrong)
    with pytest.raises(TokenError, match="one letter for each id under 'itos'"):
        load(tmp_path)
