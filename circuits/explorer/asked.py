"""From what a page sends to a turn of the desk, and from the desk's pieces to lines of JSON.

Every transport says the same: ``{"piece": ...}`` a piece, and one last line, ``{"done": true,
"seconds": ...}``, or ``{"error": "..."}``, or ``{"dropped": "stale"}`` where nobody waits any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.errors import CircuitsError, brief
from circuits.explorer.desk import Desk
from circuits.explorer.turns import Ask, Ended
from circuits.explorer.view import View
from circuits.explorer.wire import to_json

MOST_BYTES = 6 * 2**20  # of what is asked: a circuit's file has up to 4 MB
MOST_OPTIONS = 20
_NAME = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_KEYS = ("client", "slot", "question", "view", "options")


@dataclass(frozen=True)
class Asked:
    """What a page asks: which question, of which view, for which of its slots."""

    client: str
    slot: str
    question: str
    view: View
    options: Mapping[str, Any]

    @classmethod
    def read(cls, content: object) -> Asked:
        """What was sent, checked.

        Raises:
            CircuitsError: for anything but the keys client, slot, question, view and options, in
                their types and bounds.
        """
        if not isinstance(content, dict) or set(content) != set(_KEYS):
            given = ", ".join(map(brief, content)) if isinstance(content, dict) else brief(content)
            raise CircuitsError(f"a question is an object of {', '.join(_KEYS)}; given: {given}")
        for key in _KEYS[:3]:
            if not isinstance(content[key], str) or not _NAME.fullmatch(content[key]):
                raise CircuitsError(
                    f"{key} {brief(content[key])}: give 1 to 64 letters, digits and any of _.:-"
                )
        options = content["options"]
        if not isinstance(options, dict) or len(options) > MOST_OPTIONS:
            raise CircuitsError(f"options are an object of at most {MOST_OPTIONS} entries")
        client, slot, question = (content[key] for key in _KEYS[:3])
        try:
            view = View.read(content["view"])
        except OverflowError:  # JSON's whole numbers have no bounds
            raise CircuitsError("an amount in the view is too large for a number") from None
        return cls(client, slot, question, view, options)


def parsed(text: str | bytes) -> object:
    """The JSON in it.

    Raises:
        CircuitsError: for what is none, too long, or too deep.
    """
    if len(text) > MOST_BYTES:
        raise CircuitsError(f"a question has at most {MOST_BYTES:,} bytes; given: {len(text):,}")
    try:
        content: object = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise CircuitsError("the question is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
        raise CircuitsError(f"a question is JSON in UTF-8: {error}") from None
    return content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def line(content: Mapping[str, Any]) -> str:
    """One line of an answer, without its end."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def pieces(desk: Desk, asked: Asked) -> Iterator[str]:
    """The lines of the pieces that answer it."""
    for piece in desk.ask(asked.question, asked.view, asked.options):
        yield line({"piece": to_json(piece)})


def last(ended: Ended) -> str:
    """The line that an answer ends with."""
    if ended.how == "done":
        return line({"done": True, "seconds": round(ended.seconds, 4)})
    if ended.how in ("stale", "gone"):
        return line({"dropped": ended.how})
    return line({"error": ended.error})


def to_ask(
    desk: Desk,
    asked: Asked,
    say: Callable[[str, bool], None],
    has_room: Callable[[], bool] = lambda: True,
) -> Ask[str]:
    """What `Turns.ask` takes.

    `say` is then called with each line, and whether it is the last; no further one is computed
    while there is no room for it.
    """
    return Ask(
        asked.client,
        asked.slot,
        lambda: pieces(desk, asked),
        lambda text: say(text, False),
        lambda ended: say(last(ended), True),
        has_room,
    )
