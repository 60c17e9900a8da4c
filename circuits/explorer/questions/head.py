"""What one head does here: what it writes, why it looks there, and whom it listens to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from circuits.analyses.composition import composition
from circuits.analyses.why import why
from circuits.arrays import Floats
from circuits.components import Component, check, parse
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Note, Options, Piece, Take, question
from circuits.explorer.questions.attention import patterns
from circuits.explorer.questions.cards import card_lines, is_quick, layer_card
from circuits.explorer.questions.written import Ranked, logits_of, passing, ranked
from circuits.explorer.subject import Subject
from circuits.explorer.takes import Taking, Words
from circuits.explorer.tray import Tray
from circuits.head_kinds.kinds import NONE

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View
    from circuits.result import Result

TOP = 8  # tokens, parts, and heads listened to
SLOTS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Writes(Piece):
    """The tokens whose logits it raises and lowers most, in logits above the mean token's."""

    kind: ClassVar[str] = "writes"
    raises: Ranked
    lowers: Ranked


@dataclass(frozen=True, eq=False)
class Why(Piece):
    """Why it looks from `query` at `key`.

    Attributes:
        query_parts, key_parts: what stands in the stream there; `other` sums up the rest.
        values: [query part, key part], what each pair adds to the score before softmax.
        score: that of the key; `weight`, the attention it gets.
    """

    kind: ClassVar[str] = "why"
    query: int
    key: int
    query_parts: list[str]
    key_parts: list[str]
    values: Floats
    score: float
    weight: float


@dataclass(frozen=True)
class Heard:
    """A head that is listened to: the composition score, and its distance from chance."""

    part: str
    value: float
    z: float


@dataclass(frozen=True, eq=False)
class Listens(Piece):
    """The earlier heads that its query, key and value could listen to most, by the weights."""

    kind: ClassVar[str] = "listens"
    q: list[Heard]
    k: list[Heard]
    v: list[Heard]


@dataclass(frozen=True)
class CardRow:
    """One kind of the report card; no value where there is no score."""

    kind: str
    value: float | None
    unit: str | None
    clear: bool


@dataclass(frozen=True, eq=False)
class Card(Piece):
    """Its report card: what it is called, if any kind is clear, and its score for every kind."""

    kind: ClassVar[str] = "card"
    name: str | None
    rows: list[CardRow]


