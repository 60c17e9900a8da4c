"""Pages in a real browser: headless Chromium, driven by Playwright. Skipped where there is none."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from page_samples import attention, effects, heads, lens, saying
from quick import only

from circuits.analyses.walkthrough import walkthrough
from circuits.architectures import HookedGPT2
from circuits.checkpoints import load
from circuits.pages import inline, page, save_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
Open = Callable[..., Any]  # a page's text, and options of the browser's window

SAMPLES = {
    "effects": partial(effects, 8, 8),
    "attention": attention,
    "heads": heads,
    "lens": lens,
}
ATTACK = "</script><img src=x onerror=document.title='no'>"
PHONE = {"viewport": {"width": 390, "height": 844}}
DARK = {"color_scheme": "dark"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page from disk. In the end: did it complain, or ask for anything else?"""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_(html: str, **options: Any) -> Any:
        path = save_page(html, tmp_path / "page.html")
        context = browser.new_context(**options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: complaints.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        tab.on(
            "request",
            lambda asked: (
                asked.url.startswith(("data:", path.as_uri()))
                or complaints.append(f"request: {asked.url}")
            ),
        )
        tab.goto(path.as_uri())
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def is_painted(tab: Any) -> bool:
    """Has a picture of the window more than a few colors?"""
    pixels = imread(io.BytesIO(tab.screenshot()), format="png")
    return len({tuple(pixel) for pixel in pixels[::5, ::5].reshape(-1, pixels.shape[-1])}) > 20


def fits(tab: Any) -> bool:
    """Is the page no wider than the window?"""
    return bool(tab.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("window", only([{}], [{}, DARK, PHONE, PHONE | DARK]), ids=str)
@pytest.mark.parametrize("sample", only(("effects", "lens"), SAMPLES))
@pytest.mark.slow
def test_pages_open_without_complaint(visit: Open, sample: str, window: dict[str, Any]) -> None:
    tab = visit(page(SAMPLES[sample]()), **window)
    assert is_painted(tab)
    assert fits(tab)
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 27)" if "color_scheme" in window else "rgb(255, 255, 255)")


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES)
def test_prompts_stay_text(visit: Open, sample: str) -> None:
    tab = visit(page(saying(SAMPLES[sample](), ATTACK)))
    assert tab.title() == ATTACK
    assert tab.locator("img, script:not([type])").count() == 1
    assert ATTACK in tab.locator("pre").inner_text()


@pytest.mark.slow
def test_a_script_from_elsewhere_does_not_run(browser: Any, tmp_path: Path) -> None:
    """Were a text ever not escaped: the page's policy has the hash of its own script alone."""
    html = page(effects(8, 8)).replace("</main>", "<script>document.title = 'x'</script></main>")
    tab = browser.new_page()
    tab.goto(save_page(html, tmp_path / "page.html").as_uri())
    assert tab.title() == effects().title
    assert tab.locator("#table tbody tr").count() == 50
    tab.close()


@pytest.mark.slow
def test_the_table_sorts_finds_and_turns(visit: Open) -> None:
    tab = visit(page(effects(8, 8)))
    first = tab.locator("#table tbody tr").first
    assert tab.locator("#table tbody tr").count() == 50
    tab.get_by_role("button", name="value").click()
    assert "a7.h" in first.inner_text()
    assert tab.get_by_role("columnheader", name="value").get_attribute("aria-sort") == "descending"
    tab.get_by_role("button", name="value").press("Enter")
    assert "a0.h" in first.inner_text()
    tab.get_by_role("button", name="next rows").click()
    assert tab.locator("#table tbody tr").count() == 14
    tab.get_by_role("searchbox").fill("a3.h5")
    assert tab.locator("#table tbody tr").count() == 1
    assert "1 rows" in tab.get_by_role("status").inner_text()
    assert tab.get_by_role("button", name="stderr").get_attribute("title").startswith("standard")


@pytest.mark.slow
def test_a_large_figure_is_shown_at_full_size(visit: Open) -> None:
    tab = visit(page(effects(4, 30)), viewport={"width": 700, "height": 600})
    drawn = tab.locator(".figure svg")
    small = drawn.bounding_box()["width"]
    tab.get_by_role("button", name="figure at full size").click()
    assert drawn.bounding_box()["width"] > small * 4 / 3
    assert fits(tab)


