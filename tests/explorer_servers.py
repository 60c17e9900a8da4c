"""Servers of explorers, in the tests: a desk whose pieces wait, and clients with real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from circuits.explorer.page import ExplorerPage
from circuits.explorer.pieces import Note
from circuits.explorer.serving import Place, Serving, serving

PATIENCE = 20.0
TOKEN = "a-token-for-the-tests"
PAGE = ExplorerPage("<!DOCTYPE html><title>a page</title>", "sha256-abc")
OPEN: list[http.client.HTTPResponse] = []  # closed when the server is
HERE = Place(token=TOKEN)
VIEW = {
    "prompt": "Once",
    "contrast": None,
    "at": -1,
    "answer": None,
    "distractor": None,
    "tray": [],
}


@contextmanager
def served(desk: Any, place: Place = HERE, **room: Any) -> Iterator[Serving]:
    """A server in a thread, until the block ends; `room` replaces facts of its room."""
    server = serving(desk, PAGE, place)
    for name, value in room.items():
        object.__setattr__(server.room, name, value)
    server.start()
    try:
        yield server
    finally:
        server.close()
        while OPEN:
            OPEN.pop().close()


def question(name: str = "read", slot: str = "read", client: str = "a", **more: Any) -> Any:
    """What a page sends; `more` are options, or `prompt`."""
    view = VIEW | ({"prompt": more.pop("prompt")} if "prompt" in more else {})
    return {"client": client, "slot": slot, "question": name, "view": view, "options": more}


@dataclass
class Client:
    """Somebody who talks to a server over a socket of their own."""

    port: int
    token: str = TOKEN
    headers: Mapping[str, str] = field(default_factory=dict)

    def headed(self, **headers: str) -> Client:
        """The same one, sending these headers, too; underscores are dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, headers={**self.headers, **named})

    def send(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        """A request, and the head of what comes back."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"X-Circuits-Token": self.token, "Content-Type": "application/json"}
        headers = {**headers, "Connection": "close", **self.headers}
        content = body if isinstance(body, bytes | str | None) else json.dumps(body)
        connection.request(method, path, content, {k: v for k, v in headers.items() if v})
        OPEN.append(connection.getresponse())
        return OPEN[-1]

    def ask(self, asked: Any) -> Iterator[Any]:
        """The lines of an answer as they come."""
        for text in self.send("POST", "/ask", asked):
            yield json.loads(text)

    def refused(self, asked: Any) -> tuple[int, str]:
        """The status, and the sentence, of a refusal."""
        answer = self.send("POST", "/ask", asked)
        return answer.status, json.loads(answer.read())["error"]


def client(server: Serving) -> Client:
    """One that knows the token."""
    return Client(server.port, parse_qs(urlsplit(server.url).query)["token"][0])


def raw(port: int, sent: bytes, patience: float = PATIENCE) -> bytes:
    """All that comes back for these bytes, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as plug:
        plug.sendall(sent)
        parts = []
        while part := plug.recv(65536):
            parts.append(part)
    return b"".join(parts)


@dataclass
class SlowDesk:
    """A desk whose question `wait` gives a piece whenever it is let, and others two at once."""

    let: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    closed: threading.Event = field(default_factory=threading.Event)

    def ask(self, question: str, view: Any, options: Mapping[str, Any]) -> Iterator[Any]:
        """Notes: the prompt and the question; or numbers, each when it is let."""
        if question != "wait":
            yield Note("said", view.prompt)
            yield Note("said", question)
            return
        try:
            for i in range(1000):
                self.begun.release()
                assert self.let.acquire(timeout=PATIENCE)
                yield Note("said", str(i))
        finally:
            self.closed.set()
