"""What is shown, as one HTML file that opens without any server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from circuits.errors import CircuitsError, brief
from circuits.explorer.page import explorer_page
from circuits.explorer.pieces import Options, Piece, question
from circuits.explorer.view import View
from circuits.explorer.wire import to_json

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk

MOST_ANSWERS = 100
MOST_OF_A_START = 200_000  # characters
TAKEN_ALONG = ("page", "figure")  # questions about answers, which no page records


@dataclass(frozen=True, eq=False)
class Recording(Piece):
    """How far it is: so many of the answers are recorded."""

    kind: ClassVar[str] = "recording"
    done: int
    whole: int


@dataclass(frozen=True, eq=False)
class SavedPage(Piece):
    """The page, as text."""

    kind: ClassVar[str] = "page"
    html: str


@question
def page(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Which file shows the same without a server?

    Every answer is computed again, so that the file holds the numbers of one model; a question that
    cannot be answered of this view is left out. Options:
    `answers`, a list of questions with their options; `start`, JSON that says what is shown at
    first, its view included, as the page keeps it in its address.

    Pieces: `recording` while it is computed; `page`, with its `html`.
    """
    options.only("answers", "start")
    asked = _asked(options.given.get("answers"))
    start = _start(options.read("start", ""), view)
    recorded: list[dict[str, Any]] = []
    unanswered = None
    for done, (name, given) in enumerate(asked):
        pieces = []
        try:
            for piece in desk.ask(name, view, given):
                pieces.append(to_json(piece))
                yield Recording(done, len(asked))
        except CircuitsError as error:  # what has no answer here has none in the file
            unanswered = error
            continue
        recorded.append({"question": name, "options": given, "pieces": pieces})
    if unanswered is not None and not recorded:
        raise unanswered
    title = f"circuits explore {desk.model.cfg.model_name}"
    yield SavedPage(explorer_page("recorded", title=title, start=start, recorded=recorded).html)


def _asked(given: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The questions, each once."""
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_ANSWERS:
        raise CircuitsError(f"answers is {brief(given)}; give a list of 1 to {MOST_ANSWERS}")
    asked: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for each in given:
        said = each if isinstance(each, dict) and set(each) == {"question", "options"} else {}
        name, options = said.get("question"), said.get("options")
        if not isinstance(name, str) or not isinstance(options, dict) or name in TAKEN_ALONG:
            raise CircuitsError(
                f"answers has {brief(each)}; give objects of a question, other than "
                f"{' and '.join(TAKEN_ALONG)}, and its options"
            )
        asked[json.dumps([name, options], sort_keys=True)] = name, options
    return list(asked.values())


def _start(text: str, view: View) -> dict[str, Any]:
    """What the page shows at first: this view, and the choices that were said with it."""
    if not text:
        return {"view": view.json()}
    try:
        start = json.loads(text) if len(text) <= MOST_OF_A_START else None
    except (ValueError, RecursionError):
        start = None
    if not isinstance(start, dict) or View.read(start.get("view")) != view:
        raise CircuitsError(f"start is {brief(text)}; give JSON of the page that shows this view")
    return start