@pytest.mark.slow
def test_heads_are_chosen_and_tokens_show_both_directions(visit: Open) -> None:
    tab = visit(page(attention()))
    assert tab.locator("#attn-one h2").inner_text() == "Head a0.h0"
    tab.get_by_role("button", name="head a1.h1").click()
    assert tab.locator("#attn-one h2").inner_text() == "Head a1.h1"
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#attn-one h2").inner_text() == "Head a1.h0"
    tab.keyboard.press("ArrowUp")
    assert tab.locator("#attn-one h2").inner_text() == "Head a0.h0"
    tab.get_by_role("button", name="token 2").hover()
    assert "·sat (2) looks at" in tab.locator(".attn-lists").inner_text()
    assert "who looks at ·sat (2)" in tab.locator(".attn-lists").inner_text()
    tab.locator("#attn-one canvas").hover(position={"x": 2, "y": 80})
    assert tab.locator("#tip").inner_text().startswith("·down (3) looks at The (0): ")
    before = tab.locator("#attn-heads canvas").first.screenshot()
    tab.get_by_label("without the first token").check()
    assert tab.locator("#attn-heads canvas").first.screenshot() != before


@pytest.mark.slow
def test_a_long_prompt_stays_usable(visit: Open) -> None:
    tab = visit(page(attention(tuple(f" {i}" for i in range(500)), 1, 2)))
    tab.get_by_role("button", name="head a0.h1").click()
    tab.get_by_role("button", name="token 499: ·499").hover()
    assert "·499 (499) looks at" in tab.locator(".attn-lists").inner_text()
    assert fits(tab)


@pytest.mark.slow
def test_the_grid_of_the_lens_is_walked_by_keys(visit: Open) -> None:
    tab = visit(page(lens()))
    card = tab.locator("#lens-card")
    assert "after ·down (3), stage m1" in card.inner_text()
    tab.locator("#lens-grid td.chosen").click()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowLeft")
    assert "after ·sat (2), stage a1" in card.inner_text()
    tab.locator("#lens-grid td").first.hover()
    assert "after The (0), stage m1" in card.inner_text()
    before = tab.locator("#lens-grid").screenshot()
    tab.get_by_label("color by").select_option("kl")
    assert tab.locator("#lens-grid").screenshot() != before


@pytest.mark.slow
def test_a_heads_card_tells_its_scores(visit: Open) -> None:
    tab = visit(page(heads()))
    card, grid = tab.locator("#heads-card"), tab.locator("#heads-grid")
    assert card.locator("h2").inner_text() == "a0.h1: induction"
    tab.get_by_role("button", name="a1.h0: none").click()
    assert card.locator("h2").inner_text() == "a1.h0: no clear kind"
    tab.keyboard.press("ArrowRight")
    assert card.locator("h2").inner_text() == "a1.h1: induction"
    assert "induction ✓" in card.inner_text()
    tab.get_by_label("show").select_option("cost of ablating it: repeated")
    assert "1.500" in grid.inner_text()
    tab.get_by_label("show").select_option("score: successor")
    assert tab.locator("#heads-about").inner_text() == "no series of single tokens"


@pytest.mark.slow
def test_light_and_dark_change_at_once(visit: Open) -> None:
    tab = visit(page(attention()))
    light = tab.locator("#attn-heads canvas").first.screenshot()
    tab.emulate_media(color_scheme="dark")
    assert tab.locator("#attn-heads canvas").first.screenshot() != light


@pytest.mark.slow
def test_a_notebooks_frame_shows_the_viewer(visit: Open) -> None:
    tab = visit(f"<!DOCTYPE html><title>notebook</title>{inline(attention())._repr_html_()}")
    frame = tab.frame_locator("iframe")
    frame.get_by_role("button", name="head a1.h0").click()
    assert frame.locator("#attn-one h2").inner_text() == "Head a1.h0"


@pytest.fixture(scope="module")
def walk() -> str:
    return page(walkthrough(load("sort-abc"), "CBABBC"))


