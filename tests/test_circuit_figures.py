"""Circuits as figures: who stands where, and what color, width and dash say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from circuit_samples import random_circuit
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from page_samples import effects

from circuits.circuit import Circuit, Graph, Score, compiled_circuit
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.figures import Wording, save_figure, wiring
from circuits.figures.layers import EVERYWHERE, Layers, layers
from circuits.figures.style import BLUE, GRAY, ORANGE
from circuits.figures.wiring import MOST_EDGES

SMALL = Graph(3, 4)


def rows(*edges: tuple[str, str | None, str | None, float]) -> pd.DataFrame:
    frame = pd.DataFrame(edges, columns=["sender", "receiver", "position", "score"])
    return frame.assign(ci_low=frame["score"] - 0.1, ci_high=frame["score"] + 0.1, kept=True)


def edges_of(figure: Figure) -> list[PathPatch]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def height(picture: Layers, name: str) -> float:
    return next(node.y for node in picture.nodes if str(node.part) == name)


@pytest.mark.parametrize("seed", range(3))
def test_layers_go_up_and_nobody_stands_on_another(seed: int) -> None:
    circuit = random_circuit(SMALL, seed=seed)
    picture = layers(circuit.frame)
    names = ["embed", *(name for i in range(3) for name in (f"a{i}.h0", f"m{i}")), "logits"]
    heights = [height(picture, name) for name in names]
    assert all(low < high for low, high in pairwise(heights))
    places = [(node.x, node.y) for node in picture.nodes]
    for i, a in enumerate(places):
        assert all(np.hypot(*np.subtract(a, b)) > 0.9 for b in places[:i])
    assert {node.x for node in picture.nodes if node.part.kind == "mlp"} == {picture.width}
    assert len(picture.lines) == len(SMALL)
    assert all(0 <= x <= picture.width and 0 <= y <= picture.height for x, y in places)


def test_edges_begin_above_their_sender_and_end_at_the_input_they_change() -> None:
    picture = layers(rows(*(("embed", f"a1.h2<{slot}>", None, 1.0) for slot in "qkv")))
    for line, side in zip(picture.lines, (-0.2, 0, 0.2), strict=True):
        sender, receiver = picture.nodes[line.sender], picture.nodes[line.receiver]
        assert (str(sender.part), str(receiver.part)) == ("embed", "a1.h2")
        assert line.curve[0] == pytest.approx((sender.x, sender.y + 0.3))
        assert line.curve[3] == pytest.approx((receiver.x + side, receiver.y - 0.3))
    assert [line.slot for line in picture.lines] == ["q", "k", "v"]


def test_an_edge_goes_around_the_node_between() -> None:
    chain = rows(
        ("embed", "a0.h0<k>", None, 1.0),
        ("a0.h0", "a1.h0<k>", None, 1.0),
        ("embed", "a1.h0<k>", None, 1.0),
    )
    picture = layers(chain)
    straight, _, around = picture.lines
    assert {x for x, _ in straight.curve} == {picture.nodes[0].x}
    assert abs(around.curve[1][0] - picture.nodes[0].x) > 0.5


def test_positions_are_columns_and_a_head_joins_them() -> None:
    frame = rows(
        ("embed", "a0.h1<k>", "END", 1.0),
        ("embed", "a0.h1<v>", "S2", 1.0),
        ("embed", "m0", "10", 1.0),
        ("embed", "m0", "9", 1.0),
        ("embed", "a1.h1<v>", None, 1.0),
    )
    picture = layers(frame)
    assert [name for name, _, _ in picture.columns] == [EVERYWHERE, "9", "10", "S2", "END"]
    for (_, low, high), (_, after, _) in pairwise(picture.columns):
        assert low <= high < after
    limits = {name: (low, high) for name, low, high in picture.columns}
    for node in picture.nodes:
        low, high = limits[node.column]
        assert low <= node.x <= high
    [(a, b, _)] = picture.moves
    assert [picture.nodes[i].column for i in (a, b)] == ["S2", "END"]
    asked = layers(frame, positions=["END", "S2"])
    assert [name for name, _, _ in asked.columns] == [EVERYWHERE, "END", "S2", "9", "10"]
    labels = [tick.get_text() for tick in wiring(frame).axes[0].get_xticklabels()]
    assert labels == ["all positions", "9", "10", "S2", "END"]


def test_what_color_width_and_dash_say() -> None:
    frame = rows(
        ("embed", "a0.h1<q>", None, 2.0),
        ("embed", "a0.h1<k>", None, -1.0),
        ("a0.h1", "logits", None, 0.05),
        ("embed", "logits", None, np.nan),
    )
    figure = wiring(frame, words=Wording("a title", "logit_diff"))
    drawn = edges_of(figure)
    assert [to_hex(line.get_edgecolor()) for line in drawn] == [BLUE, ORANGE, BLUE, GRAY]
    wide, middle, thin, none = (line.get_linewidth() for line in drawn)
    assert thin < none < middle < wide
    assert wide - 0.5 == pytest.approx(2 * (middle - 0.5))
    assert drawn[2].get_alpha() < drawn[3].get_alpha() < drawn[0].get_alpha()
    assert [line.get_zorder() for line in drawn][:2] > [line.get_zorder() for line in drawn][2:]
    assert len({str(line.get_linestyle()) for line in drawn[:2]}) == 2
    assert legend_of(figure) == [
        "corrupting it raises logit_diff",
        "corrupting it lowers logit_diff",
        "pale: the interval contains 0",
        "into a query",
        "into a key",
    ]
    assert figure.axes[0].get_title(loc="left") == "a title"


def test_only_what_is_kept_is_drawn_and_of_many_the_largest() -> None:
    circuit = random_circuit(Graph(4, 6), seed=1)
    figure = circuit.plot()
    assert len(circuit) > MOST_EDGES
    assert len(edges_of(figure)) == MOST_EDGES
    title = figure.axes[0].get_title(loc="left").replace("\n", " ")
    assert title.endswith(f"the largest 200 of {len(circuit)}")
    few = replace(circuit, parts=frozenset(circuit.ranked(circuit.parts)[:20]))
    assert len(edges_of(few.plot())) == 20
    assert "largest" not in few.plot().axes[0].get_title(loc="left")


def test_many_large_edges_are_thinner() -> None:
    edges = [("embed", f"a{layer}.h{head}<q>") for layer in range(12) for head in range(12)]
    equal = rows(*((sender, receiver, None, 1.0) for sender, receiver in edges))
    few, many = (edges_of(wiring(equal.head(n)))[0].get_linewidth() for n in (30, 144))
    assert many - 0.5 == pytest.approx((few - 0.5) * 60 / 144)


def test_the_compiled_circuit_has_six_edges_between_three_heads() -> None:
    figure = compiled_circuit().plot()
    assert len(edges_of(figure)) == 6
    assert sorted(words_of(figure)) == ["0.1", "1.1", "2.0", "embed", "logits"]
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks == [f"layer {i}" for i in range(6)]


def test_heads_alone_are_dots_in_the_colors_of_their_classes() -> None:
    figure = Circuit.published("ioi").plot()
    assert len(words_of(figure)) == 26
    assert not edges_of(figure)
    legend = legend_of(figure)
    assert legend[0] == "the circuit has every edge between these"
    assert legend[1:] == sorted(legend[1:])
    assert "name mover" in legend
    fills = {
        line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"
    }
    assert len(fills) == 7


@pytest.mark.parametrize("level", ["heads", "nodes"])
def test_scored_heads_have_a_ring_in_the_color_of_their_sign(level: str) -> None:
    heads = [Component("head", 1, head) for head in range(2)]
    scores = {heads[0]: Score(2.0, 1.0, 3.0), heads[1]: Score(-1.0, -3.0, 1.0)}
    circuit = replace(
        random_circuit(SMALL, level),  # type: ignore[arg-type]
        parts=frozenset(heads),
        scores=scores,
    )
    rings = [line for line in circuit.plot().axes[0].lines if line.get_marker() == "o"]
    assert [to_hex(line.get_markeredgecolor()) for line in rings] == [BLUE, ORANGE]
    assert [to_rgba(line.get_markeredgecolor())[3] for line in rings] == [1, 0.35]
    assert rings[0].get_markeredgewidth() > rings[1].get_markeredgewidth()


def test_neurons_stand_beside_each_other() -> None:
    parts = frozenset(Component("neuron", 1, neuron=i) for i in (3, 11))
    circuit = replace(random_circuit(SMALL, "neurons"), parts=parts, scores={})
    picture = layers(circuit.frame)
    assert [str(node.part) for node in picture.nodes] == ["m1.n3", "m1.n11"]
    assert picture.nodes[1].x - picture.nodes[0].x >= 1


def test_a_result_with_these_columns_is_drawn_the_same() -> None:
    frame = compiled_circuit().frame.rename(columns={"score": "value"}).assign(stderr=0.0, n=4)
    result = replace(effects(), frame=frame, view="circuit", axes=("part",), title="six edges")
    figure = result.plot()
    assert len(edges_of(figure)) == 6
    assert figure.axes[0].get_title(loc="left") == "six edges"
    with pytest.raises(CircuitsError, match="these have no sender, receiver, position"):
        replace(effects(), view="circuit").plot()


def test_an_empty_circuit_is_no_picture() -> None:
    with pytest.raises(CircuitsError, match="there are none"):
        replace(compiled_circuit(), parts=frozenset()).plot()


def test_the_same_circuit_gives_the_same_bytes(tmp_path: Path) -> None:
    circuit = random_circuit(SMALL)
    one, other = (save_figure(circuit.plot(), tmp_path / f"{i}.svg").read_bytes() for i in range(2))
    assert one == other
