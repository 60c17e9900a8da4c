"""The stream: what each layer would say next after each token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from circuits.analyses.logit_lens import logit_lens
from circuits.explorer.pieces import Options, Piece, Take, question
from circuits.explorer.takes import Taking, Words, text_of
from circuits.pages.logit_lens import data

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

TOP = 5


@dataclass(frozen=True, eq=False)
class Lens(Piece):
    """The grid of a lens.

    Attributes:
        lens: as the viewer of the logit lens reads it: stages, positions, top tokens, numbers.
        tuned: whether a tuned lens translates the stream.
    """

    kind: ClassVar[str] = "lens"
    lens: Mapping[str, Any]
    tuned: bool


@question
def lens(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """What would each layer say, if it were the last, after each token?

    Pieces: `lens`; `take`.
    """
    options.only()
    about = desk.subject(view)
    text = text_of(about)
    with desk.under(desk.tray(about)):
        top = _top(desk)
        result = logit_lens(desk.model, text, positions="all", top=top, lens=desk.lens)
    yield Lens(data(result), desk.lens is not None)
    yield lens_take(Taking(desk, about), "all")


def lens_take(taking: Taking, positions: str | int) -> Take:
    """How the same lens is had elsewhere."""
    desk, top = taking.desk, _top(taking.desk)
    command: Words = ["logit-lens", "--positions", positions, "--top", top]
    line = f"found = circuits.logit_lens(model, text, positions={positions!r}, top={top}"
    if desk.lens_path is not None:
        command = [*command, "--lens", str(desk.lens_path)]
        line += f", lens={str(desk.lens_path)!r}"
    elif desk.lens is not None:
        return taking.of_text([], [f"{line}, lens=lens)  # lens: the one you gave to the desk"])
    return taking.of_text([command], [f"{line})"])


def _top(desk: Desk) -> int:
    """How many tokens a cell has: a vocabulary may be smaller than what is usual."""
    return min(TOP, desk.model.cfg.d_vocab)
