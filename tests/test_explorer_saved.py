"""A saved page: everything in one file, computed anew, and nothing that could act."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError
from circuits.explorer.desk import Desk
from circuits.explorer.questions.page import MOST_ANSWERS, page
from circuits.explorer.view import View
from circuits.explorer.wire import to_json

TEXT = "aAbBcdeBfg."
READ = {"question": "read", "options": {}}
ATTENTION = {"question": "attention", "options": {}}


@pytest.fixture(scope="module")
def desk(compiled: HookedGPT2) -> Desk:
    return Desk(compiled)


def saved(desk: Desk, view: View, **options: Any) -> str:
    pieces = list(desk.ask("page", view, options))
    assert {piece.kind for piece in pieces[:-1]} <= {"recording"}
    return str(to_json(pieces[-1])["html"])


def data(html: str) -> Any:
    return json.loads(
        re.findall(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', html)[0]
    )


def test_the_page_holds_what_the_desk_answers(desk: Desk) -> None:
    view = View(TEXT, at=4)
    held = data(saved(desk, view, answers=[READ, ATTENTION]))
    assert [answer["question"] for answer in held["recorded"]] == ["read", "attention"]
    for answer in held["recorded"]:
        assert answer["pieces"] == [to_json(p) for p in desk.ask(answer["question"], view, {})]
    assert held["transport"] == "recorded"
    assert held["start"] == {"view": view.json()}


def test_the_page_asks_nobody(desk: Desk) -> None:
    html = saved(desk, View(TEXT), answers=[READ])
    assert "connect-src 'none'" in unescape(html)
    assert "http://" not in html
    assert not re.search(r"<(link|img|script)[^>]*(src|href)=[\"'](?!data:)", html)


def test_no_text_can_end_its_element(compiled: HookedGPT2) -> None:
    class Hostile(Desk):
        def ask(self, *asked: Any) -> Any:
            from circuits.explorer.pieces import Note

            if asked[0] == "page":
                return super().ask(*asked)
            return iter([Note("x", "</script><script>alert(1)</script><!-- \u2028 \u202e")])

    plain = saved(Desk(compiled), View(TEXT), answers=[READ])
    hostile = saved(Hostile(compiled), View(TEXT), answers=[READ])
    assert hostile.count("<script") == plain.count("<script")
    assert "alert(1)\\u003c/script" in hostile
    assert data(hostile)["recorded"][0]["pieces"][0]["text"].startswith("</script><script>")


def test_what_has_no_answer_is_left_out(desk: Desk) -> None:
    odd = {"question": "attention", "options": {"no": 1}}
    held = data(saved(desk, View(TEXT), answers=[odd, READ]))
    assert [answer["question"] for answer in held["recorded"]] == ["read"]
    with pytest.raises(CircuitsError, match="no option 'no'"):
        saved(desk, View(TEXT), answers=[odd])


def test_it_starts_where_it_was_saved(desk: Desk) -> None:
    view = View(TEXT, at=2)
    start = {"view": view.json(), "what": "direct", "tab": "take"}
    html = saved(desk, view, answers=[READ, READ], start=json.dumps(start))
    assert data(html)["start"] == start
    assert len(data(html)["recorded"]) == 1  # asked twice, recorded once


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "answers is None"),
        ({"answers": []}, "give a list of 1 to"),
        ({"answers": [READ] * (MOST_ANSWERS + 1)}, "give a list of 1 to"),
        ({"answers": ["read"]}, "answers has 'read'; give objects"),
        ({"answers": [{"question": "read"}]}, "give objects of a question"),
        ({"answers": [{"question": "page", "options": {}}]}, "other than page and figure"),
        ({"answers": [{"question": "red", "options": {}}]}, "did you mean 'read'"),
        ({"answers": [{**READ, "model": "gpt2"}]}, "give objects of a question"),
        ({"answers": [READ], "file": "/etc/passwd"}, "no option 'file'"),
        ({"answers": [READ], "start": 1}, "start is 1"),
        ({"answers": [READ], "start": "{"}, "give JSON of the page"),
        ({"answers": [READ], "start": "[" * 100_000}, "give JSON of the page"),
        ({"answers": [READ], "start": json.dumps({"view": View("abc").json()})}, "this view"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_saved(desk: Desk, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        list(desk.ask("page", View(TEXT), options))


def test_it_can_be_given_up_between_pieces(desk: Desk) -> None:
    from circuits.explorer.pieces import Options

    pieces = page(desk, View(TEXT), Options({"answers": [READ, ATTENTION]}))
    assert next(pieces).kind == "recording"
    pieces.close()  # type: ignore[attr-defined]
    assert next(pieces, None) is None


def test_it_is_written_as_it_is(desk: Desk, tmp_path: Path) -> None:
    html = saved(desk, View(TEXT), answers=[READ])
    (tmp_path / "a.html").write_text(html, encoding="utf-8")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == html
    assert saved(desk, View(TEXT), answers=[READ]) == html  # the same answers, the same bytes


@pytest.mark.slow
def test_it_opens_from_disk_without_a_server(desk: Desk, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("needs chromium or google-chrome")
    about = {"question": "about", "options": {}}
    file = tmp_path / "saved.html"
    file.write_text(saved(desk, View(TEXT, at=4), answers=[about, READ]), encoding="utf-8")
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page()
        tab.on("request", lambda asked: requests.append(asked.url))
        tab.goto(file.as_uri())
        tab.get_by_text("logit difference of").first.wait_for()
        shown = tab.locator("body").inner_text()
        chromium.close()
    assert "compiled" in shown
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
