"""Which model this is, what to ask first, and what the words mean."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from circuits.checkpoints import checksum
from circuits.circuit import published, read_circuit
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Options, Piece, Take, question
from circuits.explorer.subject import words
from circuits.explorer.takes import Taking
from circuits.explorer.terms import TERMS
from circuits.explorer.tray import Tray
from circuits.explorer.view import JSON, View

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.model import HookedModel


@dataclass(frozen=True, eq=False)
class About(Piece):
    """The model: its name and checksum, its shape, and its start token (None without one)."""

    kind: ClassVar[str] = "about"
    model: str
    checksum: str
    n_layers: int
    n_heads: int
    n_ctx: int
    d_vocab: int
    has_mlps: bool
    has_tokenizer: bool
    start: str | None
    has_tuned_lens: bool


@dataclass(frozen=True)
class Example:
    """A worked question: a title, a sentence, the view, and which map shows it."""

    title: str
    text: str
    view: dict[str, JSON]
    map: dict[str, JSON]


@dataclass(frozen=True, eq=False)
class Examples(Piece):
    """Questions to begin with, which suit the model."""

    kind: ClassVar[str] = "examples"
    examples: list[Example]


@dataclass(frozen=True, eq=False)
class Terms(Piece):
    """Every term of the page, and what it means in one sentence."""

    kind: ClassVar[str] = "terms"
    terms: dict[str, str]


@dataclass(frozen=True)
class KnownCircuit:
    """A circuit that comes with the package: its name, and what it was made for."""

    name: str
    text: str


@dataclass(frozen=True, eq=False)
class Circuits(Piece):
    """The circuits of this model that come with the package."""

    kind: ClassVar[str] = "circuits"
    circuits: list[KnownCircuit]


CLEAR = 0.5  # logits, by which a worked question has to work
_WORDS = (
    (
        "Induction",
        "The fox met a tall something before: heads that find the last time a token occurred and "
        "copy what came next say what the tall one was.",
        "The old fox met a tall rabbit by the river. The old fox met a tall",
        "The old fox met a tall bear by the river. The old fox met a tall",
        (" rabbit", " bear"),
    ),
    (
        "Indirect object",
        "Two people are named, one of them twice: who gets the letter is the other one, and a few "
        "heads move that name to the end.",
        "When Mary and John went to the garden, John gave a letter to",
        "When Mary and John went to the garden, Mary gave a letter to",
        (" Mary", " John"),
    ),
    (
        "Pronoun",
        "Who lost something, a girl or a boy? The word that says so stands at the front, and the "
        "pronoun at the end needs it.",
        "The girl lost her doll, so",
        "The boy lost his doll, so",
        (" she", " he"),
    ),
)
_SORTING = (
    (
        "Sorting",
        "Behind six letters the model writes them in order: the first to come is the smallest.",
        "CABBAC",
        "CCBBBC",
        ("A", "B"),
    ),
    (
        "Counting",
        "One A has been written. Is there another, or is it the turn of B? The model has to count.",
        "CABBACA",
        "CBBBACA",
        ("A", "B"),
    ),
    (
        "When to go on",
        "Two As have been written. Of two, B comes next; of three, another A.",
        "CABBACAA",
        "CAABACAA",
        ("B", "A"),
    ),
)
_COMPILED = (
    (
        "Induction",
        "The letter before was followed by something the last time: the induction head says it "
        "again.",
        "kfdcBbGlampEFk",
        "kddcBbGlampEFk",
        ("f", "d"),
    ),
    (
        "The letter that occurs once",
        "Two capitals are named and one of them comes again: the head says the other one.",
        "aAbBcdeBfg.",
        "aAbBcdeAfg.",
        ("A", "B"),
    ),
    (
        "What came next",
        "An a came before, and something after it: two heads in a row find it again.",
        "abcdefa",
        "adcdefa",
        ("b", "d"),
    ),
)


@question
def about(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Which model is this, what can be asked first, and what do the words mean?

    The view plays no part. Pieces: `about`, `examples`, `terms`, `circuits`, `take`.
    """
    options.only()
    model, cfg = desk.model, desk.model.cfg
    tokenizer = model.tokenizer
    start = tokenizer.bos_id if cfg.default_prepend_bos and tokenizer is not None else None
    yield About(
        cfg.model_name,
        checksum(model),
        cfg.n_layers,
        cfg.n_heads,
        cfg.n_ctx,
        cfg.d_vocab,
        not cfg.attn_only,
        tokenizer is not None,
        None if start is None else words(model, [start])[0],
        desk.lens is not None,
    )
    yield Examples(list(_suitable(desk)))
    yield Terms(dict(TERMS))
    yield Circuits(list(_of_model(model)))
    loading = Taking.loading_of(desk)
    command = shlex.join(["circuits", "info", *loading]) if loading else ""
    yield Take(command, "import circuits\n\nprint(model.cfg, circuits.checksum(model))")


def _suitable(desk: Desk) -> Iterator[Example]:
    """The examples that this vocabulary has, at most three."""
    n = 0
    for examples in (_WORDS, _SORTING, _COMPILED):
        for title, text, prompt, contrast, (answer, distractor) in examples:
            view = View(prompt, contrast, -1, answer, distractor)
            if n < 3 and _suits(desk, view):
                n += 1
                map_: dict[str, JSON] = {"what": "ablate", "method": "zero"}
                yield Example(title, text, view.json(), map_)


def _suits(desk: Desk, view: View) -> bool:
    """Whether the vocabulary has it, the model can do it, and the contrast makes a difference."""
    if desk.model.tokenizer is None:
        return False
    try:
        subject = desk.subject(view)
        pair = desk.followed(subject)
        twin = subject.require_twin()
    except CircuitsError:
        return False
    here, there = (
        float(logits[pair.answer] - logits[pair.distractor])
        for logits in (
            desk.next_logits(subject, Tray()),
            desk.next_logits(subject, Tray(), twin),
        )
    )
    return here > CLEAR and here - there > CLEAR


def _of_model(model: HookedModel) -> Iterator[KnownCircuit]:
    """The published circuits of models of this name."""
    for name in published():
        origin = read_circuit(name).origin
        if origin.model == model.cfg.model_name:
            yield KnownCircuit(name, f"{origin.task or 'a task'}: {origin.method or 'by hand'}")
