"""The explorer in a browser, for the tests: a server with `mini`, and what to wait for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_pages_browser import BROWSER, browser  # noqa: F401

from circuits.architectures import HookedGPT2
from circuits.explorer.desk import Desk
from circuits.explorer.page import explorer_page
from circuits.explorer.serving import Place, Serving, serving
from circuits.explorer.view import View
from circuits.explorer.wire import to_json

IN_A_BROWSER = [
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome"),
    pytest.mark.slow,
]
TOKEN = "a-token-for-the-tests"
LETTER = "When Mary and John went to the garden, John gave a letter to"
OTHER = "When Mary and John went to the garden, Mary gave a letter to"
Open = Callable[..., Any]


def start(desk: Desk, port: int = 0) -> Serving:
    server = serving(desk, explorer_page(), Place(port=port, token=TOKEN))
    server.start()
    return server


@pytest.fixture(scope="module")
def desk(mini: HookedGPT2) -> Desk:
    return Desk(mini)


@pytest.fixture(scope="module")
def server(desk: Desk) -> Iterator[Serving]:
    server = start(desk)
    yield server
    server.close()


@pytest.fixture
def explore(browser: Any, server: Serving) -> Iterator[Open]:  # noqa: F811
    """Open the explorer at a state. In the end: did the page complain?"""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_(state: dict[str, Any] | None = None, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        tab.on("console", lambda message: complaints.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        tab.goto(server.url + ("" if state is None else f"#{json.dumps(state)}"))
        is_filled(tab)
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def at(prompt: str, contrast: str | None = None, **more: Any) -> dict[str, Any]:
    """A state that looks at this."""
    view = {"prompt": prompt, "contrast": contrast, **more.pop("view", {})}
    return {"view": view, **more}


def holds(tab: Any, question: str, given: Any = None) -> None:
    """Wait until this is so. (Playwright's own way needs eval, which the page's policy forbids.)"""
    ends = time.monotonic() + 20
    while not tab.evaluate(question, given):
        assert time.monotonic() < ends, f"still not so: {question} {given}"
        tab.wait_for_timeout(20)


def is_filled(tab: Any) -> None:
    """Wait until the map is there."""
    holds(tab, "document.querySelector('.cell') && !document.querySelector('.cell.waiting')")


def until(tab: Any, selector: str, text: str) -> None:
    """Wait until the element's text has this."""
    question = "([s, t]) => document.querySelector(s)?.innerText.includes(t)"
    holds(tab, question, [selector, text])


def pieces(desk: Desk, question: str, view: View, **options: Any) -> list[dict[str, Any]]:
    return [to_json(piece) for piece in desk.ask(question, view, options)]


def tokens(tab: Any) -> list[str]:
    shown: list[str] = tab.locator("#x-prompt .x-ask > .x-tokens button").all_inner_texts()
    return shown
