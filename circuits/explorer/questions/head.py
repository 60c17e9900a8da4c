"""One head: what it writes here, why it looks where it does, what it listens to, its card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch

from circuits.analyses.composition import composition
from circuits.analyses.why import why
from circuits.arrays import Floats
from circuits.components import Component, one_head
from circuits.decompose import center
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Note, Options, Piece, Take, question
from circuits.explorer.questions.attention import patterns
from circuits.explorer.questions.cards import card_lines, layer_card
from circuits.explorer.questions.predictions import numbers
from circuits.explorer.subject import Subject, words
from circuits.explorer.takes import Taking, Words, joined
from circuits.explorer.tray import Tray
from circuits.interventions import run_sites
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

TOP = 8  # tokens and heads
PARTS = 6  # of query and key


@dataclass(frozen=True)
class Ranked:
    """Tokens, and the logits that are added to each."""

    texts: list[str]
    values: Floats


@dataclass(frozen=True, eq=False)
class Writes(Piece):
    """What the head adds to the logits after the position that is looked at.

    With the final norm's scale as it is, less the mean over the vocabulary, which changes no
    probability.
    """

    kind: ClassVar[str] = "writes"
    raises: Ranked
    lowers: Ranked


@dataclass(frozen=True, eq=False)
class Why(Piece):
    """A score as a sum over parts of the query and of the key.

    Attributes:
        query, key: the positions.
        weight, score: what the head's attention there is, and its score before softmax.
        query_parts, key_parts: what asks and what answers.
        values: what each pair adds, a list a query part.
    """

    kind: ClassVar[str] = "why"
    query: int
    key: int
    weight: float
    score: float
    query_parts: list[str]
    key_parts: list[str]
    values: Floats


@dataclass(frozen=True)
class Listened:
    """An earlier head, and the composition score above chance."""

    part: str
    value: float


@dataclass(frozen=True, eq=False)
class Listens(Piece):
    """Which earlier heads its query, key and value read, by weights, the strongest first."""

    kind: ClassVar[str] = "listens"
    q: list[Listened]
    k: list[Listened]
    v: list[Listened]


@dataclass(frozen=True)
class CardRow:
    """One kind of the report card; no value where there is no score."""

    kind: str
    value: float | None
    unit: str | None
    clear: bool


@dataclass(frozen=True, eq=False)
class Card(Piece):
    """The head's report card: what it is called, and its score for every kind."""

    kind: ClassVar[str] = "card"
    name: str | None
    rows: list[CardRow]