@pytest.mark.slow
@pytest.mark.parametrize("window", [{}, DARK, PHONE], ids=str)
def test_the_walkthrough_goes_on_until_the_letters_are_sorted(
    visit: Open, walk: str, window: dict[str, Any]
) -> None:
    tab = visit(walk, **window)
    where, heading = tab.locator("#walk-where"), tab.locator("#walk-stage h2")
    headings = []
    for step in range(44):
        assert where.inner_text().startswith(f"token 1 of 6, step {step + 1} of 44")
        headings.append(heading.inner_text())
        assert fits(tab)
        tab.keyboard.press("ArrowRight")
    assert headings[0] == "Tokens"
    assert headings[6] == "Block 0 · Attention scores"
    assert headings[-1] == "The next token"
    assert where.inner_text() == "token 2 of 6, step 1 of 44"
    for _ in range(44 * 5 - 1 if not window else 0):
        tab.keyboard.press("ArrowRight")
    tab.keyboard.press("End")
    assert tab.locator("#walk-written").inner_text() == "ABBBCC"
    assert tab.get_by_role("button", name="next step").is_disabled()
    assert is_painted(tab)


@pytest.mark.slow
def test_the_walkthrough_is_left_and_entered_by_keys_and_clicks(visit: Open, walk: str) -> None:
    tab = visit(walk)
    where, heading = tab.locator("#walk-where"), tab.locator("#walk-stage h2")
    tab.get_by_role("button", name="next step").click()
    assert heading.inner_text() == "Token embedding"
    tab.get_by_role("button", name="back", exact=False).first.click()
    assert heading.inner_text() == "Tokens"
    tab.get_by_role("button", name="block 1").click()
    tab.get_by_role("button", name="scores").click()
    assert heading.inner_text() == "Block 1 · Attention scores"
    tab.keyboard.press("ArrowDown")
    assert heading.inner_text() == "Block 2 · Attention scores"
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowUp")
    assert heading.inner_text() == "Block 0 · Attention scores"
    tab.keyboard.press("PageDown")
    assert where.inner_text().startswith("token 2 of 6, step 7 of 44")
    tab.keyboard.press("End")
    assert tab.locator("#walk-written").inner_text() == "ABBBCC"
    tab.keyboard.press("Home")
    assert heading.inner_text() == "Tokens"


def test_a_cell_tells_its_number_and_where_it_comes_from(visit: Open, walk: str) -> None:
    tab = visit(walk)
    for _ in range(6):
        tab.keyboard.press("ArrowRight")
    canvas = tab.locator("#walk-stage canvas[tabindex]").first
    canvas.focus()
    tab.keyboard.press("ArrowDown")  # inside a heatmap the arrows stay there
    tab.keyboard.press("ArrowDown")
    tip = tab.locator("#tip").inner_text()
    assert tip.startswith("B (1) → C (0): ")
    value, product = tip.split(": ")[1].split("\n= q·k / √16 = ")
    top, root = product.replace("−", "-").split(" / ")
    assert float(value.replace("−", "-")) == pytest.approx(float(top) / float(root), abs=1e-3)
    assert tab.locator("#walk-stage h2").inner_text() == "Block 0 · Attention scores"
    tab.keyboard.press("Escape")
    assert tab.locator("#tip").is_hidden()


@pytest.mark.slow
def test_a_finger_reads_a_cell(visit: Open, walk: str) -> None:
    tab = visit(walk, **PHONE, has_touch=True)
    tab.get_by_role("button", name="next step").tap()
    canvas = tab.locator("#walk-stage canvas[tabindex]").first
    canvas.tap(position={"x": 3, "y": 3})
    assert tab.locator("#tip").inner_text().startswith("C (0), dimension 0: ")
    tab.locator("#walk-stage h2").tap()
    assert tab.locator("#tip").is_hidden()


@pytest.mark.slow
def test_an_unlikely_choice_is_shown(visit: Open, mini: HookedGPT2) -> None:
    tab = visit(page(walkthrough(mini, "Once", steps=1, temperature=5.0, seed=0)))
    tab.keyboard.press("End")
    written = tab.locator("#walk-written").inner_text()
    assert tab.locator(".walk-choice .token.chosen").all_inner_texts() == [written]
    assert tab.locator(".walk-choice .token").count() == 11
