"""Files of prompts read block by block: the same prompts, little memory, and where to go on."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_model import word_model

from circuits.analyses.ablate import ablate
from circuits.architectures import HookedGPT2
from circuits.checkpoints import load
from circuits.errors import CircuitsError
from circuits.prompts import Mark, PromptFile, from_file


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return word_model(n_ctx=24)


TXT = "x and\r\n\n y the \nz\nx x\r\ny\n"
CSV = 'clean,answer,distractor\nx, Tom, Anne\n\n"say\n""x"", and", to, the\ny, Tom, Mary\n'
JSONL = '{"clean": "x", "answer": " Tom"}\n\n{"answer": " to", "clean": "y"}\n'
FILES = {"a.txt": TXT, "a.csv": CSV, "a.jsonl": JSONL, "bom.csv": "\ufeff" + CSV, "b.txt": "x\ry\r"}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_blocks_are_the_file_in_pieces(
    model: HookedGPT2, tmp_path: Path, name: str, block: int
) -> None:
    path = write(tmp_path, name, FILES[name])
    whole = from_file(model, path)
    blocks = list(PromptFile(model, path, block))
    assert [text for prompts in blocks for text in prompts.texts] == list(whole.texts)
    assert {len(prompts) for prompts in blocks[:-1]} <= {block}
    assert {(prompts.metric, prompts.task) for prompts in blocks} == {(whole.metric, name)}
    answers = [prompts.answers for prompts in blocks]
    if whole.answers is None:
        assert answers == [None] * len(blocks)
    else:
        assert [a for some in answers if some is not None for a in some.tolist()] == (
            whole.answers.tolist()
        )


@pytest.mark.parametrize("name", FILES)
def test_every_mark_leads_to_the_rest(model: HookedGPT2, tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, FILES[name])
    file = PromptFile(model, path, 1)
    read = [(prompts.checksum, mark) for prompts, mark in file.after(Mark())]
    for index, (_, mark) in enumerate(read):
        again = [(prompts.checksum, after) for prompts, after in file.after(mark)]
        assert again == read[index + 1 :]
        assert mark.n_prompts == index + 1
    assert read[-1][1].offset == file.size


lines = st.lists(st.sampled_from(["x", "", "x and", "  ", "é", "\u2028"]), max_size=12)


@pytest.mark.slow
@given(lines, st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 4))
def test_any_text_can_be_resumed(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], ending: str, block: int
) -> None:
    path = write(tmp_path_factory.mktemp("any"), "a.txt", ending.join(["x", *words]))
    file = PromptFile(word_model(n_ctx=24), path, block)
    texts = [word for word in ["x", *words] if word.strip()]
    assert [text for prompts in file for text in prompts.texts] == texts
    for _, mark in file.after(Mark()):
        rest = [text for prompts, _ in file.after(mark) for text in prompts.texts]
        assert rest == texts[mark.n_prompts :]


def test_what_all_rows_must_have_holds_across_blocks(model: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "clean,answer\nx, Tom\ny, Tom\nz,\n")
    blocks = PromptFile(model, path, 2).after(Mark())
    _, mark = next(blocks)
    with pytest.raises(CircuitsError, match=r"line 4 of a.csv has no answer, line 2 of a.csv has"):
        next(blocks)
    with pytest.raises(CircuitsError, match=r"line 4 of a.csv has no answer, line 2 of a.csv has"):
        next(PromptFile(model, path, 2).after(mark))


def test_a_later_line_may_be_mended(model: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"clean": "x"}\n{"clean": \n')
    file = PromptFile(model, path, 1)
    blocks = file.after(Mark())
    _, mark = next(blocks)
    with pytest.raises(CircuitsError, match="line 2 of a.jsonl is not JSON"):
        next(blocks)
    write(tmp_path, "a.jsonl", '{"clean": "x"}\n{"clean": "y"}\n')
    assert [prompts.texts for prompts, _ in file.after(mark)] == [("y",)]


@pytest.mark.parametrize("text", ["y\ny\nz\n", "x\n", "x\r\ny\nz\n", ""])
def test_an_earlier_line_may_not_change(model: HookedGPT2, tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "a.txt", "x\ny\nz\n")
    file = PromptFile(model, path, 2)
    _, mark = next(file.after(Mark()))
    write(tmp_path, "a.txt", text)
    with pytest.raises(CircuitsError, match=r"first 2 lines has changed|has no prompts"):
        next(file.after(mark))


def test_a_short_last_block_cannot_grow(model: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "x\ny\nz\n")
    file = PromptFile(model, path, 2)
    *_, (_, mark) = file.after(Mark())
    write(tmp_path, "a.txt", "x\ny\nz\nx\n")
    with pytest.raises(CircuitsError, match=r"a.txt has grown: it ended at line 3"):
        next(file.after(mark))


def test_the_line_that_is_not_utf8_is_named(model: HookedGPT2, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x\n" * 3 + b"\xed\xa0\x80\n")
    blocks = iter(PromptFile(model, path, 2))
    assert next(blocks).texts == ("x", "x")
    with pytest.raises(CircuitsError, match=r"line 4 of a.txt is not UTF-8 text"):
        next(blocks)


def test_what_makes_no_blocks(model: HookedGPT2, tmp_path: Path) -> None:
    with pytest.raises(CircuitsError, match="blocks of 0 prompts"):
        PromptFile(model, tmp_path / "a.txt", 0)
    with pytest.raises(CircuitsError, match=r"a.json is no file of prompts"):
        PromptFile(model, tmp_path / "a.json")
    with pytest.raises(CircuitsError, match="cannot be read: No such file"):
        _ = PromptFile(model, tmp_path / "a.txt").size


LATE = ["{}", '{"city": "Rome"}', '{"id": 5}', '{"city": null}']  # each with its prompt


def late(folder: Path, *more: str) -> Path:
    lines = [f'{{"clean": "x", {line[1:]}'.replace(", }", "}") for line in [*LATE, *more]]
    return write(folder, "a.jsonl", "".join(f"{line}\n" for line in lines))


@pytest.mark.filterwarnings("ignore:.* has columns that no prompt is made of")
def test_every_part_has_all_columns(
    model: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(PromptFile.__init__, "__defaults__", (1, None))
    run, carried = (
        tmp_path / "run",
        {"city": [None, "Rome", None, None], "id": [None, None, "5", None]},
    )
    ablate(model, component="m0", file=late(tmp_path), parts=run)
    paths = sorted(run.glob("*.parquet"))
    schemas = [parquet.read_schema(path).remove_metadata() for path in paths]
    assert schemas == [schemas[0]] * len(LATE)
    assert schemas[0].names == ["prompt", "cell", "value", "changed", "city", "id"]
    for name, values in carried.items():
        rows = [parquet.read_table(path)[name].to_pylist() for path in paths]
        assert rows == [[value] * 2 for value in values]  # a row for each cell
    with pytest.raises(CircuitsError, match="the column 'city' of a.jsonl says nothing of"):
        ablate(model, component="m0", file=tmp_path / "a.jsonl", by="city")


@pytest.mark.filterwarnings("ignore:.* has columns that no prompt is made of")
def test_a_column_that_comes_after_the_run_began_is_refused(
    model: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(PromptFile.__init__, "__defaults__", (1, None))
    asked: dict[str, Any] = {"component": "m0", "parts": tmp_path / "run"}
    # A line that cannot be read is refused in its turn, and its columns are none.
    with pytest.raises(CircuitsError, match="line 5 of a.jsonl has a field 'answr'"):
        ablate(model, file=late(tmp_path, '{"town": 1, "answr": 2}'), **asked)
    assert len(list((tmp_path / "run").glob("*.parquet"))) == len(LATE)
    with pytest.raises(CircuitsError, match=r"has a column 'town' .* same columns \(city, id\)"):
        ablate(model, file=late(tmp_path, '{"town": 1}'), resume=True, **asked)
    answer = ablate(model, file=late(tmp_path, '{"city": "Oslo"}'), resume=True, **asked)
    assert answer.frame["n"].tolist() == [len(LATE) + 1]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    model = load("sort-abc")

    def peak(n: int) -> int:
        path = write(tmp_path, "long.txt", "CBABBC\n" * n)
        tracemalloc.start()
        n_read = sum(len(prompts) for prompts in PromptFile(model, path, 50))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n_read == n
        return most

    peak(100)  # whatever is kept from the first time on
    # Four times as long: what grows with the file would be four times as much. The collector of
    # garbage, which comes when it likes, is not.
    assert peak(8000) < 2 * peak(2000)
