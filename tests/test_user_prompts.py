"""The user's own prompts: what is read, and what is said about what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from word_model import TOKENS, word_model

from circuits.analyses.ablate import ablate
from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError, TokenError
from circuits.prompts import UNSCORED, from_file, from_texts


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return word_model(n_ctx=24)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_one_text(model: HookedGPT2) -> None:
    prompts = from_texts(model, "x and Mary")
    assert prompts.texts == ("x and Mary",)
    assert prompts.prepend_bos
    assert prompts.tokens.tolist() == model.to_tokens("x and Mary").tolist()
    assert torch.equal(prompts.targets[:, :-1], prompts.tokens[:, 1:])
    assert (prompts.metric, prompts.answers, prompts.seed) == ("loss", None, None)


def test_texts_of_different_lengths(model: HookedGPT2) -> None:
    prompts = from_texts(
        model, ["x and", "x"], answer=" Mary", distractor=" John", prepend_bos=False
    )
    assert prompts.mask.tolist() == [[True, True], [True, False]]
    assert prompts.index("END").tolist() == [1, 0]
    mary, john = model.to_single_token(" Mary"), model.to_single_token(" John")
    assert prompts.targets.tolist() == [[UNSCORED, mary], [mary, UNSCORED]]
    assert prompts.answers is not None
    assert prompts.distractors is not None
    assert (prompts.answers.tolist(), prompts.distractors.tolist()) == ([mary] * 2, [john] * 2)
    assert prompts.metric == "logit_diff"
    assert from_texts(model, "x", answer=" Mary").metric == "prob"


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no prompts"),
        ("", {"prepend_bos": False}, "the prompt has no tokens"),
        ("x", {"answer": " Zoe"}, r"the prompt: ' Zoe' is 4 tokens .*' \| 'Z' \| 'o' \| 'e'"),
        ("x", {"answer": "Mary"}, r"with a leading space it is one: ' Mary'"),
        ("x", {"answer": " Mary", "distractor": " Mary"}, "are both ' Mary'"),
        ("x", {"distractor": " Mary"}, "a distractor and no answer"),
        (["x", "y" * 30], {}, r"prompt 1 has 31 tokens, and tiny reads at most 24 \(the start"),
        ("y" * 30, {"prepend_bos": False}, "the prompt has 30 tokens.* at most 24; shorten"),
    ],
)
def test_texts_that_cannot_be_asked(
    model: HookedGPT2, texts: list[str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        from_texts(model, texts, **options)  # type: ignore[arg-type]


TABLE = pd.DataFrame({"clean": ["x", "y"], "answer": [" Tom", " Mary"]})


@pytest.mark.parametrize("texts", [("x", "y"), TABLE["clean"], np.array(["x", "y"])])
def test_texts_in_an_order_are_prompts(model: HookedGPT2, texts: Any) -> None:
    assert from_texts(model, texts).texts == ("x", "y")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"clean": "x", "answer": " Tom"}, "the input is a dict without 'input_ids'; give a text"),
        ({"x"}, "the input is a set; give a text"),
        (TABLE, "is no row of token ids; give a text"),
        (b"x", "the input is a bytes; give a text"),
        (5, "the input is an int; give a text"),
        (["x", 5], "prompt 1 is 5, and others are texts; give texts only"),
        (["x", float("nan")], "prompt 1 is nan, and others are texts"),
        ([{"clean": "x"}], r"\{'clean': 'x'\} is no row of token ids"),
        ([b"x"], "b'x' is no row of token ids"),
        ([None], "None is no row of token ids"),
    ],
    ids=str,
)
def test_what_is_no_text_is_no_prompt(model: HookedGPT2, texts: Any, message: str) -> None:
    """The keys of a dict and the columns of a table are strings, and nobody means them."""
    with pytest.raises(CircuitsError, match=message):
        from_texts(model, texts)
    with pytest.raises(CircuitsError, match=message):
        ablate(model, component="m0", prompt=texts)


def test_an_answer_is_a_text(model: HookedGPT2) -> None:
    for name, options in {"answer": {}, "distractor": {"answer": " Tom"}}.items():
        with pytest.raises(CircuitsError, match=f"the prompt: {name} is 5; give a text"):
            from_texts(model, "x", **options, **{name: 5})  # type: ignore[arg-type]


def test_a_space_at_the_seam_is_explained(model: HookedGPT2) -> None:
    """After "gave " a name's own space is missing, so its token never follows."""
    with pytest.raises(TokenError, match="write the prompt 'x gave' and the answer ' Mary'"):
        from_texts(model, "x gave ", answer=" Mary")
    glued = word_model([*TOKENS, "Mary", "toMary"])
    for prompt in ("x gave ", "x\nto"):
        with pytest.raises(TokenError, match="the answer ' Mary'"):
            from_texts(glued, prompt, answer="Mary")
    for prompt, answer in [("x gave", " Mary"), ("x 17", "3"), ("x\n", " Mary"), ("x (", "Mary")]:
        assert from_texts(glued, prompt, answer=answer).answers is not None


