"""Tables, Parquet, compressed files and standard input: the same prompts, whatever holds them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from word_model import TOKENS, word_model

from circuits.architectures import HookedGPT2
from circuits.checkpoints import save
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.prompts import Mark, PromptFile, Prompts, from_file
from circuits.prompts.formats import tables

ROWS = [
    {"clean": "x and", "answer": " Tom", "distractor": " Anne", "id": "1", "note": "a, b"},
    {"clean": "say\n\"x\"", "answer": " Mary", "distractor": " Tom", "id": "2", "note": None},
    {"clean": "y", "answer": " Tom", "distractor": " Mary", "id": "3", "note": "é"},
]  # fmt: skip
COLUMNS = {"id": ("1", "2", "3"), "note": ("a, b", None, "é")}


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return word_model(n_ctx=24)


def packed(content: bytes) -> bytes:
    """The same bytes whenever the tests are collected."""
    return gzip.compress(content, mtime=0)


def table(delimiter: str) -> bytes:
    def cell(value: str | None) -> str:
        text = value or ""
        return '"' + text.replace('"', '""') + '"' if set(text) & {'"', "\n", delimiter} else text

    lines = [list(ROWS[0]), *([cell(value) for value in row.values()] for row in ROWS)]
    return "".join(delimiter.join(line) + "\n" for line in lines).encode()


def parquet(rows: list[dict[str, Any]] = ROWS) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def content(suffix: str) -> bytes:
    kind = suffix.removesuffix(".gz")
    if kind == ".parquet":
        plain = parquet()
    elif kind == ".jsonl":
        plain = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    else:
        plain = table({".csv": ",", ".tsv": "\t"}[kind])
    return packed(plain) if suffix.endswith(".gz") else plain


PLAIN = [".csv", ".tsv", ".jsonl", ".parquet"]
KINDS = [*PLAIN, *(f"{kind}.gz" for kind in PLAIN)]


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(model: HookedGPT2, path: Path | str) -> Prompts:
    with pytest.warns(UserWarning, match="columns that no prompt is made of: id, note; they are"):
        return from_file(model, path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_prompts(model: HookedGPT2, tmp_path: Path, kind: str) -> None:
    prompts = read(model, write(tmp_path, f"a{kind}", content(kind)))
    plain = read(model, write(tmp_path, "plain.jsonl", content(".jsonl")))
    assert prompts.checksum == plain.checksum
    assert prompts.texts == tuple(row["clean"] for row in ROWS)
    assert prompts.columns == COLUMNS
    assert prompts.metric == "logit_diff"
    assert prompts.task == f"a{kind}"
    assert prompts.subset(slice(1, 3)).columns == {"id": ("2", "3"), "note": (None, "é")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_can_be_gone_on_with(model: HookedGPT2, tmp_path: Path, kind: str) -> None:
    file = PromptFile(model, write(tmp_path, f"a{kind}", content(kind)), 1)
    blocks = [(prompts.checksum, mark) for prompts, mark in file.after(Mark())]
    for index, (_, mark) in enumerate(blocks):
        again = [(prompts.checksum, after) for prompts, after in file.after(mark)]
        assert again == blocks[index + 1 :]
    assert blocks[-1][1].offset == file.size
    assert file.count() == len(blocks) == 3


def test_a_compressed_file_has_the_checksum_of_what_it_holds(
    model: HookedGPT2, tmp_path: Path
) -> None:
    paths = [write(tmp_path, f"a{kind}", content(kind)) for kind in (".csv", ".csv.gz")]
    plain, packed = (PromptFile(model, path).checksum for path in paths)
    assert plain == packed


def test_records_that_were_read_may_not_change(model: HookedGPT2, tmp_path: Path) -> None:
    file = PromptFile(model, write(tmp_path, "a.parquet", parquet()), 1)
    _, mark = next(file.after(Mark()))
    write(tmp_path, "a.parquet", parquet([{**ROWS[0], "clean": "x"}, *ROWS[1:]]))
    with pytest.raises(CircuitsError, match="its first 1 records has changed"):
        next(file.after(mark))


def test_carried_columns_are_texts(model: HookedGPT2, tmp_path: Path) -> None:
    lines = b'{"prompt": "x", "id": 5, "tags": ["a"], "ok": true}\n{"clean": "y", "late": 1.5}\n'
    with pytest.warns(UserWarning, match="id, tags, ok, late"):
        prompts = from_file(model, write(tmp_path, "a.jsonl", lines))
    assert prompts.texts == ("x", "y")
    assert prompts.columns == {
        "id": ("5", None),
        "tags": ('["a"]', None),
        "ok": ("true", None),
        "late": (None, "1.5"),
    }
    # A column that only one line has stands in every block.
    blocks = list(PromptFile(model, tmp_path / "a.jsonl", 1))
    assert [list(block.columns) for block in blocks] == [["id", "tags", "ok", "late"]] * 2


REFUSED = {
    "commas": ("a.tsv", b"clean,answer\nx, Tom\n", "parted by ',': .* part it by tabs, as TSV is"),
    "a cell too many": ("a.tsv", b"clean\nx\ty\n", "line 2 of a.tsv does not have 1 .* with tabs"),
    "open quote": ("a.tsv", b'clean\n"x\n', "line 2 of a.tsv is not TSV"),
    "late line": (
        "a.csv.gz",
        gzip.compress(b"clean,a\nx,1\ny\n", mtime=0),
        "line 3 of a.csv.gz does not",
    ),
    "not gzip": ("a.csv.gz", b"clean\nx\n", "a.csv.gz cannot be unpacked .*compress the prompts"),
    "half": ("a.csv.gz", packed(b"clean\nx\n")[:-9], "a.csv.gz cannot be unpacked"),
    "unknown and packed": ("a.json.gz", b"", r"a.json.gz is no file of prompts.*\.tsv, \.parquet"),
    "packed only": ("a.gz", b"", "a.gz is no file of prompts"),
    "empty list": ("a.jsonl", b'{"clean": "x", "answer": []}\n', "answer is an empty list; write"),
    "number in a list": (
        "a.jsonl",
        b'{"clean": "x", "answer": [" Tom", 3]}\n',
        r"line 1 of a.jsonl: answer\[1\] is 3; give a text",
    ),
    "twice in a list": (
        "a.jsonl",
        b'{"clean": "x", "answer": [" Tom", " Tom"]}\n',
        "line 1 of a.jsonl: answer has ' Tom' more than once",
    ),
    "empty in a list": (
        "a.jsonl",
        b'{"clean": "x", "answer": [" Tom", ""]}\n',
        r"answer\[1\] is empty; leave it out",
    ),
    "several tokens in a list": (
        "a.jsonl",
        b'{"clean": "x", "answer": [" Tom", " Zoe"]}\n',
        "line 1 of a.jsonl: ' Zoe' is 4 tokens",
    ),
    "right and wrong": (
        "a.jsonl",
        b'{"clean": "x", "answer": [" Tom", " Anne"], "distractor": [" Mary", " Anne"]}\n',
        "line 1 of a.jsonl: answer and distractor are both ' Anne'",
    ),
    "list after a text": (
        "a.jsonl",
        b'{"clean": "x", "answer": " Tom"}\n{"clean": "y", "answer": [" Tom", " Anne"]}\n',
        "line 2 of a.jsonl has a list .* and line 1 of a.jsonl has none",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(model: HookedGPT2, tmp_path: Path, kind: str) -> None:
    name, data, message = REFUSED[kind]
    with pytest.raises(CircuitsError, match=message):
        from_file(model, write(tmp_path, name, data))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1}], "a.parquet lacks the field 'clean'"),
        ([{"clean": "x", "prompt": "x"}], "a.parquet has both 'clean' and 'prompt'"),
        ([{"clean": "x"}, {"clean": None}], "record 2 of a.parquet: clean is empty"),
        ([{"clean": 7}], "record 1 of a.parquet: clean is 7; give a text"),
        ([{"clean": "x", "answer": " Zoe"}], "record 1 of a.parquet: ' Zoe' is 4 tokens"),
    ],
)
def test_records_that_are_refused(
    model: HookedGPT2, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        from_file(model, write(tmp_path, "a.parquet", parquet(rows)))


def test_what_is_no_parquet(
    model: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    path = write(tmp_path, "a.parquet", b"clean\nx\n")
    with pytest.raises(CircuitsError, match=r"a.parquet cannot be read as Parquet"):
        from_file(model, path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CircuitsError, match=r'pip install "gpt2-circuits\[parts\]"'):
        from_file(model, path)


@pytest.fixture(scope="module")
def folder(model: HookedGPT2, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tokens = dict.fromkeys(word[:n] for word in TOKENS for n in range(2, len(word) + 1))
    save(word_model(list(tokens)), path)
    return str(path)


def asked(folder: str, *args: str, data: bytes | None = None) -> Any:
    given = ["ablate", "--component", "m0", "--model", folder, *args]
    return CliRunner().invoke(app, given, input=data, prog_name="circuits")


PIPED = {
    "a JSON object": (content(".jsonl"), "read as jsonl by its beginning"),
    "a header": (table(","), "read as csv by its beginning"),
    "a header of tabs": (table("\t"), "read as tsv by its beginning"),
    "compressed": (content(".csv.gz"), "read as csv by its beginning"),
    "prompts": (b"x and\nthe prompt, clean\n", "read as one prompt a line"),
}


@pytest.mark.parametrize("kind", PIPED)
def test_standard_input_says_what_it_is_taken_for(folder: str, kind: str) -> None:
    data, said = PIPED[kind]
    answer = asked(folder, "--file", "-", "--json", data=data)
    assert answer.exit_code == 0, answer.output
    assert answer.stderr.count(said) == 1
    assert answer.stderr.count("id, note") == (kind != "prompts")
    assert json.loads(answer.stdout)["provenance"]["task"] == "stdin"
    assert asked(folder, "--file", "-", "--json", "-q", data=data).stderr == ""


def test_parquet_on_standard_input(folder: str) -> None:
    answer = asked(folder, "--file", "-", "--json", data=parquet())
    assert answer.exit_code == 0, answer.output
    assert "read as parquet" in answer.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "standard input has no prompts"),
        (b'{"clean": 1}', "line 1 of stdin: clean is 1; give a text"),
        (packed(b"x")[:-5], "standard input cannot be unpacked"),
    ],
)
def test_what_is_wrong_on_standard_input(folder: str, data: bytes, message: str) -> None:
    answer = asked(folder, "--file", "-", data=data)
    assert answer.exit_code == 2
    assert message in answer.stderr


def test_carried_columns_whose_names_are_taken(folder: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = write(tmp_path, "a.csv", b"prompt,value,prompt_value\nx and,a,b\n")
    answer = asked(folder, "--file", str(path), "--parts", str(tmp_path / "run"))
    assert answer.exit_code == 0, answer.output
    rows = pq.read_table(tmp_path / "run" / "part-000000.parquet").to_pydict()
    assert rows["prompt_value"] == ["b"] * 2
    assert rows["prompt_prompt_value"] == ["a"] * 2


def test_a_name_with_half_a_character(model: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", rb'{"prompt": "x and", "\ud800": "a"}')
    with pytest.raises(CircuitsError, match="whose name has half a character"):
        from_file(model, path)


@pytest.mark.parametrize("kind", ["date", "text"])
def test_cells_that_python_cannot_hold(model: HookedGPT2, tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    odd = pa.array([10**8], pa.date32())
    if kind == "text":
        ends = pa.py_buffer(b"\0\0\0\0\1\0\0\0")
        odd = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"prompt": ["x and"], "id": odd}), tmp_path / "a.parquet")
    with pytest.raises(CircuitsError, match=r"a\.parquet cannot be read as Parquet"):
        from_file(model, tmp_path / "a.parquet")


def test_no_standard_input(model: HookedGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CircuitsError, match="no standard input to read prompts from"):
        from_file(model, "-")


def test_carried_columns_stand_in_the_parts(folder: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = write(tmp_path, "a.tsv", b"prompt\tid\tvalue\nx and\t7\ta\ny\t8\t\n")
    answer = asked(folder, "--file", str(path), "--parts", str(tmp_path / "run"))
    assert answer.exit_code == 0, answer.output
    assert answer.stderr.count("id, value; they are carried along") == 1
    rows = pq.read_table(tmp_path / "run" / "part-000000.parquet").to_pydict()
    assert list(rows) == ["prompt", "cell", "value", "changed", "id", "prompt_value"]
    assert rows["id"] == ["7", "8"] * 2
    assert rows["prompt_value"] == ["a", None] * 2
    again = asked(folder, "--file", str(path), "--parts", str(tmp_path / "run"), "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout == answer.stdout


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_cells_longer_than_python_reads_unasked(
    model: HookedGPT2, tmp_path: Path, delimiter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the document that a prompt was taken from, carried along."""
    suffix, document = ".csv" if delimiter == "," else ".tsv", "long " * 40_000
    path = tmp_path / f"rows{suffix}"
    path.write_text(f"clean{delimiter}from\nx and{delimiter}{document}\ny{delimiter}short\n")
    usual = csv.field_size_limit()
    asked = PromptFile(model, path, block=1)
    seen = []
    for prompts in asked:
        assert csv.field_size_limit() == usual  # between the blocks, too
        seen += prompts.columns["from"]
    assert seen == [document, "short"]
    monkeypatch.setattr(tables, "MOST", 1000)
    with pytest.raises(
        CircuitsError, match=r"line 2 .*a field has more than 1,000 characters; a f"
    ):
        list(asked)
    assert csv.field_size_limit() == usual


def test_columns_whose_names_would_act_on_the_terminal(model: HookedGPT2, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"clean": "x", "a\x1b[2J": "1", "n" * 5000: "2"}))
    with pytest.warns(UserWarning, match=r"made of: 'a\\x1b\[2J', 'n+…n+'; they are") as caught:
        from_file(model, path)
    assert len(str(caught[0].message)) < 400
    path = tmp_path / "rows.csv"
    path.write_text("clean,a\x1b[2J\nx\n")
    with pytest.raises(CircuitsError, match=r"\(clean, 'a\\x1b\[2J'\), but 1"):
        from_file(model, path)
