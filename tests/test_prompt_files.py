"""Files that people have: each gives the prompts that stand in it, or one error with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from word_model import word_model

from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError
from circuits.prompts import PromptFile, from_file

TOM = b"clean,answer\nx, Tom\n"


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return word_model(n_ctx=24)


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


READ = {
    "line of blanks": ("a.csv", b"clean\nx\n   \n\t\ny\n", ["x", "y"], None),
    "line of blanks, two columns": ("a.csv", TOM + b"  \ny, Anne\n", ["x", "y"], [" Tom", " Anne"]),
    "line of blanks before the header": ("a.csv", b" \n\n" + TOM, ["x"], [" Tom"]),
    "line of blanks within quotes": ("a.csv", b'clean\n"x\n  \ny"\n', ["x\n  \ny"], None),
    "blanks in JSON": ("a.jsonl", b'{"clean": "  "}\n  \n{"clean": "x"}\n', ["  ", "x"], None),
    "byte order mark": ("a.csv", b"\xef\xbb\xbf" + TOM, ["x"], [" Tom"]),
    "byte order mark and quotes": ("a.csv", b'\xef\xbb\xbf"clean"\nx\n', ["x"], None),
    "byte order mark, JSON": ("a.jsonl", b'\xef\xbb\xbf{"clean": "x"}\n', ["x"], None),
    "spaces in the header": ("a.csv", b" clean , answer\nx, Tom\n", ["x"], [" Tom"]),
    "CRLF": ("a.csv", b"clean,answer\r\nx, Tom\r\ny, Anne\r\n", ["x", "y"], [" Tom", " Anne"]),
    "CR": ("a.csv", b"clean,answer\rx, Tom\ry, Anne\r", ["x", "y"], [" Tom", " Anne"]),
    "CRLF within quotes": ("a.csv", b'clean\r\n"x\r\ny"\r\nz\r\n', ["x\r\ny", "z"], None),
    "no final line break": ("a.csv", TOM + b"y, Anne", ["x", "y"], [" Tom", " Anne"]),
    "no final line break, JSON": ("a.jsonl", b'{"clean": "x"}\n{"clean": "y"}', ["x", "y"], None),
    "quotes": ("a.csv", b'clean\n"say ""x"", and"\n', ['say "x", and'], None),
    "quotes amid a field": ("a.csv", b'clean\nsay "x" and\n', ['say "x" and'], None),
    "quotes around a blank and quotes": (
        "a.csv",
        b'clean\n" ""x"""\n" """\n',
        [' "x"', ' "'],
        None,
    ),
    "the same row twice": ("a.csv", TOM + b"x, Tom\n", ["x", "x"], [" Tom", " Tom"]),
    "capitals in the name": ("A.CSV", TOM, ["x"], [" Tom"]),
    "escapes in JSON": ("a.jsonl", b'{"clean": "x\\n\\u0000\\ud83d\\ude00"}\n', ["x\n\0😀"], None),
}


@pytest.mark.parametrize("kind", READ)
def test_what_is_read(model: HookedGPT2, tmp_path: Path, kind: str) -> None:
    name, content, texts, answers = READ[kind]
    path = write(tmp_path, name, content)
    prompts = from_file(model, path)
    assert list(prompts.texts) == texts
    read = None if prompts.answers is None else [model.to_string([int(a)]) for a in prompts.answers]
    assert read == answers
    assert PromptFile(model, path).count() == len(texts)


