"""What the server does not read, or not to the end: no JSON, too much of it, or too slowly."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra explore")

from explorer_servers import PATIENCE, TOKEN, VIEW, Client, SlowDesk, client, question, raw, served
from quick import only

from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError
from circuits.explorer import serving as serving_module
from circuits.explorer.asked import MOST_BYTES, Asked, parsed
from circuits.explorer.desk import Desk
from circuits.explorer.pieces import Note
from circuits.explorer.serving import MOST_CONNECTIONS, Serving
from circuits.explorer.view import MOST_CHARACTERS, MOST_EDITS


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with served(SlowDesk()) as started:
        yield started


@pytest.fixture
def asker(server: Serving) -> Client:
    return client(server)


@pytest.fixture(scope="module")
def real(compiled: HookedGPT2) -> Iterator[Client]:
    """A client of a server with a real desk."""
    with served(Desk(compiled)) as started:
        yield client(started)


BODIES: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "a question is JSON"),
    "nothing": ("", "a question is JSON"),
    "no UTF-8": (b'{"client": "\xff\xfe"}', "a question is JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep in an object": ('{"a":' * 50_000, "nested too deeply"),
    "NaN": ('{"client": NaN}', "NaN is no JSON"),
    "a long number": ("9" * 10_000, "a question is JSON"),
    "a list": ([], "an object of client, slot"),
    "a model": ({**question(), "model": "/etc/passwd"}, "given: 'client', 'slot'"),
    "a path": ({**question(), "checkpoint": "x"}, "an object of client, slot"),
    "no options": ({k: v for k, v in question().items() if k != "options"}, "an object of"),
    "a client of no text": (question() | {"client": 1}, "client 1: give 1 to 64"),
    "a long client": (question() | {"client": "a" * 65}, "give 1 to 64"),
    "a client of odd text": (question() | {"client": "a\n"}, "give 1 to 64"),
    "a hostile slot": (question() | {"slot": "<script>"}, "slot '<script>': give"),
    "a path as question": (question() | {"question": "../x"}, "question '../x': give"),
    "options of no object": (question() | {"options": [1]}, "options are an object"),
    "many options": (question(**{f"o{i}": 1 for i in range(21)}), "at most 20"),
    "no view": (question() | {"view": None}, "a view"),
    "a model in the view": (question() | {"view": {"prompt": "a", "model": "x"}}, "no 'model'"),
    "a long prompt": (question(prompt="a" * (MOST_CHARACTERS + 1)), "at most 20000"),
    "half a character": (question(prompt="\ud800"), "lone surrogate"),
    "a huge position": (question() | {"view": {"prompt": "a", "at": "1"}}, "at of a view"),
    "a tray": (
        question() | {"view": {"prompt": "a", "tray": [{}] * (MOST_EDITS + 1)}},
        "at most 50",
    ),
    "an endless amount": (
        '{"client":"a","slot":"a","question":"read","options":{},"view":{"prompt":"a",'
        '"tray":[{"part":"m0","how":"scale","amount":1e999}]}}',
        "give a number",
    ),
    "a huge amount": (
        question()
        | {"view": {"prompt": "a", "tray": [{"part": "m0", "how": "scale", "amount": 10**400}]}},
        "amount",
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_what_is_no_question_is_refused_in_a_sentence(asker: Client, case: str) -> None:
    body, message = BODIES[case]
    status, error = asker.refused(body)
    assert (status, message in error) == (400, True), error
    assert len(error) < 500  # what was sent does not come back as a whole
    assert next(asker.ask(question()))["piece"]  # and the server goes on


ASKED: dict[str, tuple[Any, str]] = {
    "an unknown question": (question("reed"), "there is no question 'reed'"),
    "a module as question": (question("os"), "there is no question 'os'"),
    "a dunder": (question("__init__"), "there is no question"),
    "an unknown option": (question("read", model="gpt2"), "no option 'model'"),
    "a file to save in": (question("attention", save="/tmp/x"), "no option 'save'"),
    "a far position": (question() | {"view": {"prompt": "ab", "at": 10**9}}, "osition"),
    "a part that is none": (
        question() | {"view": {"prompt": "ab", "tray": [{"part": "../a", "how": "zero"}]}},
        "../a",
    ),
    "a long text": (question(prompt="a" * 20_000), "token"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_the_desk_refuses_is_a_sentence(real: Client, case: str) -> None:
    body, message = ASKED[case]
    (line,) = real.ask(body)
    assert message in line["error"]
    assert "Traceback" not in line["error"]


@pytest.mark.parametrize(
    "prompt",
    [
        "\u202eaAbB",
        "مرحبا",
        "👨‍👩‍👧",
        "</script><script>alert(1)</script>",
        "\x00\x1b[2J",
        "{{7*7}}",
        "\\",
        "'",
    ],
)
def test_hostile_text_comes_back_as_text(mini: HookedGPT2, prompt: str) -> None:
    with served(Desk(mini)) as started:
        lines = list(client(started).ask(question(prompt=prompt)))
    assert lines[-1].get("done"), lines
    assert "".join(lines[0]["piece"]["texts"][1:]) == prompt or not prompt.isascii()


def test_only_json_is_read(asker: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        status, error = asker.headed(Content_Type=kind).refused(question())
        assert (status, error) == (415, "a question is sent as application/json")
    charset = asker.headed(Content_Type="application/json; charset=utf-8")
    assert charset.send("POST", "/ask", question()).status == 200


def head(length: str) -> bytes:
    return (
        f"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Circuits-Token: {TOKEN}\r\n"
        f"Content-Type: application/json\r\n{length}\r\n\r\n"
    ).encode()


def test_a_large_body_is_not_read(server: Serving) -> None:
    for length in (MOST_BYTES + 1, 10**15):
        answer = raw(server.port, head(f"Content-Length: {length}"))
        assert b" 413 " in answer
        assert b"at most" in answer
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as plug:
        plug.sendall(head("Transfer-Encoding: chunked"))
        with pytest.raises(OSError, match="reset|Broken pipe|timed out"):
            plug.sendall(chunk * 50)  # MiB: the server stops reading, and closes


@pytest.mark.parametrize(
    "sent",
    [
        head("Content-Length: -1"), head("Content-Length: x"),
        head("Content-Length: 1\r\nContent-Length: 2"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_http_is_refused(server: Serving, sent: bytes) -> None:
    try:
        answer = raw(server.port, sent)
    except ConnectionResetError:
        answer = b""
    assert answer == b"" or answer.split()[1] in (b"400", b"413", b"431")
    assert next(client(server).ask(question()))["piece"]


def test_a_body_that_does_not_come_is_given_up() -> None:
    with served(SlowDesk(), patience=0.3) as server:
        start = time.monotonic()
        answer = raw(server.port, head("Content-Length: 100") + b'{"client"')
        assert b" 408 " in answer
        assert time.monotonic() - start < 5


def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "PATIENCE", 0.3)
    with served(SlowDesk()) as server:
        for sent in (b"", b"POST /ask HTTP/1.1\r\nHost: 127.0"):
            start = time.monotonic()
            assert raw(server.port, sent) == b""
            assert time.monotonic() - start < 5


class LargeDesk:
    """A desk whose answer has many large pieces."""

    def __init__(self) -> None:
        self.n, self.closed = 0, threading.Event()

    def ask(self, *_: Any) -> Iterator[Note]:
        try:
            for self.n in range(200):
                yield Note("x", "a" * 2**20)
        finally:
            self.closed.set()


def test_whoever_does_not_read_is_not_computed_for(capfd: pytest.CaptureFixture[str]) -> None:
    desk, body = LargeDesk(), json.dumps(question()).encode()
    with served(desk, longest=1.0) as server, socket.socket() as plug:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        plug.connect(("127.0.0.1", server.port))
        plug.sendall(head(f"Content-Length: {len(body)}") + body)
        time.sleep(0.5)
        computed = desk.n
        assert computed < 50  # of 200 MiB: the rest would lie in memory
        other = json.dumps(question(client="b")).encode()
        assert next(client(server).ask(other))["piece"]  # nobody waits for it
        assert desk.closed.wait(PATIENCE)  # it was given up
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_more_connections_than_there_may_be(server: Serving) -> None:
    plugs = [
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        for _ in range(MOST_CONNECTIONS)
    ]
    try:
        time.sleep(0.3)
        assert client(server).send("POST", "/ask", question()).status == 503
    finally:
        for plug in plugs:
            plug.close()
    time.sleep(0.3)
    assert client(server).send("POST", "/ask", question()).status == 200


def test_one_client_cannot_ask_without_end() -> None:
    desk = SlowDesk()
    with served(desk) as server:
        asker = client(server)
        waiting = [asker.send("POST", "/ask", question("wait", f"s{i}")) for i in range(33)]
        assert "too many questions" in json.loads(waiting[-1].readline())["error"]
        desk.let.release(100_000)


@pytest.mark.parametrize("case", only(["deep"], BODIES))
def test_bodies_are_read_the_same_without_a_server(case: str) -> None:
    body, message = BODIES[case]
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    with pytest.raises(CircuitsError) as error:
        Asked.read(parsed(text))
    assert message in str(error.value)
    assert VIEW["prompt"] == "Once"
