"""Circuits as things: the graph they are parts of, their algebra, and their files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import circuits
from circuits.circuit import Circuit, Graph, Origin, Score, graph, part_of
from circuits.components import Edge, parse_edge
from circuits.config import GPT2_SIZES
from circuits.errors import CircuitsError

MINI_IOI = [
    "embed->a0.h1<q>",
    "embed->a1.h1<v>",
    "a0.h1->a1.h1<k>",
    "a1.h1->a2.h0<q>",
    "embed->a2.h0<k>",
    "a2.h0->logits",
]
SCORED = (
    '{{"circuit": 1, "level": "heads", "shape": {{"n_layers": 1, "n_heads": 1}}, '
    '"origin": {{"model": "m"}}, "kept": {{"a0.h0": {}}}, "left out": {{}}}}'
)


@pytest.fixture(scope="module")
def model() -> circuits.HookedGPT2:
    return circuits.load("compiled")


@pytest.fixture(scope="module")
def circuit(model: circuits.HookedGPT2) -> Circuit:
    return Circuit.of(model, MINI_IOI)


def test_gpt2_small_has_the_published_number_of_edges() -> None:
    whole = graph(GPT2_SIZES["gpt2"])
    assert (len(whole), len(whole.writers), len(whole.readers)) == (32491, 157, 445)
    into_heads = sum(edge.receiver.kind == "head" for edge in whole)
    into_mlps = sum(edge.receiver.kind == "mlp" for edge in whole)
    assert (into_heads, into_mlps, len(whole) - into_heads - into_mlps) == (31320, 1014, 157)


@pytest.mark.parametrize(("has_mlps", "parallel"), [(True, False), (True, True), (False, False)])
def test_a_graph_has_every_edge_that_runs_forward(has_mlps: bool, parallel: bool) -> None:
    small = Graph(3, 2, has_mlps, parallel)
    expected = set()
    for sender in small.writers:
        for receiver in small.readers:
            try:
                edge = Edge(sender, receiver)
            except CircuitsError:
                continue
            is_own_layer = sender.layer == receiver.layer and sender.kind == "head"
            if not (parallel and is_own_layer and receiver.kind == "mlp"):
                expected.add(edge)
    assert set(small) == expected
    assert len(small) == len(expected) == small.exists.sum()


def test_edges_and_masks_are_two_ways_to_say_the_same() -> None:
    small = Graph(2, 2)
    mask = small.exists & (np.random.default_rng(0).random(small.exists.shape) < 0.5)
    assert (small.mask(small.named(mask)) == mask).all()


def test_only_edges_on_a_path_from_the_embedding_to_the_logits_are_alive() -> None:
    small = Graph(2, 2)
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = small.exists & (rng.random(small.exists.shape) < 0.12)
        edges = small.named(mask)
        alive = {edge for edge in edges if _is_on_a_path(edge, edges)}
        assert set(small.named(small.alive(mask))) == alive


def _is_on_a_path(edge: Edge, edges: list[Edge]) -> bool:
    """By walking: back to the embedding, and on to the logits."""

    def node(edge: Edge) -> object:
        return replace(edge.receiver, slot=None)

    def starts(edge: Edge) -> bool:
        return str(edge.sender) == "embed" or any(
            starts(other) for other in edges if node(other) == edge.sender
        )

    def ends(edge: Edge) -> bool:
        return str(edge.receiver) == "logits" or any(
            ends(other) for other in edges if other.sender == node(edge)
        )

    return starts(edge) and ends(edge)


def test_sets_of_edges(circuit: Circuit, model: circuits.HookedGPT2) -> None:
    few = Circuit.of(model, MINI_IOI[:2])
    assert (circuit & few).parts == few.parts
    assert (circuit | few).parts == circuit.parts
    assert len(circuit - few) == 4
    assert [str(edge) for edge in circuit.without("a1.h1").edges] == [
        "embed->a0.h1<q>",
        "embed->a2.h0<k>",
        "a2.h0->logits",
    ]
    assert list(map(str, circuit.heads)) == ["a0.h1", "a1.h1", "a2.h0"]
    assert "a0.h1->a1.h1<k>" in circuit


def test_a_dead_end_is_pruned_and_counted(circuit: Circuit, model: circuits.HookedGPT2) -> None:
    more = Circuit.of(model, [*MINI_IOI, "a0.h0->a2.h1<q>", "embed->a0.h0<k>"])
    pruned = more.pruned()
    assert pruned.parts == circuit.parts
    assert pruned.origin.pruned == 2


def test_nodes_have_every_edge_between_them(model: circuits.HookedGPT2) -> None:
    nodes = Circuit.of(model, ["a0.h1", "a1.h1@END"], level="nodes")
    assert len(nodes.edges) == 3 + 6 + 3  # into a0.h1, into a1.h1, into the logits
    assert "a1.h1->logits@END" in map(str, nodes.edges)
    heads = Circuit.of(model, ["a0.h1"], level="heads")
    assert list(map(str, heads.nodes)) == ["a0.h1", *(f"m{i}" for i in range(model.cfg.n_layers))]


def test_a_circuit_is_read_as_it_was_written(circuit: Circuit, tmp_path: Path) -> None:
    scores = {part: Score(-1.25 * i, -2.0, 0.5) for i, part in enumerate(circuit.graph.edges[:40])}
    known = replace(circuit, scores=scores, origin=Origin("compiled", "ab", task="wörds 🙂", n=3))
    path = known.save(tmp_path / "circuit.json")
    assert Circuit.load(path) == known
    assert json.loads(path.read_text(encoding="utf-8"))["kept"]["embed->a0.h1<q>"]["value"] == -1.25
    assert Circuit.load(path).to_json() == path.read_text(encoding="utf-8")


def test_infinite_scores_are_read_as_they_were_written_in_strict_json(
    circuit: Circuit, tmp_path: Path
) -> None:
    a, b, c, d = map(part_of, MINI_IOI[:4])
    scores = {
        a: Score(-math.inf),
        b: Score(math.inf, 1.5, math.inf),
        c: Score(0.25, -math.inf, 0.5),
        d: Score(math.nan, -1.0, 1.0),
    }
    known = replace(circuit, parts=frozenset([a, c]), scores=scores)
    path = known.save(tmp_path / "circuit.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["kept"][str(a)] == {"value": None, "infinite": {"value": "-"}}
    assert content["left out"][str(b)] == {
        "value": None,
        "ci_low": 1.5,
        "ci_high": None,
        "infinite": {"value": "+", "ci_high": "+"},
    }
    again = Circuit.load(path)
    assert {part: again.scores[part] for part in (a, b, c)} == {p: scores[p] for p in (a, b, c)}
    assert math.isnan(again.scores[d].value)
    assert (again.scores[d].ci_low, again.scores[d].ci_high) == (-1.0, 1.0)
    assert again.to_json() == path.read_text(encoding="utf-8")
    assert replace(circuit, scores={a: Score(math.nan)}).to_json() == circuit.to_json()


def test_scores_that_are_alike_as_written_keep_their_order(
    circuit: Circuit, tmp_path: Path
) -> None:
    values = {part: Score(1.0 + 1e-9 * i) for i, part in enumerate(circuit.graph.edges[:40])}
    path = replace(circuit, scores=values).save(tmp_path / "circuit.json")
    assert Circuit.load(path).to_json() == path.read_text(encoding="utf-8")


def test_ranks_by_size_or_by_what_gets_worse(circuit: Circuit) -> None:
    a, b, c = map(part_of, MINI_IOI[:3])
    scores = {a: Score(-1.0), b: Score(3.0), c: Score(-2.0)}
    known = replace(circuit, scores=scores)
    assert known.ranked([a, b, c]) == [b, c, a]
    assert known.ranked([a, b, c], signed=True) == [c, a, b]
    lower = replace(known, origin=replace(known.origin, higher_is_better=False))
    assert lower.ranked([a, b, c], signed=True) == [b, a, c]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no circuit"),
        ("[]", 'lacks "circuit": 1'),
        ('{"circuit": 2}', 'lacks "circuit": 1'),
        ('{"circuit": 1, "kept": {"a9->": {}}}', "names no component"),
        ('{"circuit": 1, "kept": {}, "left out": {}, "shape": {"n": 1}}', "is no circuit"),
        ("[" * 100_000, "is no circuit"),
        (SCORED.format('{"value": 1, "infinite": {"value": "+"}}'), "an infinite value is null"),
        (SCORED.format('{"value": null, "infinite": {"value": "?"}}'), "an infinite value is null"),
        (SCORED.format('{"value": 1, "high": 2}'), "'high' is none of value, ci_low, ci_high"),
        (SCORED.format('{"value": "x"}'), "its value is 'x', and should be of the type float"),
        (SCORED.replace('"model"', '"seed": 1.5, "model"').format("{}"), "its seed is 1.5"),
        (SCORED.replace('"model"', '"task": ["a"], "model"').format("{}"), "its task is .*'a'"),
        (SCORED.replace('"n_layers": ', '"n_layers": 99999999').format("{}"), "1 to 100,000 heads"),
    ],
)
def test_what_is_no_circuit_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "circuit.json"
    path.write_text(text)
    with pytest.raises(CircuitsError, match=said):
        Circuit.load(path)


def test_wrong_parts_are_refused(model: circuits.HookedGPT2, circuit: Circuit) -> None:
    for part, said in {
        "a3.h1->a1.h1<k>": "does not come after",
        "a0.h1->a1.h1": "is no edge",
        "a0.h1->a99.h1<k>": "is no edge",
        "a0.h1": "is none of the edges",
    }.items():
        with pytest.raises(CircuitsError, match=said):
            Circuit.of(model, [part])
    with pytest.raises(CircuitsError, match="is not in the circuit"):
        circuit.without("a3.h3")
    with pytest.raises(CircuitsError, match="no parts in common"):
        _ = circuit | Circuit.of(circuits.load("sort-abc"), [])


def test_a_circuit_of_another_model_is_refused(circuit: Circuit) -> None:
    with pytest.raises(CircuitsError, match="6 layers of 4 heads, and mini has 8 of 8"):
        circuit.require_fits(circuits.load())
    other = replace(circuit, origin=Origin("compiled", "0" * 64))
    with pytest.raises(CircuitsError, match="with the weights 000000000000"):
        other.require_fits(circuits.load("compiled"))
    assert parse_edge(MINI_IOI[0]) in circuit.require_fits(circuits.load("compiled"))
