"""The page of a circuit: what it holds, from which circuit, and that texts stay texts."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from circuit_page_samples import CURVE, SHAPE, patterns, scored
from circuit_samples import random_circuit
from page_samples import effects
from test_pages import ATTACKS, Elements, strings

from circuits.analyses.discover import discover
from circuits.architectures import HookedGPT2
from circuits.circuit import Circuit, Graph, compiled_circuit
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.figures.layers import layers
from circuits.pages import circuit_page, page
from circuits.pages.circuit import VIEWER
from circuits.prompts import make


def test_a_page_holds_the_circuit_and_what_is_beside_it() -> None:
    circuit = scored()
    html = circuit_page(circuit, curve=CURVE, patterns=patterns())
    elements = Elements(html)
    view = elements.data["view"]
    assert html.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in html
    assert "http://" not in html
    assert len(elements.scripts) == 2
    assert "mini: 20 edges by exact" in elements.texts
    assert view["parts"] == [str(part) for part in circuit.ranked(circuit.scores)]
    assert view["scores"] == pytest.approx(circuit.frame["score"].tolist(), rel=1e-3)
    assert view["kept"] == [True] * 20 + [False] * (len(SHAPE) - 20)
    points = [[2, 0.1, -0.1, 0.3], [20, 0.6, 0.4, 0.8], [60, 1, 0.9, 1.1]]
    assert view["faithful"] == {"absolute": points}
    assert view["n_all"] == len(SHAPE)
    assert view["classes"] == ["early", "late"]
    assert len(elements.data["table"]["rows"][0]) == len(SHAPE)


def test_the_page_and_the_figure_draw_the_same_places() -> None:
    circuit = scored(len(SHAPE))
    view = Elements(circuit_page(circuit)).data["view"]
    picture = layers(circuit.frame, n_layers=3)
    drawn = np.array([node["at"] for node in view["nodes"]])
    assert drawn == pytest.approx(np.array([(n.x, n.y) for n in picture.nodes]), rel=1e-3)
    for line in picture.lines:
        assert view["ends"][line.row] == [line.sender, line.receiver]
        assert view["slots"][line.row] == line.slot
        expected = np.array(line.curve).ravel()
        assert view["curves"][line.row] == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("is_better", [True, False])
def test_support_is_in_the_metrics_direction(is_better: bool) -> None:
    circuit = scored()
    circuit = replace(circuit, origin=replace(circuit.origin, higher_is_better=is_better))
    view = Elements(circuit_page(circuit)).data["view"]
    support = [view["parts"][i] for i in view["orders"]["signed"]]
    assert support == [str(part) for part in circuit.ranked(circuit.scores, signed=True)]
    nameless = replace(circuit, origin=replace(circuit.origin, metric=None))
    assert list(Elements(circuit_page(nameless)).data["view"]["orders"]) == ["absolute"]


def test_of_many_edges_the_kept_and_the_largest_are_held() -> None:
    circuit = random_circuit(Graph(6, 8))
    smallest = circuit.ranked(circuit.scores)[-30:]
    circuit = replace(circuit, parts=frozenset(smallest))
    view = Elements(circuit_page(circuit)).data["view"]
    assert len(view["parts"]) == 2000 < len(circuit.graph) == view["n_all"]
    assert sum(view["kept"]) == 30
    assert view["kept"][-30:] == [True] * 30
    assert view["parts"][:1970] == [str(part) for part in circuit.ranked(circuit.scores)[:1970]]


def test_patterns_are_those_of_the_heads_that_are_drawn() -> None:
    circuit = compiled_circuit()
    first, _ = Elements(circuit_page(circuit, patterns=patterns())).data["view"]["patterns"]
    assert first["heads"] == ["a0.h1", "a1.h1"]
    assert first["tokens"] == ["The", " cat", " sat", " down"]
    elsewhere = replace(
        circuit, graph=Graph(12, 12), parts=frozenset({circuit.edges[-1]}), scores={}
    )
    assert Elements(circuit_page(elsewhere, patterns=patterns())).data["view"]["patterns"][1] == {
        "tokens": ["One", " two"],
        "heads": [],
    }


@pytest.mark.parametrize("name", ["ioi", "greater-than"])
def test_published_circuits_have_pages(name: str) -> None:
    circuit = Circuit.published(name)
    view = Elements(circuit_page(circuit)).data["view"]
    assert len(view["parts"]) == len(circuit)
    assert view["scores"] == [None] * len(circuit)
    assert {node["of"] for node in view["nodes"]} >= {*circuit.classes.values()} - {None}
    assert [column[0] for column in view["columns"]][-1] == "END"


def test_a_curve_may_be_of_both_rankings() -> None:
    both = pd.concat([CURVE, CURVE.head(1), CURVE.assign(ranking="signed", value=0.5)])
    view = Elements(circuit_page(scored(), curve=both)).data["view"]
    plain = Elements(circuit_page(scored(), curve=CURVE.drop(columns="ranking"))).data["view"]
    assert view["faithful"]["absolute"] == plain["faithful"]["absolute"]
    assert [point[1] for point in view["faithful"]["signed"]] == [0.5] * 3


def test_what_discover_finds_has_this_page_and_figure(compiled: HookedGPT2) -> None:
    result = discover(compiled, method="exact", task="compiled-ioi", n=4, keep="6")
    view = Elements(page(result)).data["view"]
    assert result.circuit is not None
    ours = Elements(circuit_page(result.circuit)).data["view"]
    assert {name: view[name] for name in ours} == ours
    assert sum(view["kept"]) == 6
    assert view["metric"] == "logit_diff"
    assert view["patterns"] == []
    figure = result.plot()
    assert next(iter(figure.legends[0].get_texts())).get_text().endswith("logit_diff")


def test_a_page_that_is_given_the_model_shows_where_heads_look(compiled: HookedGPT2) -> None:
    asked = {"task": "compiled-ioi", "n": 5, "seed": 3}
    result = discover(compiled, method="exact", keep="6", **asked)  # type: ignore[arg-type]
    view = Elements(page(result, model=compiled)).data["view"]
    prompts = make("compiled-ioi", compiled, 5, seed=3)
    assert len(view["patterns"]) == 4
    for shown, row, mask in zip(view["patterns"], prompts.tokens, prompts.mask, strict=False):
        assert shown["tokens"] == compiled.require_tokenizer().token_strings(row[mask].tolist())
        n, h = len(shown["tokens"]), shown["heads"].index("a0.h1")
        _, cache = compiled.run_with_cache(row[mask][None])
        starts, keys, weights = (
            np.frombuffer(base64.b64decode(shown[name]), dtype)
            for name, dtype in (("starts", "<u4"), ("keys", "<u2"), ("weights", "<u2"))
        )
        pattern = np.zeros((n, n))
        for q in range(n):
            here = slice(starts[h * n + q], starts[h * n + q + 1])
            pattern[q, keys[here]] = weights[here] / 65535
        assert pattern == pytest.approx(cache["pattern", 0][0, 1].numpy(), abs=0.002)


def test_prompts_that_cannot_be_had_again_are_left_out(compiled: HookedGPT2) -> None:
    result = discover(compiled, method="exact", task="compiled-ioi", n=4, keep="6")
    for file in ("-", "no-such-file.csv"):
        arguments = {**result.provenance.arguments, "file": file, "task": None, "n": None}
        gone = replace(result, provenance=replace(result.provenance, arguments=arguments))
        assert Elements(page(gone, model=compiled)).data["view"]["patterns"] == []


def test_a_page_of_another_model_is_refused(compiled: HookedGPT2, mini: HookedGPT2) -> None:
    result = discover(compiled, method="exact", task="compiled-ioi", n=4, keep="6")
    with pytest.raises(CircuitsError, match="ask about the model that it was found in"):
        page(result, model=mini)


def test_a_result_of_such_rows_has_the_same_view() -> None:
    circuit = scored()
    about = replace(effects().provenance, arguments={"metric": "kl"})
    frame = circuit.frame.rename(columns={"score": "value"}).assign(stderr=0.1, n=4)
    result = replace(effects(), frame=frame, axes=("part",), view="circuit", provenance=about)
    of_result = VIEWER.data(result)
    of_circuit = Elements(circuit_page(circuit)).data["view"]
    for name in ("parts", "scores", "intervals", "kept", "slots", "ends"):
        assert of_result[name] == of_circuit[name]
    assert (of_result["metric"], of_result["unit"]) == ("kl", "logits")
    assert of_result["orders"]["signed"] != of_circuit["orders"]["signed"]
    unnamed = replace(result, provenance=replace(about, arguments={}))
    assert list(VIEWER.data(unnamed)["orders"]) == ["absolute"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_changes_the_document(attack: str) -> None:
    def saying(text: str) -> Elements:
        circuit = scored()
        origin = replace(circuit.origin, model=text, source=text, command=text, metric=text)
        classes = {Component("mlp", 2): text}
        html = circuit_page(replace(circuit, origin=origin, classes=classes), title=text)
        return Elements(html)

    attacked, plain = saying(attack), saying("harmless")
    assert attacked.shape == plain.shape
    assert attacked.scripts[1] == plain.scripts[1]
    assert attack in strings(attacked.data)


def test_the_same_circuit_gives_the_same_bytes() -> None:
    assert circuit_page(scored(), curve=CURVE) == circuit_page(scored(), curve=CURVE)


def test_what_a_page_cannot_show() -> None:
    with pytest.raises(CircuitsError, match="this one lacks value, ci_low, ci_high"):
        circuit_page(scored(), curve=pd.DataFrame({"kept": [1]}))
    twice = pd.concat([CURVE, CURVE.assign(value=0.5)])
    with pytest.raises(CircuitsError, match="with 2 parts this one has several"):
        circuit_page(scored(), curve=twice)
    with pytest.raises(CircuitsError, match="one of ablate lacks query"):
        circuit_page(scored(), patterns=[effects()])
    with pytest.raises(CircuitsError, match="there are none"):
        circuit_page(replace(scored(), parts=frozenset(), scores={}))
