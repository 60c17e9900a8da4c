"""What the server refuses: foreign names and pages, missing and wrong tokens."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="needs the extra explore")

from explorer_servers import HERE, TOKEN, Client, SlowDesk, client, question, raw, served

from circuits.errors import CircuitsError
from circuits.explorer.security import Guard, chosen_token, warning_of
from circuits.explorer.serving import Place, Serving


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with served(SlowDesk()) as started:
        yield started


@pytest.fixture
def asker(server: Serving) -> Client:
    return client(server)


def test_a_page_of_this_server_may_ask(asker: Client, server: Serving) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        host = f"{name}:{server.port}"
        same = asker.headed(Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")
        assert same.send("POST", "/ask", question()).status == 200
    # Through a tunnel the port is another, and the name is this machine's.
    assert asker.headed(Host="localhost:9999").send("POST", "/ask", question()).status == 200


HOSTS = [
    "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example",
    "evil.example@127.0.0.1", "127.0.0.1/evil.example", "127.0.0.2", "0.0.0.0", "[::2]", "[",
    "localhost:port", "127.0.0.1:8000:8000", "2130706433", "127.1", "lоcalhost",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/ask", "/"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_is_refused(asker: Client, host: str, path: str) -> None:
    rebound = asker.headed(Host=host.encode().decode("latin-1"))
    answer = (
        rebound.send("POST", path, question())
        if path == "/ask"
        else rebound.send("GET", f"/?token={TOKEN}")
    )
    assert answer.status == 421
    assert "use the address it printed" in answer.read().decode()


def test_a_request_without_a_host_is_refused(server: Serving) -> None:
    assert b" 421 " in raw(server.port, f"GET /?token={TOKEN} HTTP/1.0\r\n\r\n".encode())
    two = f"GET /?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n"
    assert b" 400 " in raw(server.port, two.encode())


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "https://localhost",
        "file://",
        "http://127.0.0.1:1",
    ],
)
def test_a_foreign_origin_is_refused(asker: Client, origin: str) -> None:
    if origin == "":
        refused = asker.headed(Sec_Fetch_Site="cross-site").refused(question())
    else:
        refused = asker.headed(Origin=origin).refused(question())
    assert refused[0] == 403
    assert "may not ask this server" in refused[1]


@pytest.mark.parametrize(
    "token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "a" * 10_000, "\xe9" * 21]
)
def test_without_the_token_nothing_is_answered(asker: Client, token: str) -> None:
    wrong = Client(asker.port, token)
    assert wrong.refused(question())[0] == 403
    for path in (
        "/",
        f"/?token={token[:100]}".encode("ascii", "ignore").decode(),
        "/?tokens=" + TOKEN,
    ):
        if path != f"/?token={TOKEN}":
            answer = wrong.send("GET", path)
            body = answer.read().decode()
            assert answer.status == 403
            assert TOKEN not in body
            assert "token is missing or wrong" in body


def test_the_token_counts_only_where_it_belongs(asker: Client) -> None:
    bare = Client(asker.port, "")
    assert bare.send("POST", f"/ask?token={TOKEN}", question()).status == 403
    assert bare.headed(Cookie=f"token={TOKEN}").send("POST", "/ask", question()).status == 403
    assert asker.send("GET", "/").status == 403  # a header, where the address is asked for it
    assert bare.send("GET", f"/?token={TOKEN}&token={TOKEN}").status == 403
    assert bare.send("GET", "/?" + "&".join(f"a{i}=1" for i in range(50))).status == 403


PATHS = [
    "/../etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/%2e%2e/", "/static/../../x",
    "/ask/", "/ask/../", "/templates/main.js", "/favicon.ico", "/docs", "/openapi.json", "/\\..\\x",
    "/ask%00", "/index.html", "/.git/config", "/%",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_there_are_two_addresses_and_no_files(asker: Client, path: str) -> None:
    for method in ("GET", "POST"):
        answer = asker.send(method, f"{path}?token={TOKEN}", question())
        body = answer.read()
        assert answer.status in (307, 400, 403, 404, 405), body
        assert b"root:" not in body
        assert answer.getheader("content-security-policy")


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "CONNECT"]
)
def test_other_methods_are_refused(asker: Client, method: str) -> None:
    answer = asker.headed(Origin="http://evil.example").send(method, "/ask")
    assert answer.status == 405
    assert not [name for name, _ in answer.getheaders() if name.startswith("access-control")]


def test_every_answer_has_its_headers(asker: Client) -> None:
    answers = [
        asker.send("GET", f"/?token={TOKEN}"),
        asker.send("GET", "/"),
        asker.send("GET", "/nowhere"),
        asker.send("POST", "/ask", question()),
        asker.send("POST", "/ask", "{"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src ")
        assert "frame-ancestors 'none'" in policy
        assert "'unsafe-eval'" not in policy
        assert "script-src 'unsafe-inline'" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    assert "script-src 'sha256-abc'" in answers[0].headers["content-security-policy"]
    assert "script-src 'none'" in answers[1].headers["content-security-policy"]


def test_all_addresses_take_numbers_and_the_own_name_but_no_others() -> None:
    guard = Guard(TOKEN, "0.0.0.0")
    token = {"x-circuits-token": TOKEN}
    for host in ("192.0.2.7:8000", "[2001:db8::1]:8000", "localhost", socket.gethostname()):
        assert guard.refusal({"host": host, **token}) is None
    for host in ("evil.example", "192.0.2.7.evil.example", ""):
        refusal = guard.refusal({"host": host, **token})
        assert refusal is not None
        assert refusal.status == 421


def test_what_an_open_host_means_is_said() -> None:
    assert [warning_of(host) for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9")] == [
        None
    ] * 4
    for host in ("0.0.0.0", "::", "192.0.2.7", "a-name"):
        said = warning_of(host)
        assert said is not None
        assert said.startswith(f"--host {host}: anybody who reaches this machine")


def test_tokens() -> None:
    assert chosen_token(None) != chosen_token(None)
    assert len(chosen_token(None)) >= 32
    for bad in ("", "short", "a" * 129, "a" * 15, "é" * 20, "a" * 20 + "\n"):
        with pytest.raises(CircuitsError, match="give 16 to 128"):
            chosen_token(bad)
    assert TOKEN not in repr(Guard(TOKEN))


def test_a_notebook_of_this_machine_may_frame_the_page_and_no_other() -> None:
    with served(SlowDesk(), Place(token=TOKEN, framed=True)) as server:
        headers = client(server).send("GET", f"/?token={TOKEN}").headers
    assert "x-frame-options" not in headers
    framers = headers["content-security-policy"].split("frame-ancestors ")[1]
    assert framers == "http://localhost:* http://127.0.0.1:* vscode-webview:"
    assert Place().framed is False
    assert HERE.host == "127.0.0.1"
