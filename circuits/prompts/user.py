"""The user's own prompts: texts, or a file of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import CircuitsError, TokenError, nearest
from circuits.prompts.prompts import Example, Prompts, assemble, start_tokens
from circuits.tokenizer import Tokenizer

if TYPE_CHECKING:
    from circuits.model import HookedGPT2

COLUMNS = ("clean", "corrupted", "answer", "distractor")
SUFFIXES = (".txt", ".csv", ".jsonl")


@dataclass(frozen=True)
class Row:
    """One prompt as the user gave it, and where: `place` is for messages."""

    place: str
    clean: str
    corrupted: str | None = None
    answer: str | None = None
    distractor: str | None = None


def from_texts(
    model: HookedGPT2,
    texts: str | Sequence[str],
    *,
    answer: str | None = None,
    distractor: str | None = None,
    prepend_bos: bool | None = None,
) -> Prompts:
    """Which batch do these texts make? They may have different lengths.

    `answer` and `distractor`, one token each, hold for all of them. Without an answer every next
    token of the texts is scored.

    Raises:
        CircuitsError: when no texts are given, or answer and distractor coincide.
        TokenError: for an answer of several tokens, or a text too long for the context.

    >>> from circuits.checkpoints import load
    >>> prompts = from_texts(load("sort-abc"), ["CBABBC", "CBABBCA"], answer="A", distractor="B")
    >>> prompts.index("END")
    tensor([5, 6])
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    rows = [
        Row(f"prompt {i}" if len(texts) > 1 else "the prompt", text, None, answer, distractor)
        for i, text in enumerate(texts)
    ]
    return _from_rows(model, rows, "prompt", prepend_bos)


