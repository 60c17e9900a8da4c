"""The server over real sockets: answers that stream, clients that leave, servers that come back."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra explore")

from explorer_servers import (
    PAGE,
    PATIENCE,
    TOKEN,
    Client,
    SlowDesk,
    client,
    question,
    raw,
    served,
)

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.explorer.desk import Desk
from circuits.explorer.pieces import Note
from circuits.explorer.serving import Place, Serving, serving


@pytest.fixture
def desk() -> SlowDesk:
    return SlowDesk()


@pytest.fixture
def server(desk: SlowDesk) -> Iterator[Serving]:
    with served(desk) as started:
        yield started
        desk.let.release(2000)


@pytest.fixture
def asker(server: Serving) -> Client:
    return client(server)


def said(line: Any) -> str:
    assert line["piece"]["kind"] == "note"
    return str(line["piece"]["text"])


def test_the_page_is_at_the_address_that_is_shown(server: Serving, asker: Client) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}/?token={TOKEN}"
    answer = asker.send("GET", f"/?token={TOKEN}")
    assert (answer.status, answer.read().decode()) == (200, PAGE.html)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_an_answer_is_lines_and_its_time(asker: Client) -> None:
    lines = list(asker.ask(question("read", prompt="مرحبا 😀 </script>")))
    assert [said(line) for line in lines[:2]] == ["مرحبا 😀 </script>", "read"]
    assert lines[2]["done"] is True
    assert 0 <= lines[2]["seconds"] < PATIENCE
    assert len(lines) == 3


def test_text_of_any_kind_comes_as_ascii(asker: Client) -> None:
    hostile = "\u2028 \u202e \x00 <img src=x onerror=alert(1)> 👨‍👩‍👧 \"'\\\n"
    answer = asker.send("POST", "/ask", question(prompt=hostile))
    assert answer.headers["content-type"] == "application/x-ndjson"
    body = answer.read()
    assert body.isascii()
    assert said(json.loads(body.split(b"\n")[0])) == hostile


def test_pieces_arrive_when_they_are_computed(desk: SlowDesk, asker: Client) -> None:
    lines = asker.ask(question("wait"))
    for i in range(3):
        desk.let.release()
        assert said(next(line for line in lines if "piece" in line)) == str(i)


def test_a_long_piece_is_told_of(desk: SlowDesk, asker: Client) -> None:
    lines = asker.ask(question("wait"))
    assert next(lines) == {"progress": [0, None]}
    desk.let.release()
    assert said(next(line for line in lines if "piece" in line)) == "0"
    assert next(lines) == {"progress": [1, None]}


def test_an_error_is_a_line(server: Serving, desk: SlowDesk) -> None:
    def wrong(*_: Any) -> Iterator[Note]:
        yield Note("x", "first")
        raise CircuitsError("give a token of this vocabulary")

    desk.ask = wrong  # type: ignore[method-assign]
    lines = list(client(server).ask(question()))
    assert said(lines[0]) == "first"
    assert lines[1:] == [{"error": "give a token of this vocabulary"}]


def test_a_newer_question_makes_the_older_stale(desk: SlowDesk, asker: Client) -> None:
    old = asker.ask(question("wait", "map"))
    desk.let.release()
    assert said(next(line for line in old if "piece" in line)) == "0"
    assert desk.begun.acquire(timeout=PATIENCE)
    assert desk.begun.acquire(timeout=PATIENCE)
    new = asker.send("POST", "/ask", question("read", "map"))
    time.sleep(0.5)  # an answer's head is sent before its question has its turn
    desk.let.release()
    rest = [line for line in old if "progress" not in line]
    assert rest == [{"dropped": "stale"}]
    assert desk.closed.wait(PATIENCE)
    lines = map(json.loads, iter(new.readline, b""))
    assert said(next(line for line in lines if "progress" not in line)) == "Once"


def test_a_closed_connection_stops_the_computing(desk: SlowDesk, asker: Client) -> None:
    answer = asker.send("POST", "/ask", question("wait"))
    desk.let.release()
    assert said(json.loads(answer.readline())) == "0"
    answer.close()
    deadline = time.monotonic() + PATIENCE
    while not desk.closed.is_set() and time.monotonic() < deadline:
        desk.let.release()
        time.sleep(0.05)
    assert desk.closed.is_set()


def test_two_clients_are_answered_in_turns(desk: SlowDesk, asker: Client) -> None:
    busy = asker.ask(question("wait", client="a"))
    desk.let.release()
    assert said(next(line for line in busy if "piece" in line)) == "0"
    # While a's next piece is computed, b asks; it is answered as soon as that one is.
    threading.Timer(0.3, desk.let.release).start()
    start = time.monotonic()
    lines = [line for line in asker.ask(question("read", client="b")) if "progress" not in line]
    assert lines[-1]["done"]
    assert time.monotonic() - start < 5


def test_a_server_that_died_comes_back_at_its_address(desk: SlowDesk) -> None:
    with served(desk) as first:
        asking = client(first).ask(question("wait"))
        desk.let.release()
        assert said(next(line for line in asking if "piece" in line)) == "0"
        port = first.port
        threading.Timer(0.2, lambda: desk.let.release(2000)).start()
        first.close()
        assert not any("done" in line for line in asking)  # it was cut off
    with pytest.raises(OSError, match="refused"):
        Client(port).send("GET", "/")
    with served(SlowDesk(), Place(port=port, token=TOKEN)) as second:
        assert second.url == first.url
        assert said(next(client(second).ask(question()))) == "Once"


def test_a_taken_port_is_an_error_that_says_so(server: Serving) -> None:
    taken = f"port {server.port} of 127.0.0.1 cannot be had: address already in use; choose"
    with pytest.raises(CircuitsError, match=taken):
        serving(SlowDesk(), PAGE, Place(port=server.port))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place(port=65536), "port=65536: choose"),
        (Place(port=-1), "port=-1: choose"),
        (Place(host="no such host"), "is no name or address of this machine"),
        (Place(host="127.0.0.1", port=1 << 20), "port=1048576"),
        (Place(token="short"), "a token of 5 characters"),
        (Place(token="with spaces in it, and long"), "give 16 to 128 letters"),
    ],
    ids=str,
)
def test_what_cannot_be_served(place: Place, message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        serving(SlowDesk(), PAGE, place)


def test_fresh_tokens_differ_and_are_not_shown(desk: SlowDesk) -> None:
    with served(desk, Place()) as one, served(desk, Place()) as another:
        assert one.room.guard.token != another.room.guard.token
        assert one.room.guard.token not in repr(one)
        assert said(next(client(one).ask(question()))) == "Once"
        assert client(one).send("GET", "/?token=" + another.room.guard.token).status == 403


def test_closing_ends_the_threads_and_frees_the_port(desk: SlowDesk) -> None:
    before = threading.active_count()
    with served(desk) as server:
        assert said(next(client(server).ask(question()))) == "Once"
        port = server.port
    server.close()  # a second time is no error
    assert threading.active_count() <= before
    with closing(socket.socket()) as plug:
        assert plug.connect_ex(("127.0.0.1", port)) != 0


def test_closing_in_the_middle_of_an_answer_is_silent(
    desk: SlowDesk, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(desk) as server:
        asking = client(server).ask(question("wait"))
        desk.let.release()
        assert said(next(line for line in asking if "piece" in line)) == "0"
        threading.Timer(0.7, lambda: desk.let.release(2000)).start()
        server.close()
    assert not any("done" in line for line in asking)
    assert desk.closed.is_set()
    assert capfd.readouterr() == ("", "")


def test_many_pages_at_once(asker: Client) -> None:
    answers = [asker.ask(question("read", client=f"tab {i}".replace(" ", "-"))) for i in range(30)]
    assert [said(next(lines)) for lines in answers] == ["Once"] * 30


def test_connections_are_kept_between_questions(server: Serving) -> None:
    body = json.dumps(question()).encode()
    head = (
        f"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Circuits-Token: {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    ).encode()
    both = head + b"\r\n" + body + head + b"Connection: close\r\n\r\n" + body
    assert raw(server.port, both).count(b'"done":true') == 2


def test_small_pieces_are_sent_at_once(desk: SlowDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """None waits for the browser to acknowledge the one before, which takes it up to 40 ms."""
    told: list[tuple[int, int, int]] = []
    setsockopt = socket.socket.setsockopt

    def spy(each: socket.socket, *option: Any) -> None:
        told.append(option)
        setsockopt(each, *option)

    monkeypatch.setattr(socket.socket, "setsockopt", spy)
    with (
        served(desk) as server,
        closing(socket.create_connection(("127.0.0.1", server.port))) as connection,
    ):
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(9) == b"HTTP/1.1 "
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in told


@pytest.mark.slow
def test_a_small_question_is_answered_while_another_tab_waits_for_a_large_one() -> None:
    shape = ModelConfig(n_layers=12, n_heads=12, d_model=768, n_ctx=512, d_vocab=1000)
    large, small = " ".join(map(str, range(400))), "5 6 7 8"
    with served(Desk(HookedGPT2.random(shape, seed=0))) as server:
        asker, large_lines = client(server), queue.Queue[Any]()

        def wait() -> None:
            for line in asker.ask(question("attention", client="a", prompt=large)):
                large_lines.put(line)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while "piece" not in large_lines.get(timeout=PATIENCE):
            pass
        lines = list(asker.ask(question("read", client="b", prompt=small)))
        assert lines[-1]["done"]
        meanwhile = large_lines.qsize()
        waiting.join(PATIENCE)
    pieces = [line for line in large_lines.queue if "progress" not in line]
    assert len(pieces) == 13  # the other layers, what to take along, and the end
    assert pieces[-1]["done"]
    assert meanwhile < 6  # the small one did not wait for them