@question
def head(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """What does this head do here?

    Options: `head`, its name; `key`, the position whose attention is explained (that which it looks
    at most). Pieces: `writes`, `why`, `listens`, `card` (of the model without
    edits), and a note for each that cannot be had; `take`.
    """
    options.only("head", "key")
    about, model = desk.subject(view), desk.model
    part = _head(desk, options.require("head", "a0.h0"))
    tray = desk.tray(about)
    z = passing(desk, about, tray, _layer(part), "attn.hook_z")[about.at, part.head]
    way_out = model.blocks[_layer(part)].attn.W_O[part.head]
    try:
        logits = logits_of(desk, about, tray, z @ way_out)
        yield Writes(ranked(model, logits, TOP), ranked(model, -logits, TOP, sign=-1))
    except CircuitsError as error:
        yield Note("writes", str(error))
    key = _key(desk, about, tray, part, options)
    try:
        yield _why(desk, about, tray, part, key)
    except CircuitsError as error:
        yield Note("why", str(error))
    try:
        yield desk.kept.get(("listens", str(part)), lambda: _listens(desk, part))
    except CircuitsError as error:
        yield Note("listens", str(error))
    try:
        yield _card(desk, part)
    except CircuitsError as error:
        yield Note("card", str(error))
    yield _take(desk, about, part, key, options)


def _take(desk: Desk, about: Subject, part: Component, key: int, options: Options) -> Take:
    """Commands for why, listens and card; of what the head writes the lines ask the desk."""
    taking = Taking(desk, about)
    commands, lines = card_lines(str(part))
    weights: list[Words] = [["composition", "--to", str(part)]] if part.layer else []
    more = [f"listens = circuits.composition(model, to='{part}')"] if part.layer else []
    of_model = taking.of_model([*weights, *commands], [])
    lines = [*more, *lines]
    if desk.model.tokenizer is None or about.view.edits:
        return taking.at_desk([*taking.again("head", options), *lines])
    looks: Words = ["--query", about.at, "--key", key, "--top", TOP]
    line = f"why = circuits.why(model, '{part}', text, query={about.at}, key={key}, top={TOP})"
    of_text = taking.of_text([["why", *looks, str(part)]], [line, *lines])
    return Take(f"{of_text.command}\n{of_model.command}".strip(), of_text.python)


def _card(desk: Desk, part: Component) -> Card:
    """Its report card.

    Raises:
        CircuitsError: for a model so large that everybody would wait for it.
    """
    if not is_quick(desk, _layer(part)):
        raise CircuitsError(
            "Report cards take long on a model of this size: color the map by kind of head for "
            f"all, or run circuits heads --component {part}."
        )
    frame = layer_card(desk, _layer(part))
    frame = frame[frame["component"] == str(part)]
    columns = (frame[name] for name in ("kind", "value", "unit", "clear"))
    rows = [
        CardRow(
            kind,
            None if pd.isna(value) else float(value),
            None if pd.isna(unit) else str(unit),
            bool(clear) and not pd.isna(clear),
        )
        for kind, value, unit, clear in zip(*columns, strict=True)
    ]
    name = str(frame["name"].iloc[0])
    return Card(None if name == NONE else name, rows)


def _head(desk: Desk, name: str) -> Component:
    part = check(parse(name), desk.model.cfg)
    if part.kind != "head" or part.slot is not None or part.position is not None:
        raise CircuitsError(f"{name} is no head; name one, such as a0.h0")
    return part


def _layer(part: Component) -> int:
    assert part.layer is not None
    return part.layer


def _key(desk: Desk, about: Subject, tray: Tray, part: Component, options: Options) -> int:
    """The position that is looked at, from 0."""
    assert part.head is not None
    weights = patterns(desk, about, tray, _layer(part))[part.head, about.at]
    if options.given.get("key") is None:
        return int(weights.argmax())
    key = options.read("key", 0)
    if not 0 <= key <= about.at:
        raise CircuitsError(
            f"key={key}: from position {about.at} a head sees positions 0 to {about.at}"
        )
    return key


def _why(desk: Desk, about: Subject, tray: Tray, part: Component, key: int) -> Why:
    prompts = about.prompts(*_any_two(desk))
    asked: dict[str, Any] = {"query": about.at, "key": key, "task": prompts}
    with desk.under(tray):
        result: Result = why(desk.model, part, **asked)
    frame = result.frame
    rows = list(dict.fromkeys(frame["query_part"]))
    columns = list(dict.fromkeys(frame["key_part"]))
    values = frame["value"].to_numpy(np.float64).reshape(len(rows), len(columns))
    first = frame.iloc[0]
    return Why(about.at, key, rows, columns, values, float(first["score"]), float(first["weight"]))


def _any_two(desk: Desk) -> tuple[int, int]:
    """Two tokens that prompts ask for, where nobody looks at what they ask for."""
    return 0, min(1, desk.model.cfg.d_vocab - 1)


def _listens(desk: Desk, part: Component) -> Listens:
    if part.layer == 0:
        return Listens([], [], [])
    asked: dict[str, Any] = {"to": part}
    frame = composition(desk.model, **asked).frame
    heard = {}
    for slot in SLOTS:
        rows = frame[frame["slot"] == slot].nlargest(TOP, "z")
        heard[slot] = [
            Heard(str(sender), float(score), float(z))
            for sender, score, z in zip(rows["sender"], rows["score"], rows["z"], strict=True)
        ]
    return Listens(**heard)
