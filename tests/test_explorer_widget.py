"""The explorer in a notebook, and wherever else `circuits.explore` is called."""

from __future__ import annotations

import queue
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("anywidget", reason="needs the extra explore")
pytest.importorskip("starlette", reason="needs the extra explore")

from explorer_servers import PATIENCE, SlowDesk, question
from random_models import randomized

import circuits
from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError
from circuits.explorer import opening
from circuits.explorer.desk import Desk
from circuits.explorer.page import explorer_page
from circuits.explorer.view import View
from circuits.explorer.widget import ExplorerWidget

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Frame:
    """A widget whose page is this test: what it says, and what it hears."""

    def __init__(self, desk: Any, html: str = "") -> None:
        self.widget = ExplorerWidget(desk, html, 500)
        self.heard: queue.Queue[Any] = queue.Queue()
        self.widget.send = lambda content: self.heard.put(content)

    def say(self, content: Any) -> None:
        self.widget._handle_custom_msg(content, [])

    def ask(self, id_: str = "1", **more: Any) -> None:
        self.say({"circuits": "ask", "id": id_, **(question() | more)})

    def hear(self) -> Any:
        """What comes next, other than that the kernel has heard."""
        while (said := self.heard.get(timeout=PATIENCE))["circuits"] == "heard":
            pass
        return said


@pytest.fixture
def slow() -> SlowDesk:
    return SlowDesk()


@pytest.fixture
def frame(slow: SlowDesk) -> Iterator[Frame]:
    opened = Frame(slow)
    yield opened
    slow.let.release(5000)
    opened.widget.close()


def test_pieces_come_as_messages(frame: Frame) -> None:
    frame.ask("a:1")
    first, second, end = frame.hear(), frame.hear(), frame.hear()
    note = {"kind": "note", "about": "said", "text": "Once"}
    assert first == {"circuits": "piece", "id": "a:1", "piece": note}
    assert second["piece"]["text"] == "read"
    assert (end["circuits"], end["id"], end["done"]) == ("done", "a:1", True)
    assert end["seconds"] >= 0


def test_what_cannot_be_asked_is_a_sentence(frame: Frame) -> None:
    frame.ask(view={"prompt": 1})
    assert "give a text" in frame.hear()["error"]
    frame.ask(model="gpt2")
    said = frame.hear()
    assert (said["circuits"], said["id"]) == ("error", "1")
    assert "an object of client" in said["error"]


@pytest.mark.parametrize(
    "content",
    [None, 1, "ask", [], {}, {"circuits": "ask"}, {"circuits": "x", "id": "1"}, {"id": 1}],
)
def test_other_messages_are_not_heard(frame: Frame, content: Any) -> None:
    frame.say(content)
    frame.say({"circuits": "drop", "id": "never asked"})
    frame.ask("2")
    assert frame.hear()["id"] == "2"


def test_an_answer_is_given_up(frame: Frame, slow: SlowDesk) -> None:
    frame.ask("1", question="wait")
    slow.let.release()
    assert frame.hear()["piece"]["text"] == "0"
    frame.say({"circuits": "drop", "id": "1"})
    slow.let.release()
    assert frame.hear() == {"circuits": "dropped", "id": "1", "dropped": "gone"}
    assert slow.closed.wait(PATIENCE)
    assert frame.widget._asking == {}


def test_a_closed_widget_answers_nothing(slow: SlowDesk) -> None:
    frame = Frame(slow)
    frame.ask("1", question="wait")
    assert slow.begun.acquire(timeout=PATIENCE)
    slow.let.release()
    frame.widget.close()
    assert [said["circuits"] for said in frame.heard.queue][-1] == "dropped"
    frame.ask("2")
    assert "was closed" in list(frame.heard.queue)[-1]["error"]


def predictions(frame: Frame, id_: str) -> Any:
    frame.ask(id_, view=View("3 1 4 1 5").json())
    said = frame.hear()
    pieces = []
    while said["circuits"] == "piece":
        pieces.append(said["piece"])
        said = frame.hear()
    assert said["circuits"] == "done", said
    return next(piece for piece in pieces if piece["kind"] == "predictions")


def test_a_model_that_was_edited_answers_as_edited() -> None:
    model = randomized()
    frame = Frame(Desk(model))
    before = predictions(frame, "1")
    assert predictions(frame, "2") == before
    with torch.no_grad():
        model.blocks[1].mlp.W_out.mul_(3)
    after = predictions(frame, "3")
    fresh = predictions(Frame(Desk(model)), "4")
    assert after != before
    assert after == fresh
    frame.widget.close()


