"""The page of a circuit in a real browser: sizes, pointing, choosing, filters, keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from circuit_page_samples import CURVE, patterns, scored
from circuit_samples import random_circuit
from test_pages_browser import (  # noqa: F401
    BROWSER,
    DARK,
    PHONE,
    Open,
    browser,
    fits,
    is_painted,
    visit,
)

from circuits.circuit import Circuit, Graph, Part, Score, compiled_circuit, part_of
from circuits.pages import circuit_page

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome"),
    pytest.mark.slow,
]
EDGES = ".circ-edge:not([hidden])"


def page_of(n_kept: int = 20, **options: Any) -> str:
    return circuit_page(scored(n_kept), curve=CURVE, patterns=patterns(), **options)


@pytest.mark.parametrize("window", [{}, DARK, PHONE, PHONE | DARK], ids=str)
def test_circuits_open_without_complaint(visit: Open, window: dict[str, Any]) -> None:  # noqa: F811
    for html in (
        circuit_page(compiled_circuit()),
        page_of(),
        circuit_page(Circuit.published("ioi")),
        circuit_page(Circuit.published("greater-than")),
    ):
        tab = visit(html, **window)
        assert is_painted(tab)
        assert fits(tab)


def test_two_thousand_edges_are_drawn(visit: Open) -> None:  # noqa: F811
    tab = visit(circuit_page(scored(2000, Graph(6, 8))))
    assert tab.locator(EDGES).count() == 2000
    tab.locator("#circ-size").press("Home")
    assert tab.locator(EDGES).count() == 1
    assert tab.locator("#circ-shown").inner_text() == "1 of 3,628 edges"
    assert "This page holds 2,000 of 3,628 edges" in tab.locator("#circ-legend").inner_text()


def test_the_slider_adds_and_takes_edges_with_f_beside_it(visit: Open) -> None:  # noqa: F811
    tab = visit(page_of())
    slider, shown, faith = (tab.locator(f"#circ-{name}") for name in ("size", "shown", "faith"))
    n_all = len(scored().graph)
    assert shown.inner_text() == f"20 of {n_all} edges"
    assert faith.inner_text() == "Faithfulness F = 0.60 [0.40, 0.80] with 20 edges."
    assert tab.locator(EDGES).count() == 20
    slider.press("ArrowRight")
    assert tab.locator(EDGES).count() == 21
    assert faith.inner_text().startswith("Faithfulness here was not measured: F = 0.60")
    slider.press("Home")
    assert tab.locator(EDGES).count() == 1
    slider.press("End")
    assert tab.locator(EDGES).count() == n_all
    assert slider.get_attribute("aria-valuetext") == f"{n_all} of {n_all} edges"
    tab.get_by_label("only what the circuit keeps").check()
    assert tab.locator(EDGES).count() == 20


def test_an_order_that_was_not_measured_says_so(visit: Open) -> None:  # noqa: F811
    tab = visit(page_of())
    before = tab.locator(EDGES).evaluate_all("edges => edges.map(e => e.dataset.part)")
    tab.get_by_label("largest first by").select_option("signed")
    assert tab.locator(EDGES).count() == 20
    after = tab.locator(EDGES).evaluate_all("edges => edges.map(e => e.dataset.part)")
    assert set(before) != set(after)
    assert tab.locator("#circ-faith").inner_text() == (
        "Faithfulness F was not measured for this order."
    )


def test_a_circuit_that_is_not_the_largest_is_shown_as_it_is(visit: Open) -> None:  # noqa: F811
    circuit = scored()
    others = circuit.ranked(circuit.scores)[7:12]
    tab = visit(circuit_page(circuit - (circuit - circuit.without(*others))))
    assert tab.get_by_label("only what the circuit keeps").is_checked()
    assert tab.locator(EDGES).count() == 15


def test_edges_tell_their_scores_to_pointer_and_keys(visit: Open) -> None:  # noqa: F811
    circuit = scored()
    first, second = circuit.frame["part"][:2]
    tab = visit(page_of())
    tip = tab.locator("#tip")
    edge = tab.locator('.circ-edge[data-part="0"]')
    edge.locator(".hit").dispatch_event("pointermove", {"clientX": 99, "clientY": 99})
    assert tip.inner_text().startswith(f"{first}\n")
    assert "95 % interval [" in tip.inner_text()
    assert "in the circuit, number 1 by size" in tip.inner_text()
    tab.locator("#circ-all").focus()
    for _ in range(6):  # past the classes, to the drawing
        if tab.evaluate("document.activeElement.classList.contains('circ-edge')"):
            break
        tab.keyboard.press("Tab")
    assert tip.inner_text().startswith(f"{first}\n")
    tab.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith(f"{second}\n")
    tab.keyboard.press("Enter")
    card = tab.locator("#circ-card")
    assert card.locator("h2").inner_text() == second
    assert "changes logit_diff by" in card.inner_text()
    assert tab.locator(".circ-edge.dim:not([hidden])").count() == 19
    tab.keyboard.press("Escape")
    assert card.inner_text().startswith("Point at an edge")
    assert tab.locator(".circ-edge.dim").count() == 0


def test_a_head_shows_its_edges_and_where_it_looks(visit: Open) -> None:  # noqa: F811
    tab = visit(page_of(200))
    card = tab.locator("#circ-card")
    tab.get_by_role("button", name="a0.h1: early", exact=True).click()
    assert card.locator("h2").inner_text() == "a0.h1: early"
    assert "where it looks" in card.inner_text()
    card.locator("canvas").hover(position={"x": 3, "y": 40})
    assert tab.locator("#tip").inner_text().startswith("·sat (2) looks at The (0): ")
    card.get_by_label("prompt").select_option("1")
    card.locator("canvas").hover(position={"x": 3, "y": 20})
    assert "looks at One (0): " in tab.locator("#tip").inner_text()
    card.get_by_role("button", name="m2: late").first.click()
    assert card.locator("h2").inner_text() == "m2: late"
    tab.get_by_role("button", name="a2.h0: late", exact=True).press("Enter")
    assert "Where a2.h0 looks on this prompt is not in this page." in card.inner_text()


def test_nodes_are_walked_by_keys(visit: Open) -> None:  # noqa: F811
    tab = visit(page_of(200))
    tab.locator('[data-node="0"]').focus()
    tab.keyboard.press("End")
    tab.keyboard.press("Enter")
    assert tab.locator("#circ-card h2").inner_text() == "logits"
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Enter")
    assert tab.locator("#circ-card h2").inner_text() == "m2: late"


def test_filters_leave_out_and_bring_back(visit: Open) -> None:  # noqa: F811
    circuit = scored(200)
    frame = circuit.frame
    tab = visit(page_of(200))
    n = tab.locator(EDGES).count
    tab.get_by_label("sign").select_option("up")
    kept = frame["kept"]
    assert n() == int((frame["score"] >= 0)[kept].sum())
    tab.get_by_label("sign").select_option("")
    tab.get_by_label("into").select_option("k")
    assert n() == int(frame["receiver"].str.contains("<k>")[kept].sum())
    tab.get_by_role("button", name="show all").click()
    assert n() == 200
    tab.get_by_label("layers").select_option("2")
    touches = frame["sender"].str.match("[am]2") | frame["receiver"].str.match("[am]2")
    assert n() == int(touches[kept].sum())
    tab.get_by_role("button", name="show all").click()
    tab.get_by_role("button", name="early", exact=True).click()
    early = (frame["sender"] == "a0.h1") | frame["receiver"].str.startswith("a0.h1<")
    assert n() == int(early[kept].sum())
    assert "filtered out" in tab.locator("#circ-shown").inner_text()


def test_a_head_is_one_wherever_it_stands(visit: Open) -> None:  # noqa: F811
    def at(edge: str, value: float) -> tuple[Part, Score]:
        return part_of(edge), Score(value)

    scores = dict(
        [
            at("embed->a0.h1<v>@S1", 3.0),
            at("a0.h1->logits@END", 2.0),
            at("embed->a0.h1<k>@S2", 1.0),
        ]
    )
    circuit = replace(random_circuit(Graph(2, 2)), parts=frozenset(scores), scores=scores)
    tab = visit(circuit_page(circuit, positions=["S1", "S2", "END"]))
    moves = tab.locator(".move:not([hidden])")
    assert moves.count() == 2  # S1 to S2, S2 to END
    tab.locator("#circ-size").press("ArrowLeft")
    assert moves.count() == 1  # S1 to END
    tab.get_by_role("button", name="a0.h1 at S1").click()
    card = tab.locator("#circ-card").inner_text()
    assert "reads (1 shown)" in card
    assert "logits at END" in card


def test_light_and_dark_change_the_drawing_at_once(visit: Open) -> None:  # noqa: F811
    tab = visit(page_of())
    light = tab.locator("#circ-drawing").screenshot()
    tab.emulate_media(color_scheme="dark")
    assert tab.locator("#circ-drawing").screenshot() != light
