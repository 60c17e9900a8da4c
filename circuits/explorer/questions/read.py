"""How the model reads the prompt, and what it says next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from circuits.explorer.pieces import Options, Piece, question
from circuits.explorer.questions.predictions import numbers, predictions
from circuits.explorer.subject import Subject, words
from circuits.explorer.takes import Taking, Words
from circuits.explorer.tray import Tray

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk, Followed
    from circuits.explorer.view import View


@dataclass(frozen=True, eq=False)
class Tokens(Piece):
    """The prompt as the model cuts it.

    Attributes:
        ids, texts: of each token; the start token is the first, where there is one.
        p: the probability that each had, given those before it; None for the first.
        at: the position that is looked at, from 0.
        has_start: whether the first is the start token.
    """

    kind: ClassVar[str] = "tokens"
    ids: list[int]
    texts: list[str]
    p: list[float | None]
    at: int
    has_start: bool


@dataclass(frozen=True, eq=False)
class Contrast(Piece):
    """The second prompt.

    Attributes:
        ids, texts: of each of its tokens.
        differs: whether each is another one than the prompt has at its place; None where the two
            cannot be aligned.
        unaligned: why they cannot; None if they can.
    """

    kind: ClassVar[str] = "contrast"
    ids: list[int]
    texts: list[str]
    differs: list[bool] | None
    unaligned: str | None


@dataclass(frozen=True)
class FollowedToken:
    """One of the two tokens that are followed; `given` says whether the user chose it."""

    id: int
    text: str
    p: float
    logit: float
    given: bool


@dataclass(frozen=True, eq=False)
class Following(Piece):
    """The tokens that are followed.

    Attributes:
        answer, distractor: the two, as the model says them with the tray's edits.
        difference: of their logits; what every map is about.
        before: the difference without the edits; None where there are none.
        contrast: the difference in the contrast, where it can be aligned.
    """

    kind: ClassVar[str] = "followed"
    answer: FollowedToken
    distractor: FollowedToken
    difference: float
    before: float | None
    contrast: float | None


@question
def read(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """How does the model read this, and what does it say next?

    Pieces: `tokens`; `predictions` of now; with edits those of before; `followed`; with a contrast
    `contrast`, and if it can be aligned its `predictions`; `take`.
    """
    options.only()
    about, model = desk.subject(view), desk.model
    tray = desk.tray(about)
    logits = desk.next_logits(about, tray)
    now = predictions(model, logits, "now", about.at)
    p = desk.kept.get(("p", about.ids, tray or None), lambda: _given(desk, about, tray))
    yield Tokens(list(about.ids), words(model, about.ids), [None, *p], about.at, about.has_start)
    yield now
    before = desk.next_logits(about, Tray()) if tray else None
    if before is not None:
        yield predictions(model, before, "before", about.at)
    pair = desk.followed(about)
    contrast = None
    if about.twin is not None and about.unaligned is None:
        contrast = desk.next_logits(about, tray, about.twin)
    yield Following(
        _token(desk, pair.answer, logits, given=pair.answer_given),
        _token(desk, pair.distractor, logits, given=pair.distractor_given),
        _difference(logits, pair),
        None if before is None else _difference(before, pair),
        None if contrast is None else _difference(contrast, pair),
    )
    if about.twin is not None:
        twin = list(about.twin)
        differs = None
        if about.unaligned is None or len(twin) == len(about.ids):
            differs = [a != b for a, b in zip(about.ids, twin, strict=True)]
        yield Contrast(twin, words(model, twin), differs, about.unaligned)
    if contrast is not None:
        yield predictions(model, contrast, "contrast", about.at)
    command: Words = ["logit-lens", "--positions", about.at, "--top", len(now.ids)]
    line = f"found = circuits.logit_lens(model, text, positions={about.at}, top={len(now.ids)})"
    yield Taking(desk, about).of_text([command], [line])


def _given(desk: Desk, about: Subject, tray: Tray) -> list[float]:
    """The probability of each token but the first, given those before it."""
    ids = about.tokens[0, 1:]
    p: list[float] = []
    for stream, next_ids in zip(
        desk.run(about, tray).final[:-1].split(64), ids.split(64), strict=True
    ):
        if len(next_ids):
            log_p = desk.logits(stream).log_softmax(-1)
            p += numbers(log_p.gather(1, next_ids[:, None])[:, 0].exp()).tolist()
    return p


def _token(desk: Desk, token: int, logits: Tensor, *, given: bool) -> FollowedToken:
    p = float((logits[token] - torch.logsumexp(logits, -1)).exp())
    return FollowedToken(token, words(desk.model, [token])[0], p, float(logits[token]), given)


def _difference(logits: Tensor, pair: Followed) -> float:
    return float(logits[pair.answer] - logits[pair.distractor])