def test_outside_of_notebooks_a_server_has_it(compiled: HookedGPT2) -> None:
    with circuits.explore(compiled, "aAbBcdeBfg.", contrast="aAbBcdeCfg.") as page:
        assert page.url is not None
        html = urllib.request.urlopen(page.url, timeout=PATIENCE).read().decode()
        assert page.url.split("token=")[1] not in repr(page)
        shown = page._repr_mimebundle_()
    assert (
        html == explorer_page("http", start=opening.start(View("aAbBcdeBfg.", "aAbBcdeCfg."))).html
    )
    assert f'<iframe src="{page.url}"' in shown["text/html"]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(page.url, timeout=PATIENCE)


def test_in_a_notebook_a_widget_has_it(
    compiled: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert opening.in_notebook()
    page = circuits.explore(compiled, "aAbBcdeBfg.", height=400)
    assert page.url is None
    assert page._widget.height == 400
    assert (
        page._widget.html
        == explorer_page("notebook", start=opening.start(View("aAbBcdeBfg."))).html
    )
    page.close()
    with circuits.explore(compiled, transport="server") as page:
        headers = urllib.request.urlopen(str(page.url), timeout=PATIENCE).headers
        assert "frame-ancestors http://localhost:*" in headers["content-security-policy"]


def test_without_the_extra_it_says_what_to_install(
    compiled: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    install = r'which are not installed: pip install "gpt2-circuits\[explore\]"'
    with pytest.raises(CircuitsError, match=f"the packages starlette and uvicorn, {install}"):
        circuits.explore(compiled)
    with pytest.raises(CircuitsError, match="anywidget"):
        circuits.explore(compiled, transport="widget")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transport": "pigeon"}, "choose auto, widget or server"),
        ({"height": 0}, "at least 100 pixels"),
        ({"contrast": "b"}, "belongs to a prompt"),
        ({"memory": "much"}, "no amount of memory"),
    ],
)
def test_what_cannot_be_opened(compiled: HookedGPT2, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        circuits.explore(compiled, **options)


NOTEBOOK = """<!DOCTYPE html><body><div id="place"></div><script type="module">
const esm = await import("data:text/javascript;base64," + await window.esm());
const hears = [];
window.tell = (content) => hears.forEach((hear) => hear(content));
const model = {
  get: (name) => window.facts[name], send: (content) => window.say(content),
  on: (_, hear) => hears.push(hear), off: (_, hear) => hears.splice(hears.indexOf(hear), 1),
};
window.facts = await window.state();
window.leave = esm.default.render({ model, el: document.getElementById("place") });
window.hears = hears;
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_the_frame_asks_the_kernel_and_nobody_else(compiled: HookedGPT2) -> None:
    import base64

    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    html = explorer_page("notebook", start=opening.start(View("aAbBcdeBfg."))).html
    frame = Frame(Desk(compiled), html)
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = chromium.new_page()
        tab.on("request", lambda asked: requests.append(asked.url))
        esm = base64.b64encode(frame.widget._esm.encode()).decode()
        tab.expose_function("esm", lambda: esm)
        tab.expose_function("state", lambda: {"html": html, "height": 500})
        tab.expose_function("say", frame.say)
        tab.set_content(NOTEBOOK)
        inner = tab.frame_locator("iframe")
        for _ in range(200):  # what the kernel says goes to the page, as a notebook passes it on
            while not frame.heard.empty():
                tab.evaluate("content => window.tell(content)", frame.heard.get())
            if "logit difference" in inner.locator("body").inner_text():
                break
            tab.wait_for_timeout(50)
        assert "logit difference" in inner.locator("body").inner_text()
        # A kernel that hears nothing is told of; nothing is waited for without end.
        tab.evaluate("window.say = () => null")
        inner.locator("#x-prompt input, #x-prompt textarea").first.fill("aAbB.")
        inner.get_by_text("kernel does not answer").first.wait_for(timeout=20_000)
        assert inner.locator("body").evaluate("() => origin") == "null"  # cannot reach the notebook
        assert tab.locator("iframe").get_attribute("sandbox").startswith("allow-scripts")
        assert "allow-same-origin" not in tab.locator("iframe").get_attribute("sandbox")
        tab.evaluate("window.postMessage({ circuits: 'ask', id: 'forged' }, '*'); window.leave()")
        assert tab.evaluate("window.hears.length") == 0
        chromium.close()
    frame.widget.close()
    assert all(url.startswith(("data:", "about:")) for url in requests)
    assert not any(said.get("id") == "forged" for said in frame.heard.queue)
