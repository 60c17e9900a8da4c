"""How the text goes on, with and without the edits of the tray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from circuits.errors import CircuitsError
from circuits.explorer.pieces import Note, Options, Piece, question
from circuits.explorer.subject import Subject, words
from circuits.explorer.takes import Taking
from circuits.explorer.tray import Tray

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

MOST_TOKENS = 200


@dataclass(frozen=True, eq=False)
class Continued(Piece):
    """One token more.

    Attributes:
        of: whose it is: ``now`` (with the edits of the tray) or ``before`` (without).
        id, text: the token.
        p: its probability.
    """

    kind: ClassVar[str] = "continued"
    of: str
    id: int
    text: str
    p: float


@question
def continuation(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """How does the text go on, if the likeliest token is taken again and again?

    The text is the whole prompt, wherever is looked. Options: `n`, how many tokens.

    Pieces: `continued`, a token a piece, by turns with and without the tray's edits, if any are
    on; a `note` where the text ends or the context is full; `take`.
    """
    options.only("n")
    n = options.read("n", 20)
    if not 1 <= n <= MOST_TOKENS:
        raise CircuitsError(f"n={n}: let it go on for 1 to {MOST_TOKENS} tokens")
    about = desk.subject(view)
    tray = desk.tray(about)
    ways = {"now": _ids(desk, about, tray, n)}
    if tray:
        ways["before"] = _ids(desk, about, Tray(), n)
    for _ in range(n):
        for of in list(ways):
            step = next(ways[of], None)
            if step is None:
                del ways[of]
                continue
            yield Continued(of, step[0], words(desk.model, [step[0]])[0], step[1])
    room = desk.model.cfg.n_ctx - len(about.ids)
    if room < n:
        yield Note("continuation", f"The model reads at most {desk.model.cfg.n_ctx} tokens.")
    yield Taking(desk, about).of_text(
        [["generate", "--temperature", 0, "--max-new-tokens", min(n, room)]],
        [f"found = model.generate(text, max_new_tokens={min(n, room)}, temperature=0)"],
    )


def _ids(desk: Desk, about: Subject, tray: Tray, n: int) -> Iterator[tuple[int, float]]:
    """The likeliest tokens, one after another, each with its probability."""
    tokenizer, ids = desk.model.tokenizer, list(about.ids)
    ends = () if tokenizer is None else tokenizer.eos_ids
    for _ in range(min(n, desk.model.cfg.n_ctx - len(ids))):
        tokens = torch.tensor([ids], device=desk.model.W_E.device)
        with desk.under(tray):
            stream = desk.model(
                tokens,
                attention_mask=torch.ones_like(tokens),
                stop_at_layer=desk.model.cfg.n_layers,
            )
        p = desk.logits(stream[0, -1:])[0].softmax(-1)
        token = int(p.argmax())
        yield token, float(p[token])
        if token in ends:
            return
        ids.append(token)
