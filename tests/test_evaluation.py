"""What judges a circuit: sets of parts, statistics, and numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from circuit_samples import random_circuit
from numpy.testing import assert_array_equal

from circuits.circuit import Circuit, Graph, Level, Origin, Score
from circuits.components import parse, parse_edge
from circuits.errors import CircuitsError
from circuits.evaluation import Cells, Completeness, Controls, Curve, Evidence, Minimality, Subject
from circuits.evaluation.cells import CIRCUIT, EMPTY, WHOLE
from circuits.evaluation.controls import alike_by_layer, as_many, heads_exchanged, outside
from circuits.evaluation.curve import SIZES, weights
from circuits.evaluation.evidence import NOTHING, Row
from circuits.evaluation.faithfulness import faithful_rows, task_rows
from circuits.evaluation.hypothesis_tests import at_most, trapezoid
from circuits.evaluation.independence import independent_rows
from circuits.evaluation.minimality import random_path
from circuits.evaluation.table import corrected, frame_of, over_all
from circuits.intervals import student_t
from circuits.sweep import Kept

SHAPE = Graph(3, 4)
D_MLP = 5
LEVELS: tuple[Level, ...] = ("edges", "heads", "nodes")


def subject(level: Level = "edges", seed: int = 0) -> Subject:
    return Subject(random_circuit(SHAPE, level, seed), D_MLP)


def neurons() -> Subject:
    parts = frozenset(parse(name) for name in ("m0.n1", "m0.n4", "m2.n0"))
    return Subject(Circuit(SHAPE, parts, Origin("x"), level="neurons"), D_MLP)


def evidence(seed: int = 0, n: int = 12, cells: int = 30) -> Evidence:
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(cells, n)) - 1
    effects[WHOLE] = 0
    effects[EMPTY] -= 3
    return Evidence(effects, rng.normal(size=n) + 4, higher_is_better=True)


# --- sets of parts


@pytest.mark.parametrize("level", LEVELS)
def test_sets_of_parts_are_the_circuits_of_these_parts(level: Level) -> None:
    """The quick masks, against `Circuit.edges`, edge by edge."""
    tested, rng = subject(level), np.random.default_rng(1)
    for _ in range(4):
        some = [part for part in tested.every if rng.random() < 0.4]
        left = [part for part in tested.every if part not in some]
        for kept, parts in ((tested.alone(some, "x"), some), (tested.without(some, "x"), left)):
            circuit = Circuit(SHAPE, frozenset(parts), Origin("x"), level=level)
            expected = Kept.of(circuit, d_mlp=D_MLP)
            assert_array_equal(kept.anywhere, expected.anywhere)


def test_sets_of_neurons_are_the_circuits_of_these_neurons() -> None:
    tested = neurons()
    assert len(tested.every) == 3 * D_MLP
    alone, without = tested.alone(tested.parts, "x"), tested.without(tested.parts, "x")
    expected = Kept.of(tested.circuit, d_mlp=D_MLP)
    assert_array_equal(alone.anywhere, expected.anywhere)
    assert alone.neurons is not None
    assert without.neurons is not None
    assert_array_equal(alone.neurons, expected.neurons)
    assert_array_equal(without.neurons, ~alone.neurons)


def test_positions_stay_with_their_parts() -> None:
    edges = [parse_edge("embed->a0.h1<q>@END"), parse_edge("a0.h1->logits")]
    tested = Subject(Circuit(SHAPE, frozenset(edges), Origin("x")), D_MLP)
    kept = tested.alone(tested.parts, "x")
    assert {at: int(mask.sum()) for at, mask in kept.masks.items()} == {None: 1, "END": 1}


def test_many_parts_are_dropped_by_node() -> None:
    few = Subject(Circuit(SHAPE, frozenset(SHAPE.edges[:3]), Origin("x")), D_MLP)
    assert sorted(few.units) == sorted(map(str, SHAPE.edges[:3]))
    whole = Subject(Circuit(SHAPE, frozenset(SHAPE.edges), Origin("x")), D_MLP)
    assert sorted(whole.units) == sorted(str(node) for node in SHAPE.writers[1:])
    expected = {e for e in SHAPE.edges if "a1.h2" in str(e)}
    assert whole.units["a1.h2"] == expected


def test_each_circuit_is_run_once() -> None:
    tested = subject()
    cells = Cells(tested, pruned=False)
    assert cells.asked[WHOLE] == ()
    assert not cells.asked[EMPTY][0].anywhere.any()
    assert_array_equal(cells.asked[CIRCUIT][0].anywhere, SHAPE.mask(tested.circuit.edges))
    place = cells.add(tested.alone(tested.every[:4], "a"))
    assert cells.add(tested.alone(tested.every[:4], "b")) == place == 3
    assert cells.add(tested.without([], "all")) == WHOLE
    assert cells.add(tested.alone([], "none")) == EMPTY


def test_dead_edges_make_no_other_circuit_where_they_change_nothing() -> None:
    tested = subject()
    dead = [parse_edge("embed->a0.h1<q>"), parse_edge("a0.h2->a1.h1<k>")]
    path = [parse_edge("embed->m0"), parse_edge("m0->logits")]
    assert Cells(tested, pruned=True).add(tested.alone(dead, "dead")) == EMPTY
    assert Cells(tested, pruned=False).add(tested.alone(dead, "dead")) == 3
    cells = Cells(tested, pruned=True)
    assert cells.add(tested.alone(path, "a")) == cells.add(tested.alone(dead + path, "b"))


# --- what is drawn


def test_random_circuits_are_what_they_are_called() -> None:
    tested, rng = subject(), np.random.default_rng(0)
    n = len(tested.parts)
    for _ in range(5):
        many = as_many(tested, rng)
        assert len(many) == n
        assert many != tested.circuit.parts
        moved = heads_exchanged(tested, rng)
        assert len(moved) == n
        for layer in range(3):
            heads = [
                {str(h) for h in Circuit(SHAPE, parts, Origin("x")).heads if h.layer == layer}
                for parts in (moved, tested.circuit.parts)
            ]
            assert len(heads[0]) == len(heads[1])
        alive = [
            int(SHAPE.alive(SHAPE.mask(e for e in parts)).sum())
            for parts in (moved, tested.circuit.parts)
        ]
        assert alive[0] == alive[1]  # connected in the same way
        others = outside(tested, rng)
        assert others is not None
        assert len(others) == n
        assert not others & tested.circuit.parts


def test_random_neurons_are_as_many_in_each_layer() -> None:
    drawn = alike_by_layer(neurons(), np.random.default_rng(0))
    layers = sorted(part.layer for part in drawn)  # type: ignore[union-attr]
    assert layers == [0, 0, 2]


def test_random_positions_are_those_of_the_circuit() -> None:
    edges = [parse_edge("embed->a0.h1<q>@END"), parse_edge("a0.h1->logits")]
    tested = Subject(Circuit(SHAPE, frozenset(edges), Origin("x")), D_MLP)
    drawn = as_many(tested, np.random.default_rng(0))
    assert sorted(str(e.receiver.position) for e in drawn) == ["END", "None"]  # type: ignore[union-attr]


def test_random_paths_lead_from_the_embedding_to_the_logits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        path = random_path(subject(), rng)
        assert SHAPE.alive(SHAPE.mask(path)).sum() == len(path)
        assert str(path[0].sender) == "embed"
        assert str(path[-1].receiver) == "logits"


# --- tests, on evidence whose numbers are known


def test_shares_are_ratios_of_means() -> None:
    given_ = evidence()
    full, effect = given_.effects[EMPTY], given_.effects[5]
    share = given_.faithful(5)
    ratio = effect.mean() / full.mean()
    left = effect - ratio * full
    half = student_t(0.95, 11) * math.sqrt((left**2).sum() / 11 / 12) / abs(full.mean())
    assert share.value == pytest.approx(1 - ratio)
    assert [share.ci_low, share.ci_high] == pytest.approx([1 - ratio - half, 1 - ratio + half])
    assert given_.faithfulness[[WHOLE, EMPTY, 5]].tolist() == pytest.approx([1, 0, 1 - ratio])


def test_a_metric_without_any_difference_is_refused() -> None:
    nothing = Evidence(np.zeros((3, 4)), np.zeros(4), higher_is_better=True)
    with pytest.raises(CircuitsError, match="do not differ in this metric"):
        list(task_rows(nothing))


def test_faithfulness_says_which_mean_is_which() -> None:
    effects = np.array([[0.0, 0, 0, 0], [-4, -4, -2, 0], [-1, -1, -1, -1]])
    rows = {
        row.what: row
        for row in faithful_rows(Evidence(effects, np.zeros(4), higher_is_better=True), 0.2)
    }
    assert rows["F, ratio of means"].value == pytest.approx(1 - 4 / 10)
    assert rows["F, ratio of means"].verdict == "no"
    of_ratios = rows["F, mean of ratios"]
    assert of_ratios.value == pytest.approx((0.75 + 0.75 + 0.5) / 3)
    assert of_ratios.n == 3
    assert "1 prompts without any" in of_ratios.against
    beats = rows["prompts on which it beats the model"]
    assert beats.value == 0
    assert beats.p_value == pytest.approx(2 / 16)


def test_a_lower_metric_can_be_better() -> None:
    effects = np.array([[0.0, 0, 0], [4, 5, 6], [0, 0, 0]])
    for higher_is_better, passes in ((False, "yes"), (True, "no")):
        row = next(task_rows(Evidence(effects, np.zeros(3), higher_is_better)))
        assert row.verdict == passes


def test_areas_are_the_trapezoids_of_the_curve() -> None:
    tested = subject()
    cells = Cells(tested, pruned=False)
    curve = Curve.ask(tested, cells)
    given_ = evidence(cells=len(cells.asked))
    cpr, cmd = curve.areas(given_)
    by_ranking = {
        name: given_.faithfulness[[p.place for p in curve.points if p.ranking == name]]
        for name in ("signed", "absolute")
    }
    assert cpr.value == pytest.approx(trapezoid(np.array(SIZES), by_ranking["signed"]))
    expected = trapezoid(np.array(SIZES), np.abs(1 - by_ranking["absolute"]))
    assert cmd.value == pytest.approx(expected)
    assert cpr.ci_low < cpr.value < cpr.ci_high
    assert weights(np.array(SIZES)).sum() == pytest.approx(0.999)


def test_sizes_are_counted_before_pruning_and_chosen_by_score() -> None:
    tested = subject()
    cells = Cells(tested, pruned=False)
    curve = Curve.ask(tested, cells)
    n, circuit = len(SHAPE), tested.circuit
    assert [p.kept for p in curve.points[: len(SIZES)]] == [int(size * n) for size in SIZES]
    for point in curve.points[:-1]:
        signed = point.ranking == "signed"
        order = sorted(
            SHAPE.edges,
            key=lambda e: circuit.scores[e].value if signed else -abs(circuit.scores[e].value),
        )
        mask = SHAPE.mask(order[: point.kept])
        alive = SHAPE.alive(mask)
        assert point.pruned == mask.sum() - alive.sum()
        kept = cells.asked[point.place]
        assert_array_equal(kept[0].anywhere if kept else SHAPE.exists, alive)


def test_scores_at_positions_are_ranked_as_they_are() -> None:
    names = ["embed->m0@END", "embed->m0@S2", "m0->logits@END", "embed->a0.h1<q>"]
    parts = [parse_edge(name) for name in names]
    scores = {part: Score(-1.0 - i) for i, part in enumerate(parts)}
    circuit = Circuit(SHAPE, frozenset(parts[:3]), Origin("x"), scores)
    tested = Subject(circuit, D_MLP)
    cells = Cells(tested, pruned=False)
    half = next(p for p in Curve.ask(tested, cells).points if p.size == 0.5)
    assert half.kept == 2
    assert half.pruned == 2  # m0->logits and a dead edge
    assert Curve.ask(tested, cells).points[-1].kept == 4


def test_no_scores_no_curve() -> None:
    bare = Circuit(SHAPE, frozenset(SHAPE.edges[:3]), Origin("x"))
    tested = Subject(bare, D_MLP)
    with pytest.raises(CircuitsError, match="no scores"):
        Curve.ask(tested, Cells(tested, pruned=False))


def test_completeness_is_the_distance_without_the_same_parts() -> None:
    tested = subject()
    cells = Cells(tested, pruned=False)
    asked = Completeness.ask(tested, cells, 10, np.random.default_rng(0))
    own = SHAPE.mask(tested.circuit.edges)
    for circuit, model in zip(asked.circuits, asked.models, strict=True):
        left, rest = (cells.asked[place][0].anywhere for place in (circuit, model))
        assert_array_equal(SHAPE.exists & ~rest, own & ~left)  # the same parts are gone
        assert_array_equal(left & own, left)
    given_ = evidence(cells=len(cells.asked))
    f = given_.faithfulness
    apart = [abs(f[c] - f[m]) for c, m in zip(asked.circuits, asked.models, strict=True)]
    rows = list(asked.rows(given_, 0.2))
    assert rows[0].value == pytest.approx(np.mean(apart))
    assert rows[1].value == pytest.approx(max(apart))
    assert rows[0].n == 10


def test_minimality_counts_the_random_edges_that_a_part_exceeds() -> None:
    edges = [parse_edge("embed->m0"), parse_edge("m0->logits")]
    tested = Subject(Circuit(SHAPE, frozenset(edges), Origin("x")), D_MLP)
    cells = Cells(tested, pruned=False)
    asked = Minimality.ask(tested, cells, 50, np.random.default_rng(0))
    for first, second in asked.inflated:
        more, fewer = (cells.asked[place][0].anywhere for place in (first, second))
        assert (more & ~fewer).sum() == 1
        assert not (more & ~fewer & SHAPE.mask(edges)).any()
    effects = np.zeros((len(cells.asked), 4))
    effects[EMPTY] = -10
    for i, (_, second) in enumerate(asked.inflated):
        effects[second] = -0.1 * (i % 2)
    (name, needed), (_, not_needed) = asked.dropped
    effects[needed], effects[not_needed] = -5, -0.05
    rows = list(asked.rows(Evidence(effects, np.zeros(4), higher_is_better=True)))
    assert [row.what for row in rows[1:]] == [asked.dropped[1][0], name]
    assert [row.verdict for row in rows] == ["no", "no", "yes"]
    random = np.array([np.abs(effects[a, 0] - effects[b, 0]) for a, b in asked.inflated])
    k = int((random < 0.05 - 0.01).sum())
    assert rows[1].p_value == pytest.approx(min(1, 2 * at_most(k, 50, 0.9)))
    assert rows[2].value == pytest.approx(0.5)


def test_controls_compare_with_every_random_circuit() -> None:
    tested = subject()
    cells = Cells(tested, pruned=False)
    asked = Controls.ask(tested, cells, 50, np.random.default_rng(0))
    effects = np.full((len(cells.asked), 4), -8.0)
    effects[WHOLE], effects[EMPTY], effects[CIRCUIT] = 0, -10, -1
    effects[asked.complement] = -9
    effects[list(asked.left_out.places)] = -2
    rows = list(asked.rows(Evidence(effects, np.zeros(4), higher_is_better=True)))
    assert [row.test for row in rows] == ["sufficiency", "sufficiency", "necessity"]
    assert [row.value for row in rows] == pytest.approx([0.1, 0.1, 0.9])
    assert [row.null for row in rows] == pytest.approx([0.8, 0.8, 0.2])
    assert all(row.p_value == pytest.approx(0.9**50) for row in rows)
    fixed = corrected(rows)
    assert [row.verdict for row in fixed] == ["yes"] * 3
    assert fixed[0].p_value == pytest.approx(3 * 0.9**50)


def test_independence_is_told_where_there_is_something_to_tell() -> None:
    rng = np.random.default_rng(0)
    whole, noise = 5 + rng.normal(size=(2, 60))
    effects = np.zeros((5, 60))
    effects[EMPTY] = -5
    effects[3], effects[4] = noise - 5 - whole, 0.5 * whole - whole
    given_ = Evidence(effects, whole, higher_is_better=True)
    (apart,), (same,) = (list(independent_rows(given_, place, 0)) for place in (3, 4))
    assert (apart.verdict, same.verdict) == ("yes", "no")
    assert same.p_value < 0.01 < apart.p_value
    constant = Evidence(effects, whole * 0, higher_is_better=True)
    (row,) = independent_rows(constant, 3, 0)
    assert row.verdict == NOTHING
    effects[3] = -whole
    (row,) = independent_rows(Evidence(effects, whole, higher_is_better=True), 3, 0)
    assert row.verdict == "yes"
    assert row.value == 0


def test_the_verdict_is_over_all_that_decided() -> None:
    rows = [Row("a", "x", 1, verdict="yes"), Row("b", "x", 1), Row("part", "e", 1, verdict="no")]
    assert over_all(rows).verdict == "yes"
    assert over_all([*rows, Row("c", "x", 1, verdict="no")]).verdict == "no"
    assert over_all([Row("b", "x", 1)]).verdict == "no"
    frame = frame_of("task", [rows[2], *rows[:2]])
    assert frame["test"].tolist() == ["a", "b", "part", "all"]
    assert frame["verdict"].tolist()[1] == NOTHING
