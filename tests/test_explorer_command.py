"""`circuits explore` as a user starts it: its address, its browser, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("starlette", reason="needs the extra explore")

from explorer_servers import PATIENCE, TOKEN, Client, question
from test_imports import help_of, loaded_by

from circuits.cli import app
from circuits.explorer import opening
from circuits.explorer.serving import Serving


def run(*args: str) -> Any:
    return CliRunner().invoke(app, ["explore", *args, "--model", "compiled"], prog_name="circuits")


@contextmanager
def started(*args: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The command in a process of its own, once it has said its address."""
    words = [sys.executable, "-m", "circuits", "explore", *args, "--no-browser"]
    words += ["--token", TOKEN, "--model", "compiled"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeding: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(words, **pipes, **heeding) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.endswith(f"/?token={TOKEN}"), address
            yield process, Client(int(address.split(":")[2].split("/")[0]))
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a signal of Unix")
def test_it_serves_until_ctrl_c_and_comes_back_at_the_same_address() -> None:
    with started("aAbBcdeBfg.") as (process, client):
        lines = list(client.ask(question("read", prompt="aAbB.")))
        assert lines[0]["piece"]["kind"] == "tokens"
        assert lines[-1]["done"]
        page = client.send("GET", f"/?token={TOKEN}").read().decode()
        assert "aAbBcdeBfg." in page
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "")
    assert err == "the page is at this address; Ctrl-C ends it\nended\n"
    with started("--port", str(client.port), "--quiet") as (process, again):
        assert again == client
        assert list(again.ask(question("read", prompt="aAbB.")))[-1]["done"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a signal of Unix")
def test_ctrl_c_ends_it_while_it_computes_and_while_pages_are_open() -> None:
    with started() as (process, client), socket.create_connection(("127.0.0.1", client.port)):
        answer = client.send("POST", "/ask", question("attention", prompt="aAbB."))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        answer.close()
    assert process.returncode == 0
    assert "Traceback" not in err


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--port", str(taken.getsockname()[1]))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: port ")
    assert "already in use; choose another port, or 0" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--token", "short"], "a token of 5 characters"),
        (["--port", "70000"], "port=70000: choose"),
        (["--host", "no such host"], "is no name or address of this machine"),
        (["--contrast", "b"], "--contrast belongs to a prompt"),
        (["--memory", "much"], "no amount of memory"),
        (["--lens", "no-such-file"], "no-such-file"),
    ],
)
def test_wrong_input_is_exit_2(args: list[str], message: str) -> None:
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_the_browser_is_opened_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(Serving, "run", lambda self, begun: (begun(), self.close()))
    done = run("--host", "0.0.0.0")
    assert done.exit_code == 0
    assert done.stdout.split() == opened
    assert opened[0].startswith("http://127.0.0.1:")
    assert "--host 0.0.0.0: anybody who reaches this machine" in done.stderr
    done = run("--no-browser")
    assert len(opened) == 1
    assert done.stdout.startswith("http://127.0.0.1:")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    done = run()
    assert (done.exit_code, done.stdout) == (2, "")
    assert 'pip install "gpt2-circuits[explore]"' in done.stderr


def test_nothing_else_imports_the_server() -> None:
    server = {"starlette", "uvicorn", "anywidget", "anyio", "h11"}
    assert not loaded_by(help_of("explore")) & server
    assert not loaded_by("import circuits; circuits.explore") & (server | {"torch"})
