"""The desk: a model, what is known of the views that were asked about, and who answers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.explorer.kept import Kept, weights_version
from circuits.explorer.pieces import QUESTIONS, Piece, about_json
from circuits.explorer.subject import Subject, subject, token_id
from circuits.explorer.tray import Tray, tray_of
from circuits.explorer.view import JSON, View
from circuits.sweep import parse_bytes
from circuits.tuned_lens import TunedLens, lens_logits

if TYPE_CHECKING:
    from circuits.model import HookedModel

_ROWS_AT_ONCE = 2**25  # numbers of logits
_SMALL = 30_000_000  # weights


@dataclass(frozen=True, eq=False)
class Run:
    """One pass of a prompt's tokens. p positions.

    `streams` are what enters each block and, last, what leaves the last one: [1 p d] each.
    """

    streams: tuple[Tensor, ...]

    @property
    def final(self) -> Tensor:
        """[p d]"""
        return self.streams[-1][0]


@dataclass(frozen=True)
class Followed:
    """The two tokens that are followed, and whether each was chosen by the user."""

    answer: int
    distractor: int
    answer_given: bool
    distractor_given: bool


class Desk:
    """Answers questions about views of one model, piece by piece.

    `memory` bounds what is kept of recent views: bytes, or a text such as "1G". `lens` is a tuned
    lens of this model, or its file. A model that is edited in place is seen: nothing is shown that
    was computed with other weights.

    >>> import circuits
    >>> desk = Desk(circuits.load("compiled"))
    >>> pieces = list(desk.ask("read", View("aAbBcdeBfg.")))
    >>> [piece.kind for piece in pieces]
    ['tokens', 'predictions', 'followed', 'take']

    Raises:
        CircuitsError: for a lens of another model.
    """

    def __init__(
        self,
        model: HookedModel,
        *,
        lens: str | Path | TunedLens | None = None,
        memory: int | str = "512M",
    ) -> None:
        self.model = model
        self.lens_path = lens if isinstance(lens, str | Path) else None
        self.lens = TunedLens.load(lens, model) if isinstance(lens, str | Path) else lens
        if self.lens is not None:
            self.lens.check(model)
        self.kept = Kept(parse_bytes(memory))
        self.is_small = sum(weight.numel() for weight in model.parameters()) <= _SMALL
        self._begun = weights_version(model)

    @property
    def changed(self) -> bool:
        """Whether the weights, when a question was last begun, were others than at first.

        Then no file has them.
        """
        return self.kept.version not in ((), self._begun)

    def ask(
        self, question: str, view: View, options: Mapping[str, JSON] | None = None
    ) -> Iterator[Piece]:
        """The answer, a piece at a time; see `circuits.explorer.questions` for what there is.

        Raises:
            CircuitsError: for unknown questions and options, and what cannot be answered.
        """
        ask = QUESTIONS.require(question)
        given = about_json(options or {})

        def pieces() -> Iterator[Piece]:
            # Once a question: looking at every weight takes as long as a small model's block.
            self.kept.of(weights_version(self.model))
            answer = ask(self, view, given)
            while True:
                # Between two pieces the thread computes for others, so nothing stays switched.
                with torch.inference_mode(), one_thread() if self.is_small else nullcontext():
                    piece = next(answer, None)
                if piece is None:
                    return
                yield piece

        return pieces()

    def subject(self, view: View) -> Subject:
        """What the view is about."""
        return subject(self.model, view)

    def tray(self, about: Subject) -> Tray:
        """The view's edits that are on, as hooks."""
        if not about.view.edits:
            return Tray()
        where = about.at if any("@END" in edit.part for edit in about.view.edits) else None
        key = ("tray", about.ids, about.twin, where, about.view.edits)
        return self.kept.get(key, lambda: tray_of(about))

    def under(self, tray: Tray) -> AbstractContextManager[None]:
        """The model with these edits, inside a ``with`` that yields no piece."""
        return self.model.hooks(tray.hooks()) if tray else nullcontext()

    def run(self, about: Subject, tray: Tray, ids: Sequence[int] | None = None) -> Run:
        """The pass of the subject's tokens, or of these, under these edits."""
        ids = about.ids if ids is None else tuple(ids)
        key: Hashable = ("run", ids, tray if tray else None)
        return self.kept.get(key, lambda: self._run(ids, tray))

    def _run(self, ids: Sequence[int], tray: Tray) -> Run:
        n = self.model.cfg.n_layers
        sites = [*(f"blocks.{i}.hook_resid_pre" for i in range(n)), _last(n)]
        tokens = torch.tensor([list(ids)], device=self.model.W_E.device)
        with self.under(tray):
            _, cache = self.model.run_with_cache(
                tokens,
                attention_mask=torch.ones_like(tokens),
                names_filter=sites,
                stop_at_layer=n,
            )
        return Run(tuple(cache[site] for site in sites))

    def logits(self, stream: Tensor) -> Tensor:
        """What the model says after these final streams: [p d] -> [p v]"""
        at_once = max(1, _ROWS_AT_ONCE // self.model.cfg.d_vocab)
        return torch.cat([lens_logits(self.model, some) for some in stream.split(at_once)])

    def next_logits(self, about: Subject, tray: Tray, ids: Sequence[int] | None = None) -> Tensor:
        """The logits [v] after the position that is looked at."""
        ids = about.ids if ids is None else tuple(ids)
        key: Hashable = ("next", ids, about.at, tray if tray else None)
        return self.kept.get(
            key, lambda: self.logits(self.run(about, tray, ids).final[about.at][None])[0]
        )

    def followed(self, about: Subject) -> Followed:
        """The tokens that are followed; those not chosen are the likeliest without any edit.

        Raises:
            CircuitsError: when answer and distractor are the same token.
        """
        view, model = about.view, self.model
        given = [
            None if token in (None, "") else token_id(model, token, what)
            for token, what in ((view.answer, "answer"), (view.distractor, "distractor"))
        ]
        if None in given:
            likely = self.next_logits(about, Tray()).topk(min(3, model.cfg.d_vocab)).indices
            others = [i for i in likely.tolist() if i not in given]
        answer = others.pop(0) if given[0] is None else given[0]
        distractor = others.pop(0) if given[1] is None else given[1]
        if answer == distractor:
            raise CircuitsError(
                "answer and distractor are the same token, so their difference is always 0; "
                "choose two different ones"
            )
        return Followed(answer, distractor, given[0] is not None, given[1] is not None)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, in this block: for small models.

    A small product gains little by a second thread, and waits for it where a browser has the core:
    all heads of `mini` took 0.2 s by one thread, and up to 6 s by two beside a busy process.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _last(n_layers: int) -> str:
    return f"blocks.{n_layers - 1}.hook_resid_post"
