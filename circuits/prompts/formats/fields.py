"""The fields of a prompt in a file: which are read, which are carried along, and what is wrong."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

from circuits.errors import CircuitsError, brief, printed
from circuits.files import is_broken
from circuits.prompts.user import Answer, Row

FIELDS = ("clean", "corrupted", "answer", "distractor", "template")
SYNONYM = "prompt"  # of clean
TEXT = "text"  # the same, as data sets of classes say it; beside a prompt, it is another column
LISTS = ("answer", "distractor")  # may be one of several tokens
_NAMES = (*FIELDS, SYNONYM)
_TOO_NEAR = 0.85  # a name that resembles a field's so much is a slip


def field(name: str) -> str:
    """The field that is meant by this name, or the name of a column that is carried along."""
    return "clean" if name == SYNONYM else name


def is_read(name: str) -> bool:
    """Whether this is a field that says something of the prompt itself."""
    return name in _NAMES


def renamed(names: Sequence[str]) -> list[str]:
    """The same names, in which ``text`` is the prompt where nothing else is."""
    has_prompt = {"clean", SYNONYM} & {*names}
    return ["clean" if name == TEXT and not has_prompt else name for name in names]


def check_fields(place: str, names: Sequence[str]) -> None:
    """Refuse names of fields by which it is not clear what is meant.

    Raises:
        CircuitsError: for a name given twice, or nearly the name of a field, and without a prompt.
    """
    problem = _problem(tuple(renamed(names)))
    if problem:
        raise CircuitsError(f"{place} {problem}")


def said_of_repeated(names: Sequence[str]) -> str:
    """What is wrong with names of which some are given more than once."""
    name = next(name for name in names if names.count(name) > 1)
    times = "twice" if names.count(name) == 2 else f"{names.count(name)} times"
    return f"has the field {brief(name)} {times}, and only one can be meant; keep that one"


@lru_cache(maxsize=256)  # every line of a file has the same
def _problem(names: tuple[str, ...]) -> str | None:
    if len(set(names)) != len(names):
        return said_of_repeated(names)
    if SYNONYM in names and "clean" in names:
        return "has both 'clean' and 'prompt', which mean the same; keep one of them"
    for name in names:
        if is_broken(name):
            return f"has a field {brief(name)}, whose name has half a character; mend the name"
        slip = _meant(name, names)
        if slip:
            return (
                f"has a field {brief(name)}; the fields are {', '.join(FIELDS)}; did you mean "
                f"{slip!r}? "
                "(If it should only be carried along, give it a name less like that.)"
            )
    if "clean" not in map(field, names):
        return "lacks the field 'clean', the prompt itself (or 'prompt' or 'text')"
    return None


def _meant(name: str, names: Sequence[str]) -> str | None:
    """The field that is missing and whose name this nearly is: such a slip changes what is asked.

    A column that stands beside the field that it resembles is another one.
    """
    if is_read(name):
        return None
    close = difflib.get_close_matches(name.strip().casefold(), _NAMES, n=1, cutoff=_TOO_NEAR)
    missing = close and field(close[0]) not in map(field, names)
    return close[0] if missing else None


def to_row(place: str, record: Mapping[str, object]) -> Row:
    """The prompt that this record is, of checked fields.

    Raises:
        CircuitsError: for a field that is no text (answer and distractor may be a list of texts),
            and for an empty prompt.
    """
    read: dict[str, Answer | None] = {}
    carried: dict[str, str | None] = {}
    for name, value in zip(renamed([*record]), record.values(), strict=True):
        if not is_read(name):
            carried[name] = None if value is None else _as_text(place, name, value)
        elif name in LISTS and isinstance(value, list):
            read[name] = _several(place, name, value)
        else:
            read[field(name)] = None if value is None else _text(place, name, value)
    clean = read.pop("clean")
    if not isinstance(clean, str) or not clean:
        said = next(name for name in (SYNONYM, "clean", TEXT) if name in record)
        raise CircuitsError(f"{place}: {said} is empty; write a prompt")
    return Row(place, clean, **read, columns=carried)  # type: ignore[arg-type]


def _several(place: str, name: str, values: Sequence[object]) -> tuple[str, ...]:
    """A list of texts of which any counts."""
    if not values:
        raise CircuitsError(f"{place}: {name} is an empty list; write null if there is none")
    texts = tuple(_text(place, f"{name}[{i}]", value) for i, value in enumerate(values))
    if "" in texts:
        raise CircuitsError(f"{place}: {name}[{texts.index('')}] is empty; leave it out")
    if len(set(texts)) != len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise CircuitsError(f"{place}: {name} has {brief(twice)} more than once; keep one")
    return texts


def _text(place: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        shown = json.dumps(value, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 40 else f"{shown[:39]}…"
        lists = ", or a list of them" if name in LISTS else ""
        raise CircuitsError(f"{place}: {printed(name)} is {shown}; give a text in quotes{lists}")
    if is_broken(value):
        raise CircuitsError(
            f"{place}: {printed(name)} has half a character (a lone surrogate): {brief(value)}; "
            "mend the text"
        )
    return value


def _as_text(place: str, name: str, value: object) -> str:
    """What a column that is carried along says, in words: numbers and lists as JSON has them."""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
        value = value[1:-1] if value.startswith('"') else value  # a date, say
    return _text(place, name, value)
