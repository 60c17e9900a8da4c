"""The explorer's page when things go wrong, are strange, long, or slow."""

# ruff: noqa: F811 (fixtures are imported, and named as parameters)
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from explorer_pages import (  # noqa: F401
    IN_A_BROWSER,
    LETTER,
    OTHER,
    Open,
    at,
    browser,
    desk,
    explore,
    holds,
    is_filled,
    pieces,
    server,
    start,
    tokens,
    until,
)
from test_pages_browser import fits

from circuits.explorer.desk import Desk
from circuits.explorer.page import explorer_page
from circuits.explorer.view import View
from circuits.explorer.wire import to_json
from circuits.pages import save_page

pytestmark = IN_A_BROWSER
ATTACKS = (
    "</script><script>document.title='no'</script>",
    "<img src=x onerror=document.title='no'>",
)


def test_only_the_newest_answer_is_shown(explore: Open) -> None:
    """An older answer that comes late changes nothing."""
    tab = explore(at("Once"))
    late: list[Any] = []

    def hold(route: Any) -> None:
        asked = json.loads(route.request.post_data)
        if asked["view"]["prompt"] == "Once upon" and asked["slot"] == "read":
            late.append(route)
        else:
            route.continue_()

    tab.route("**/ask", hold)
    tab.locator("#x-text").fill("Once upon")
    tab.wait_for_timeout(300)
    tab.locator("#x-text").fill("Once upon a time")
    until(tab, "#x-prompt .x-tokens", "·time")
    assert late
    for route in late:
        route.abort() if route.request.failure else route.continue_()
    tab.wait_for_timeout(300)
    assert tokens(tab)[-1] == "·time"
    tab.unroute("**/ask")


@pytest.mark.parametrize("text", [*ATTACKS, "👩‍👩‍👧 שלום עולם مرحبا", "a\u202eb\u0000c"])
def test_any_text_stays_text(explore: Open, text: str) -> None:
    tab = explore(at("Once upon a time"))
    tab.locator("#x-text").fill(text)
    tab.wait_for_timeout(100)
    holds(tab, "promptPanel.read().tokens.length > 3")
    is_filled(tab)
    tab.locator("#x-answer").fill(text)
    tab.wait_for_timeout(500)
    assert tab.title() != "no"
    assert tab.locator("img, script:not([type])").count() == 1
    assert fits(tab)


def test_two_hundred_tokens_stay_usable(explore: Open) -> None:
    tab = explore(at("One day, a girl named Lily went to the park. " * 17))
    assert len(tokens(tab)) > 180
    row, last = tab.locator(".x-ask > .x-tokens"), tab.locator(".x-ask > .x-tokens .here")
    assert last.bounding_box()["y"] < row.bounding_box()["y"] + row.bounding_box()["height"]
    tab.locator("[data-part='a5.h3']").click()
    until(tab, ".attn-lists", "looks at")
    assert fits(tab)


def test_a_server_that_dies_and_returns(browser: Any, desk: Desk) -> None:
    server = start(desk)
    tab = browser.new_page()
    try:
        tab.goto(server.url + f"#{json.dumps(at('Once upon a time'))}")
        is_filled(tab)
        port = server.port
        server.close()
        tab.locator("#x-text").fill("Once upon a day")
        until(tab, "#x-line", "does not answer")
        assert tokens(tab)[-1] == "·time"  # what is shown stays
        server = start(desk, port)
        until(tab, "#x-prompt .x-tokens", "·day")
        is_filled(tab)
        assert tab.locator("#x-line").inner_text() == ""
    finally:
        tab.close()
        server.close()


def test_two_tabs_do_not_disturb_each_other(explore: Open) -> None:
    first, second = explore(at("Once upon a time")), explore(at(LETTER))
    first.locator("#x-text").fill("Once upon a day")
    second.locator("#x-text").fill(OTHER)
    until(first, "#x-prompt .x-tokens", "·day")
    until(second, "#x-prompt .x-tokens", "·to")
    is_filled(first)
    is_filled(second)
    assert tokens(first)[-1] == "·day"
    assert tokens(second)[-1] == "·to"


def test_everything_is_reached_by_keys(explore: Open) -> None:
    """From the prompt by Tab alone: each control has a name, and all that matter come."""
    tab = explore(at(LETTER, OTHER))
    tab.locator("#x-text").focus()
    come: list[str] = []
    for _ in range(60):
        tab.keyboard.press("Tab")
        name = tab.evaluate(
            "document.activeElement.id || document.activeElement.dataset.part || "
            "document.activeElement.textContent"
        )
        come.append(name)
    for control in ("x-answer", "x-distractor", "x-contrast", "x-what", "x-method", "a7.h0"):
        assert control in come
    assert "x-tab-part" in come
    tab.get_by_role("tab", name="Part").focus()
    tab.keyboard.press("ArrowRight")
    until(tab, "#x-side", "The stream")
    tab.locator("[data-part='a7.h0']").focus()
    tab.keyboard.press("Enter")
    until(tab, "#x-part h2", "a7.h0")
    nameless = tab.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea')].filter((node) => "
        "!node.labels?.length && !node.ariaLabel && !node.textContent.trim()).length"
    )
    assert nameless == 0


def test_what_takes_long_says_so(explore: Open) -> None:
    tab = explore(at("Once upon a time"))
    held: list[Any] = []
    waits = [True]
    tab.route("**/ask", lambda route: held.append(route) if waits else route.continue_())
    tab.locator("#x-text").fill("Once upon a day")
    until(tab, "#x-line", "working: read")
    waits.clear()
    for route in held:
        route.continue_()
    until(tab, "#x-prompt .x-tokens", "·day")
    holds(tab, "document.getElementById('x-line').textContent === ''")
    assert tokens(tab)[-1] == "·day"


def test_a_saved_page_opens_without_the_server(browser: Any, desk: Desk, tmp_path: Path) -> None:
    view = View(LETTER, OTHER)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("about", {}),
        ("read", {}),
        ("attention", {}),
        ("map", {"what": "ablate", "method": "zero"}),
    ]
    recorded = [
        {
            "question": name,
            "options": options,
            "pieces": [to_json(piece) for piece in desk.ask(name, view, options)],
        }
        for name, options in asked
    ]
    page = explorer_page("recorded", start={"view": view.json()}, recorded=recorded)
    requests: list[str] = []
    tab = browser.new_page()
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(save_page(page.html, tmp_path / "page.html").as_uri())
    is_filled(tab)
    assert tokens(tab)[-1] == "·to"
    tab.locator("[data-part='a5.h3']").click()
    until(tab, ".attn-lists", "looks at")
    until(tab, "#x-part .problem", "This is a saved page")
    tab.locator("#x-text").fill("Once")
    until(tab, "#x-prompt .problem", "This is a saved page")
    assert all(url.startswith(("file:", "data:")) for url in requests)
    tab.close()