def test_txt_has_one_prompt_a_line(model: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, "mine.txt", "\ufeffx and\r\n\n y the \nz")
    prompts = from_file(model, path)
    assert prompts.texts == ("x and", " y the ", "z")
    assert prompts.task == "mine.txt"


PAIRS = [
    ("x Mary and", "x John and", " Tom", " Anne"),
    ('say "x", and', 'say "y", and', " to", " the"),
]


def test_csv_and_jsonl_say_the_same(model: HookedGPT2, tmp_path: Path) -> None:
    csv = write(
        tmp_path,
        "pairs.csv",
        "clean, corrupted,answer,distractor\n"
        'x Mary and,x John and, Tom, Anne\n\n"say ""x"", and","say ""y"", and", to, the\n',
    )
    jsonl = write(
        tmp_path,
        "pairs.jsonl",
        '{"clean": "x Mary and", "corrupted": "x John and", "answer": " Tom", '
        '"distractor": " Anne"}\n\n{"distractor": " the", "answer": " to", '
        '"clean": "say \\"x\\", and", "corrupted": "say \\"y\\", and"}\n',
    )
    one, other = from_file(model, csv), from_file(model, str(jsonl))
    assert one.checksum == other.checksum
    assert one.texts == other.texts == tuple(pair[0] for pair in PAIRS)
    assert one.corrupted is not None
    assert one.answers is not None
    for row, (_, corrupted, answer, _) in enumerate(PAIRS):
        twin = one.corrupted[row][one.mask[row]].tolist()
        assert model.to_string(twin[1:]) == corrupted
        assert model.to_string([int(one.answers[row])]) == answer
    assert one.metric == "logit_diff"


def test_fields_that_are_empty_or_null_are_absent(model: HookedGPT2, tmp_path: Path) -> None:
    csv = write(tmp_path, "a.csv", "clean,answer,distractor\nx, Tom,\ny, Mary,\n")
    jsonl = write(tmp_path, "a.jsonl", '{"clean": "x", "answer": " Tom", "distractor": null}\n')
    for path in (csv, jsonl):
        prompts = from_file(model, path)
        assert prompts.distractors is None
        assert prompts.metric == "prob"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", r"a.json is no file of prompts.* \.txt, \.csv, \.jsonl"),
        ("a.txt", "\n\n", "has no prompts"),
        ("a.csv", "", "header of a.csv lacks the field 'clean'"),
        ("a.csv", "clean\n", "has no prompts"),
        ("a.csv", "clean,anser\nx, Tom\n", "a field 'anser'.* did you mean 'answer'"),
        ("a.csv", "answer\n Tom\n", "lacks the field 'clean'"),
        ("a.csv", "clean,answer\nx, y, Tom\n", "line 2 of a.csv does not have 2 fields"),
        ("a.csv", "clean,answer\nx, Tom\ny\n", "line 3 of a.csv does not have 2 fields"),
        ("a.csv", "clean,answer\n, Tom\n", "line 2 of a.csv: clean is empty"),
        ("a.csv", 'clean\n"x\n', "of a.csv is not CSV"),
        ("a.csv", "clean,answer\nx, Tom\ny, Zoe\n", r"line 3 of a.csv: ' Zoe' is 4 tokens"),
        ("a.csv", "clean,answer\nx, Tom\ny,\n", "line 3 of a.csv has no answer, line 2 of"),
        ("a.csv", "clean,answer\nx,\ny, Tom\n", "line 2 of a.csv has no answer, line 3 of"),
        ("a.jsonl", '{"clean": "x"}\n{"clean": \n', "line 2 of a.jsonl is not JSON: .* column"),
        ("a.jsonl", '["x"]\n', "line 1 of a.jsonl is not an object"),
        ("a.jsonl", '{"clean": 5}\n', "line 1 of a.jsonl: clean is 5; give a text"),
        ("a.jsonl", '{"clean": null}\n', "line 1 of a.jsonl: clean is empty"),
        ("a.jsonl", '{"answer": "x"}\n', "line 1 of a.jsonl lacks the field 'clean'"),
        ("a.jsonl", "\n", "has no prompts"),
    ],
)
def test_files_that_cannot_be_read(
    model: HookedGPT2, tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        from_file(model, write(tmp_path, name, text))


def test_files_that_are_not_there_or_not_text(model: HookedGPT2, tmp_path: Path) -> None:
    with pytest.raises(CircuitsError, match=r"none\.txt cannot be read: No such file"):
        from_file(model, tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(CircuitsError, match="cannot be read: Is a directory"):
        from_file(model, tmp_path / "folder.txt")
    (tmp_path / "bytes.csv").write_bytes(b"clean\n\xff\xfe\n")
    with pytest.raises(CircuitsError, match="is not UTF-8 text"):
        from_file(model, tmp_path / "bytes.csv")