def from_file(model: HookedGPT2, path: str | Path, *, prepend_bos: bool | None = None) -> Prompts:
    """Which batch do the prompts in this file make?

    ``.txt`` has one prompt a line. ``.csv`` (with a header) and ``.jsonl`` (one object a line) have
    the fields clean, and if wanted corrupted, answer, distractor. Blank lines are skipped. Text is
    taken as it stands: GPT-2's tokens for words begin with a space, so an answer usually does too.

    Raises:
        CircuitsError: naming the file and the line, for anything that cannot be read.
        TokenError: the same, for answers of several tokens and prompts too long for the context.
    """
    path = Path(path)
    readers = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise CircuitsError(
            f"{path} is no file of prompts: its name should end in {', '.join(SUFFIXES)}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(readers[path.suffix.lower()](path.name, file))
    except OSError as error:
        raise CircuitsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CircuitsError(
            f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error
    if not rows:
        raise CircuitsError(f"{path} has no prompts; write at least one")
    return _from_rows(model, rows, path.name, prepend_bos)


def _from_rows(
    model: HookedGPT2, rows: Sequence[Row], task: str, prepend_bos: bool | None
) -> Prompts:
    start = start_tokens(model, prepend_bos)
    examples = [_example(model, start, row) for row in rows]
    for row in rows:
        for name in ("answer", "distractor", "corrupted"):
            if getattr(row, name) is None and getattr(rows[0], name) is not None:
                raise CircuitsError(f"{row.place} has no {name}, {rows[0].place} has one; give all")
            if getattr(row, name) is not None and getattr(rows[0], name) is None:
                raise CircuitsError(f"{rows[0].place} has no {name}, {row.place} has one; give all")
    metric = "loss"
    if rows and rows[0].answer is not None:
        metric = "prob" if rows[0].distractor is None else "logit_diff"
    return assemble(model, examples, task=task, metric=metric, prepend_bos=bool(start))


def _example(model: HookedGPT2, start: list[int], row: Row) -> Example:
    tokenizer = model.require_tokenizer()
    if row.answer is not None and row.answer == row.distractor:
        raise CircuitsError(
            f"{row.place}: answer and distractor are both {row.answer!r}; give two different tokens"
        )
    if row.distractor is not None and row.answer is None:
        raise CircuitsError(f"{row.place} has a distractor and no answer to compare it with")
    try:
        ids = start + tokenizer.encode(row.clean)
        twin = None if row.corrupted is None else start + tokenizer.encode(row.corrupted)
        answer, distractor = (
            None if word is None else _continuation(tokenizer, row.clean, word)
            for word in (row.answer, row.distractor)
        )
    except TokenError as error:
        raise TokenError(f"{row.place}: {error}") from error
    if not ids:
        raise TokenError(f"{row.place} has no tokens; write at least one")
    if len(ids) > model.cfg.n_ctx:
        raise TokenError(
            f"{row.place} has {len(ids)} tokens, and {model.cfg.model_name} reads at most "
            f"{model.cfg.n_ctx}{' (the start token included)' if start else ''}; shorten it"
        )
    if twin is not None and len(twin) != len(ids):
        raise CircuitsError(
            f"{row.place}: the clean prompt has {len(ids)} tokens ("
            f"{' | '.join(tokenizer.token_strings(ids))}) and the corrupted one {len(twin)} ("
            f"{' | '.join(tokenizer.token_strings(twin))}); the two are compared token by token, "
            "so reword one of them"
        )
    return Example(row.clean, ids, answer, distractor, twin)


def _continuation(tokenizer: Tokenizer, prompt: str, word: str) -> int:
    """The token of an answer, unless a space at the seam makes it one that never follows.

    After "gave it to " the model expects no name, for a name's token brings its own space.
    """
    token = tokenizer.single_token(word)
    follows = tokenizer.encode(prompt + word) == [*tokenizer.encode(prompt), token]
    two_spaces = prompt.endswith(" ") and word.startswith(" ")
    seam_shows = prompt.endswith(" ") or (prompt[-1:].isalpha() and word[:1].isalpha())
    better, spaced = prompt.rstrip(), f" {word.lstrip()}"
    if (two_spaces or (seam_shows and not follows)) and len(tokenizer.encode(spaced)) == 1:
        raise TokenError(
            f"{word!r} does not continue {prompt!r} as one token, for words bring their own space; "
            f"write the prompt {better!r} and the answer {spaced!r}"
        )
    return token


def _read_txt(name: str, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Row(f"line {number} of {name}", line.rstrip("\r\n"))


def _read_csv(name: str, lines: Iterator[str]) -> Iterator[Row]:
    reader = csv.DictReader(lines, strict=True)
    try:
        header = [field.strip() for field in reader.fieldnames or []]
        reader.fieldnames = header
        _check_fields(f"the header of {name}", header)
        for record in reader:
            place = f"line {reader.line_num} of {name}"
            if None in record or None in record.values():
                raise CircuitsError(
                    f"{place} does not have {len(header)} fields as the header "
                    f"({', '.join(header)}); put fields with commas in double quotes"
                )
            yield _row(place, {key: text or None for key, text in record.items()})
    except csv.Error as error:
        raise CircuitsError(f"line {reader.line_num} of {name} is not CSV: {error}") from error


def _read_jsonl(name: str, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number} of {name}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CircuitsError(
                f"{place} is not JSON: {error.msg} at column {error.colno}"
            ) from error
        if not isinstance(record, dict):
            raise CircuitsError(
                f'{place} is not an object like {{"clean": "...", "answer": "..."}}'
            )
        _check_fields(place, list(record))
        yield _row(place, record)


def _check_fields(place: str, fields: Sequence[str]) -> None:
    unknown = [field for field in fields if field not in COLUMNS]
    if unknown:
        raise CircuitsError(
            f"{place} has a field {unknown[0]!r}; the fields are {', '.join(COLUMNS)}"
            f"{nearest(unknown[0], COLUMNS)}"
        )
    if "clean" not in fields:
        raise CircuitsError(f"{place} lacks the field 'clean', the prompt itself")


def _row(place: str, record: dict[str, Any]) -> Row:
    for name, value in record.items():
        if value is not None and not isinstance(value, str):
            raise CircuitsError(f"{place}: {name} is {value!r}; give a text in quotes")
    if not record["clean"]:
        raise CircuitsError(f"{place}: clean is empty; write a prompt")
    return Row(place, **record)
