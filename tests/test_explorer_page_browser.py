"""The explorer in a real browser, end to end: its six points on `mini`."""

# ruff: noqa: F811 (fixtures are imported, and named as parameters)
from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

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
    tokens,
    until,
)
from quick import only
from test_pages_browser import DARK, PHONE, fits, is_painted

from circuits.explorer.desk import Desk
from circuits.explorer.view import View

pytestmark = IN_A_BROWSER


@pytest.mark.parametrize("window", only([{}], [{}, DARK, PHONE, PHONE | DARK]), ids=str)
def test_the_first_visit_shows_three_questions_to_click_through(
    explore: Open, window: dict[str, Any]
) -> None:
    tab = explore(**window)
    cards = tab.locator(".x-cards button")
    assert cards.count() == 3
    for i in range(3):
        cards.nth(i).click()
        holds(tab, "n => document.querySelectorAll('.x-cards button').length === n", 3)
        is_filled(tab)
        assert fits(tab)
    assert is_painted(tab)
    assert tab.locator(".problem").count() == 0


def test_tokens_predictions_and_what_is_followed(explore: Open, desk: Desk) -> None:
    tab = explore(at(LETTER))
    said = {piece["kind"]: piece for piece in pieces(desk, "read", View(LETTER))}
    assert tokens(tab)[1:4] == ["When", "·Mary", "·and"]
    assert len(tokens(tab)) == len(said["tokens"]["ids"])
    assert tab.locator("#x-predictions .token").first.inner_text() == "·Mary"
    difference = said["followed"]["difference"]
    assert tab.locator("#x-difference").inner_text() == f"+{difference:.3f}"
    tab.locator("#x-distractor").fill(" John")
    until(tab, "#x-predictions", "·John:")
    followed = pieces(desk, "read", View(LETTER, distractor=" John"))
    [piece] = [piece for piece in followed if piece["kind"] == "followed"]
    until(tab, "#x-difference", f"{piece['difference']:.3f}")
    tab.get_by_role("button", name="·garden, position").click()
    until(tab, ".x-where", "Looking after ·garden")
    tab.get_by_role("button", name="·garden, position").hover()
    assert "the model gave it" in tab.locator("#tip").inner_text()


def test_a_contrast_is_aligned_and_its_difference_marked(explore: Open) -> None:
    tab = explore(at(LETTER))
    tab.get_by_role("button", name="contrast with another prompt").click()
    assert tab.locator("#x-contrast").input_value() == LETTER
    until(tab, ".x-contrast", "are the same")
    tab.locator("#x-contrast").fill(OTHER)
    until(tab, ".x-contrast", "1 token differs")
    assert tab.locator(".x-contrast .differs").all_inner_texts() == ["·Mary"]
    assert tab.locator("#x-prompt .x-ask > .x-tokens .differs").all_inner_texts() == ["·John"]
    tab.locator("#x-what").select_option("patch")
    is_filled(tab)
    tab.get_by_role("button", name="without the contrast").click()
    tab.wait_for_selector("#x-map .problem")


@pytest.mark.parametrize("what", ["ablate", "direct", "patch", "looks"])
def test_the_map_shows_the_numbers_of_the_desk(explore: Open, desk: Desk, what: str) -> None:
    tab = explore(at(LETTER, OTHER, what=what))
    layers = [
        piece
        for piece in pieces(desk, "map", View(LETTER, OTHER), what=what)
        if piece["kind"] == "layer"
    ]
    assert len(layers) == 8
    for piece in layers[::3]:
        label = tab.locator(f"[data-part='a{piece['layer']}.h3']").get_attribute("aria-label")
        number = float(f"{piece['heads'][3]:.7g}")
        shown = label.split(": ", 1)[1].replace("−", "-").replace("+", "")
        inner = shown.split("(")[-1].split(")")[0] if what == "looks" else shown.split(" ")[0]
        assert float(inner) == pytest.approx(number, rel=1e-6, abs=1e-12)