CARRIED = "any other for a column that is carried along"
BLANKS = "is blanks alone; leave it empty if there is none, and if blanks are meant, write .*jsonl"
REFUSED = {
    "column twice": (
        "a.csv",
        b"clean,answer,answer\nx, Tom, Anne\n",
        "the header of a.csv has the field 'answer' twice, and only one can be meant",
    ),
    "column twice, with spaces": (
        "a.csv",
        b"clean,answer, answer \nx, Tom, Anne\n",
        "the field 'answer' twice",
    ),
    "column twice, byte order mark": (
        "a.csv",
        b"\xef\xbb\xbfclean,clean\nx,y\n",
        "the field 'clean' twice",
    ),
    "column three times": (
        "a.csv",
        b"clean,clean,clean\nx,y,z\n",
        "the field 'clean' 3 times",
    ),
    "key twice": (
        "a.jsonl",
        b'{"clean": "x", "answer": " Tom"}\n{"clean": "x", "answer": " Tom", "answer": " Anne"}\n',
        "^line 2 of a.jsonl has the field 'answer' twice, and only one can be meant",
    ),
    "column without a name": (
        "a.csv",
        b"clean,,answer\nx,, Tom\n",
        f"column 2 of 3 no.*{CARRIED}",
    ),
    "comma at the header's end": ("a.csv", b"clean,\nx,\n", "of a.csv gives column 2 of 2 no name"),
    "both names of the prompt": (
        "a.csv",
        b"prompt,clean\nx,y\n",
        "^the header of a.csv has both 'clean' and 'prompt', which mean the same; keep one",
    ),
    "both names of the prompt, JSON": (
        "a.jsonl",
        b'{"clean": "x"}\n{"prompt": "x", "clean": "y"}\n',
        "^line 2 of a.jsonl has both 'clean' and 'prompt'",
    ),
    "nothing in the other name": (
        "a.csv",
        b"id,prompt\n1,\n",
        "line 2 of a.csv: prompt is empty; write a prompt",
    ),
    "a slip": (
        "a.csv",
        b"prompt,answr\nx, Tom\n",
        "a field 'answr'; the fields are clean, corrupted, answer, .* did you mean 'answer'",
    ),
    "no prompt": ("a.csv", b"id,answer\n1, Tom\n", "lacks the field 'clean', .* .or 'prompt'"),
    "capitals in the header": ("a.csv", b"Clean\nx\n", "a field 'Clean'.* did you mean 'clean'"),
    "semicolons": ("a.csv", b"clean;answer\nx; Tom\n", "is parted by ';': .* part it by commas"),
    "tabs": ("a.csv", b"clean\tanswer\nx\t Tom\n", r"is parted by '\\t': .* part it by commas"),
    "nothing but blanks": ("a.csv", b" \n\n", "the header of a.csv lacks the field 'clean'"),
    "quoted blanks": ("a.csv", b'clean\nx\n"  "\n', f"line 3 of a.csv: clean {BLANKS}"),
    "blanks for a prompt": (
        "a.csv",
        b"clean,answer\n  , Tom\n",
        f"line 2 of a.csv: clean {BLANKS}",
    ),
    "blanks for an answer": ("a.csv", b"clean,answer\nx, \n", f"line 2 of a.csv: answer {BLANKS}"),
    "blanks for a twin": ("a.csv", b"clean,corrupted\nx,\t\n", f"2 of a.csv: corrupted {BLANKS}"),
    "nothing but a comma": ("a.csv", TOM + b",\n", "line 3 of a.csv: clean is empty"),
    "a cell too many": ("a.csv", TOM + b"x,y, Tom\n", "line 3 of a.csv does not have 2 .* but 3;"),
    "a cell too few": ("a.csv", TOM + b"x\n", "line 3 of a.csv does not have 2 fields.* but 1;"),
    "quote that stays open": (
        "a.csv",
        TOM + b'"y, Tom\nz, Tom\nx, Tom\n',
        "line 3 of a.csv is not CSV: unexpected end of data; a field that begins with a quote",
    ),
    "row of several lines": (
        "a.csv",
        b'clean,answer\n"x\n\ny", Zoe\n',
        "^line 2 of a.csv: ' Zoe' is 4 tokens",
    ),
    "text after a quote": ("a.csv", b'clean\n"x" y\n', "line 2 of a.csv is not CSV: ',' expected"),
    "quote after a blank": (
        "a.csv",
        b'answer,clean\n Tom, "x and"\n',
        "line 2 of a.csv: in clean a quote comes after a blank",
    ),
    "NUL": ("a.txt", b"x\ny\0\n", "line 2 of a.txt has a NUL character"),
    "UTF-16": ("a.csv", TOM.decode().encode("utf-16"), "line 1 of a.csv is not UTF-8 text"),
    "UTF-16 without its mark": (
        "a.csv",
        TOM.decode().encode("utf-16-le"),
        "line 1 of a.csv has a NUL character, as UTF-16 text has many; save it as UTF-8",
    ),
    "UTF-16 in JSON": (
        "a.jsonl",
        '{"clean": "x"}\n'.encode("utf-16-be"),
        "line 1 of a.jsonl has a NUL",
    ),
    "Latin-1": ("a.csv", "clean\nx\ncafé\n".encode("latin-1"), "line 3 of a.csv is not UTF-8 text"),
    "two files in one": (
        "a.txt",
        b"\xef\xbb\xbfx\n\xef\xbb\xbfy\n",
        r"line 2 of a.txt begins with a byte order mark \(U\+FEFF\)",
    ),
    "number": ("a.jsonl", b'{"clean": 5}\n', "line 1 of a.jsonl: clean is 5; give a text"),
    "truth": ("a.jsonl", b'{"clean": "x", "answer": true}\n', "1 of a.jsonl: answer is true; give"),
    "list": ("a.jsonl", b'{"clean": ["x"]}\n', r'line 1 of a.jsonl: clean is \["x"\]; give a text'),
    "NaN": ("a.jsonl", b'{"clean": NaN}\n', "line 1 of a.jsonl: clean is NaN; give a text"),
    "null": ("a.jsonl", b'{"clean": null}\n', "line 1 of a.jsonl: clean is empty"),
    "empty prompt": ("a.jsonl", b'{"clean": ""}\n', "line 1 of a.jsonl: clean is empty"),
    "empty answer": (
        "a.jsonl",
        b'{"clean": "x", "answer": ""}\n',
        "line 1 of a.jsonl: answer is empty; write null if there is none",
    ),
    "half a character": (
        "a.jsonl",
        b'{"clean": "x \\ud83d"}\n',
        "line 1 of a.jsonl: clean has half a character",
    ),
    "number beyond all measure": (
        "a.jsonl",
        b'{"clean": ' + b"1" * 5000 + b"}\n",
        "line 1 of a.jsonl cannot be read: Exceeds the limit|line 1 of a.jsonl: clean is 1111",
    ),
    "nesting beyond all measure": ("a.jsonl", b"[" * 200_000, "line 1 of a.jsonl cannot be read"),
    "one array": (
        "a.jsonl",
        b'[{"clean": "x"}]\n',
        "line 1 of a.jsonl is not an object.* each line",
    ),
    "array of several lines": (
        "a.jsonl",
        b'[\n{"clean": "x"}\n]\n',
        "line 1 of a.jsonl is not JSON",
    ),
    "two objects a line": (
        "a.jsonl",
        b'{"clean": "x"} {"clean": "y"}\n',
        "line 1 of a.jsonl is not JSON: Extra data at column 16; each line is one object",
    ),
    "blank at an answer's end": (
        "a.csv",
        TOM + b"y, Tom \n",
        r"line 3 of a.csv: ' Tom ' is 2 tokens .*' Tom' \| ' '",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(model: HookedGPT2, tmp_path: Path, kind: str) -> None:
    name, content, message = REFUSED[kind]
    with pytest.raises(CircuitsError, match=message):
        from_file(model, write(tmp_path, name, content))


@pytest.mark.parametrize("name", ["folder.txt", "folder.csv", "folder.jsonl"])
def test_a_folder_is_no_file(model: HookedGPT2, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CircuitsError, match=f"{name} cannot be read: Is a directory"):
        from_file(model, tmp_path / name)
    with pytest.raises(CircuitsError, match=f"{name} cannot be read: Is a directory"):
        PromptFile(model, tmp_path / name).count()


def test_counting_finds_what_is_wrong_in_a_late_line(model: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", TOM + b"y, Anne\n" * 3000 + b"y\n")
    with pytest.raises(CircuitsError, match="line 3003 of a.csv does not have 2 fields"):
        PromptFile(model, path).count()


def test_text_is_the_prompt_where_no_other_is(model: HookedGPT2, tmp_path: Path) -> None:
    alone, beside = tmp_path / "a.jsonl", tmp_path / "b.csv"
    alone.write_text('{"text": "ABC"}\n')
    beside.write_text("text,prompt\nnotes,ABC\n")
    assert from_file(model, alone).texts == ("ABC",)
    with pytest.warns(UserWarning, match="columns that no prompt is made of: text"):
        prompts = from_file(model, beside)
    assert prompts.texts == ("ABC",)
    assert prompts.columns == {"text": ("notes",)}
