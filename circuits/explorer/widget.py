"""The page in a notebook: a widget whose frame asks the kernel, without any server."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

from circuits.errors import CircuitsError
from circuits.explorer.asked import Asked, to_ask
from circuits.explorer.desk import Desk
from circuits.explorer.turns import Ask, Turns

MOST_OF_AN_ID = 100  # characters


class ExplorerWidget(anywidget.AnyWidget):
    """Shows the page, and answers what it asks from this process.

    The page says ``{circuits: "ask", id, client, slot, question, view, options}`` and hears
    ``{circuits: "heard", id}`` at once, ``{circuits: "piece", id, piece}`` for every piece, then
    ``done`` with the seconds, ``dropped``, or ``error`` with a sentence. ``{circuits: "drop", id}``
    gives an answer up.
    """

    _esm = files("circuits.explorer").joinpath("templates/widget.js").read_text("utf-8")
    html = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int().tag(sync=True)

    def __init__(self, desk: Desk, html: str, height: int) -> None:
        super().__init__(html=html, height=height)
        self._desk, self._turns = desk, Turns()
        self._asking: dict[str, Ask[str]] = {}
        self.on_msg(lambda _, content, __: self._hear(content))

    def close(self) -> None:
        """Take the page out of the notebook, and answer nothing any more."""
        self._turns.close()
        super().close()

    def _hear(self, content: Any) -> None:
        """What a page said; nothing that comes from one can raise here."""
        if not isinstance(content, dict) or not isinstance(content.get("id"), str):
            return
        said = dict(content)
        id_, what = said.pop("id")[:MOST_OF_AN_ID], said.pop("circuits", None)
        if what == "drop" and id_ in self._asking:
            self._turns.drop(self._asking[id_])
        elif what == "ask":
            self._tell({"circuits": "heard", "id": id_})
            try:
                asked = Asked.read(said)
                ask = to_ask(self._desk, asked, lambda *line: self._say(id_, *line))
                self._asking[id_] = ask  # before it is answered: that may come at once
                self._turns.ask(ask)
            except CircuitsError as error:
                self._asking.pop(id_, None)
                self._tell({"circuits": "error", "id": id_, "error": str(error)})

    def _say(self, id_: str, line: str, is_last: bool) -> None:
        said = json.loads(line)
        what = next(kind for kind in ("piece", "done", "dropped", "error") if kind in said)
        if is_last:
            self._asking.pop(id_, None)
        self._tell({**said, "circuits": what, "id": id_})

    def _tell(self, content: dict[str, Any]) -> None:
        with suppress(OSError, RuntimeError):  # the notebook was closed meanwhile
            self.send(content)