@question
def head(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """What does this head do here?

    Options: `head`, its name; `key`, the position whose score is taken apart (without it, the one
    that it looks at most from the position that is looked at).

    Pieces: `writes`, `why`, `listens`, `card`, or a `note` in the place of one; `take`.
    """
    options.only("head", "key")
    part = one_head(options.require("head", "a0.h0"), desk.model.cfg)
    about = desk.subject(view)
    tray = desk.tray(about)
    layer, number = part.layer or 0, part.head or 0
    key = options.read("key", -1)
    if not -1 <= key <= about.at:
        raise CircuitsError(
            f"key={key}: from position {about.at} the head sees positions 0 to {about.at}; "
            "choose one of them"
        )
    if key == -1:
        key = int(patterns(desk, about, tray, layer)[number, about.at].argmax())
    yield _writes(desk, about, tray, part)
    yield _why(desk, about, tray, part, key)
    yield _listens(desk, part)
    yield _card(desk, part, edited=bool(tray))
    yield _take(desk, about, part, key)


def _writes(desk: Desk, about: Subject, tray: Tray, part: Component) -> Piece:
    model, layer, number = desk.model, part.layer or 0, part.head or 0
    if model.cfg.post_norms:
        return Note("writes", "A norm stands between heads and stream: no head writes by itself.")
    tokens = about.tokens
    with desk.under(tray):
        passed = run_sites(model, tokens, torch.ones_like(tokens).bool(), [part.site])
    z = passed[part.site][0, about.at, number]
    written = wide(z) @ wide(model.blocks[layer].attn.W_O[number])
    scale = model.ln_final.scale(wide(desk.run(about, tray).final[about.at]))
    logits = (center(model, written) / scale * wide(model.ln_final.w)) @ wide(model.W_U)
    logits = logits - logits.mean()
    best = [(sign * logits).topk(min(TOP, len(logits))).indices for sign in (1, -1)]
    raises, lowers = (Ranked(words(model, ids.tolist()), numbers(logits[ids])) for ids in best)
    return Writes(raises, lowers)


def _why(desk: Desk, about: Subject, tray: Tray, part: Component, key: int) -> Piece:
    pair = desk.followed(about)
    asked: dict[str, Any] = {"query": about.at, "key": key, "top": PARTS}
    prompts = about.prompts(pair.answer, pair.distractor)
    try:
        with desk.under(tray):
            frame = why(desk.model, part, task=prompts, **asked).frame
    except CircuitsError as error:
        return Note("why", f"This score is not taken apart: {error}")
    table = frame.pivot(index="query_part", columns="key_part", values="value")
    queries, keys = list(dict.fromkeys(frame["query_part"])), list(dict.fromkeys(frame["key_part"]))
    values: Floats = table.loc[queries, keys].to_numpy(float)
    weight, score = (float(frame[name].iloc[0]) for name in ("weight", "score"))
    return Why(about.at, key, weight, score, queries, keys, values)


def _listens(desk: Desk, part: Component) -> Piece:
    if part.layer == 0:
        return Listens([], [], [])

    asked: dict[str, Any] = {}

    def every() -> pd.DataFrame:
        frame: pd.DataFrame = composition(desk.model, **asked).frame
        return frame

    try:
        frame = desk.kept.get("composition", every)
    except CircuitsError as error:
        return Note("listens", str(error))
    mine = frame[frame["receiver"] == str(part)]
    best = {
        slot: rows.nlargest(TOP, "value", keep="all").head(TOP)
        for slot, rows in mine.groupby("slot")
    }
    listed = (
        [
            Listened(sender, value)
            for sender, value in zip(best[slot]["sender"], best[slot]["value"], strict=True)
        ]
        for slot in ("q", "k", "v")
    )
    return Listens(*listed)


def _card(desk: Desk, part: Component, *, edited: bool) -> Piece:
    try:
        frame = layer_card(desk, part.layer or 0)
    except CircuitsError as error:
        return Note("card", str(error))
    frame = frame[frame["component"] == str(part)]
    rows = [
        CardRow(
            kind,
            None if pd.isna(value) else float(value),
            None if pd.isna(unit) else str(unit),
            False if pd.isna(clear) else bool(clear),
        )
        for kind, value, unit, clear in zip(
            frame["kind"], frame["value"], frame["unit"], frame["clear"], strict=True
        )
    ]
    name = str(frame["name"].iloc[0])
    return Card(None if name == "none" else name, rows)


def _take(desk: Desk, about: Subject, part: Component, key: int) -> Take:
    """The commands for all pieces but what it writes, and the lines for all of them."""
    taking, layer, number, at = Taking(desk, about), part.layer, part.head, about.at
    takes: list[Take] = []
    if desk.model.tokenizer is not None:
        line = f"score = circuits.why(model, '{part}', text, query={at}, key={key}, top={PARTS})"
        write = [
            "_, cache = model.run_with_cache(text)",
            f"wrote = cache['z', {layer}][:, {at}, {number}] @ model.W_O[{layer}, {number}]",
            f"writes = cache.apply_ln_to_stack(wrote[None], pos_slice={at})[0, 0] @ model.W_U",
            "writes = writes - writes.mean()",
        ]
        command: Words = ["why", "--query", at, "--key", key, "--top", PARTS, str(part)]
        takes.append(taking.of_text([command], [line, *write]))
    if layer:
        takes.append(
            taking.of_model(
                [["composition", "--to", str(part)]],
                [f"listens = circuits.composition(model, to='{part}')"],
            )
        )
    commands, lines = card_lines(str(part))
    takes.append(taking.of_model(commands, lines))
    return joined(takes)
