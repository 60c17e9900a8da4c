"""A text's windows are its tokens, whatever is read at a time, and memory does not grow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from word_model import word_model

from circuits.architectures import HookedGPT2
from circuits.text_windows import PIECE, TextFile


@pytest.fixture(scope="module")
def words() -> HookedGPT2:
    return word_model(n_ctx=32)


def write(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path


pieces = st.text(st.sampled_from("ab Mary\n\té😀.'1שלום"), max_size=60)


@hypothesis_settings(max_examples=40)
@given(text=pieces, context=st.integers(3, 12))
def test_windows_are_the_text_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, text: str, context: int
) -> None:
    text = "ab Mary gave" + text
    model = word_model(n_ctx=32)
    path = write(tmp_path_factory.mktemp("any"), text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuits.text_windows.PIECE", 7)
        windows = [rows for rows, _ in TextFile(model, path, context)]
    bos = model.to_tokens("")[0]
    assert all(torch.equal(row[:1], bos) for rows in windows for row in rows)
    ids = [token for rows in windows for row in rows for token in row[1:].tolist()]
    assert ids == model.require_tokenizer().encode(text.replace("\r\n", "\n"))
    assert {rows.shape[1] for rows in windows[:-1]} <= {context}


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    model = word_model(n_ctx=16)

    def peak(n: int) -> int:
        path = write(tmp_path, "Mary gave the y " * n)
        tracemalloc.start()
        n_read = sum(rows.numel() for rows, _ in TextFile(model, path))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n_read > 4 * n
        return most

    small = peak(3 * PIECE // 16)
    assert peak(24 * PIECE // 16) < 1.5 * small


def test_text_without_spaces_is_read_too(words: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, "x" * 3 * PIECE)
    assert sum(rows.shape[0] * 31 for rows, _ in TextFile(words, path)) >= 3 * PIECE