def test_keys_walk_the_map_and_open_a_head(explore: Open) -> None:
    tab = explore(at(LETTER, OTHER))
    first = tab.locator(".cell").first
    first.focus()
    assert first.get_attribute("aria-label").startswith("a7.h0: ")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#tip").inner_text().startswith("a6.h1: ")
    tab.keyboard.press("Enter")
    until(tab, "#x-part h2", "a6.h1")
    until(tab, "#x-part", "What it writes here")
    until(tab, "#x-part", "Why it looks there")
    until(tab, "#x-part", "Which earlier heads it listens to")
    until(tab, "#x-part", "Its card")
    assert "looks at" in tab.locator(".attn-lists").inner_text()
    tab.locator("[data-part=m5]").click()
    until(tab, "#x-part", "neurons that matter here")
    assert tab.locator(".x-neurons tbody tr").count() >= 5


def test_words_are_explained_by_keys(explore: Open) -> None:
    tab = explore(at(LETTER))
    term = tab.locator(".term").first
    term.focus()
    tab.keyboard.press("Enter")
    assert len(tab.locator("#x-explain").inner_text()) > 20
    tab.keyboard.press("Escape")
    assert tab.locator("#x-explain").is_hidden()
    for name in ("Stream", "Hands on", "Circuits"):
        tab.get_by_role("tab", name=name).click()
    assert tab.evaluate("used.size") >= 12
    assert tab.evaluate("[...used].filter((name) => !(name in WORDS))") == []


def test_a_cell_of_the_stream_is_read_and_patched(explore: Open) -> None:
    tab = explore(at(LETTER, OTHER))
    tab.get_by_role("tab", name="Stream").click()
    tab.wait_for_selector(".lens-grid td")
    assert tab.locator(".lens-grid tbody tr").count() == 17
    tab.locator(".lens-grid tbody tr").nth(9).locator("td").nth(10).click()
    until(tab, "#x-stream", "if this cell comes from the contrast")
    tab.get_by_role("button", name="keep this patch on").click()
    until(tab, ".x-edits", "patch from the contrast")
    until(tab, "#x-tray", "with")
    assert "@10" in tab.locator(".x-edits li").inner_text()


def test_the_tray_changes_predictions_and_gives_them_back(explore: Open) -> None:
    tab = explore(at(LETTER, view={"answer": " Mary", "distractor": " John"}))
    plain = tab.locator("#x-difference").inner_text()
    tab.locator("[data-part='a5.h3']").click()
    tab.get_by_role("button", name="ablate: zero").click()
    until(tab, "#x-predictions", "without the edits")
    edited = tab.locator("#x-difference").inner_text()
    assert edited != plain
    until(tab, "#x-tray", "with")
    holds(tab, "() => document.querySelectorAll('.x-story').length == 2")
    assert tab.locator("#x-tray .token-bars").count() == 2
    tab.get_by_role("checkbox", name="a5.h3: ablate: zero").uncheck()
    until(tab, "#x-difference", plain)
    tab.get_by_role("button", name="undo").click()
    until(tab, "#x-difference", edited)
    tab.get_by_role("button", name="clear").click()
    until(tab, "#x-difference", plain)
    tab.locator("#x-edit-part").fill("nonsense")
    tab.get_by_role("button", name="add", exact=True).click()
    tab.wait_for_selector(".problem")


def test_a_link_restores_the_state(explore: Open) -> None:
    tab = explore(at(LETTER, OTHER, what="direct"))
    tab.locator("[data-part='a4.h2']").click()
    until(tab, "#x-part h2", "a4.h2")
    holds(tab, "location.hash.includes('a4.h2')")
    state = json.loads(unquote(tab.url.split("#", 1)[1]))
    again = explore(state)
    until(again, "#x-part h2", "a4.h2")
    assert again.locator("#x-what").input_value() == "direct"
    assert again.locator("#x-contrast").input_value() == OTHER


def test_commands_of_what_is_shown_are_taken_along(explore: Open, desk: Desk) -> None:
    tab = explore(at(LETTER))
    tab.get_by_role("tab", name="Take along").click()
    [take] = [piece for piece in pieces(desk, "map", View(LETTER)) if piece["kind"] == "take"]
    until(tab, "#x-take pre", "circuits ablate")  # the map's come after its last layer
    assert tab.locator("#x-take pre").all_inner_texts() == [take["command"], take["python"]]
    tab.locator("#x-take-of").select_option("read")
    [take] = [piece for piece in pieces(desk, "read", View(LETTER)) if piece["kind"] == "take"]
    assert tab.locator("#x-take pre").first.inner_text() == take["command"]
