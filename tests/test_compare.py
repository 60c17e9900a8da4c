"""How alike circuits are: numbers worked out by hand, and the same recomputed by loops."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from circuit_samples import random_circuit
from typer.testing import CliRunner

import circuits
from circuits.circuit import Circuit, Graph, Origin, Part, Score, part_of, read_circuit
from circuits.cli import app
from circuits.comparison.chance import chance
from circuits.comparison.rankings import Finding
from circuits.errors import CircuitsError

# One layer of one head has eight edges. By their scores, the second circuit takes its own parts
# first and then the first circuit's; of the first's parts, one score is of no size.
TINY = Graph(1, 1)
FIRST = {"embed->a0.h0<q>": 4.0, "a0.h0->logits": -3.0, "m0->logits": 0.0}
SECOND = {"embed->a0.h0<q>": 1.0, "embed->m0": -5.0, "a0.h0->logits": -2.0, "embed->logits": 2.0}


def scored(kept: Iterable[str], scores: dict[str, float], **origin: Any) -> Circuit:
    return Circuit(
        TINY,
        frozenset(map(part_of, kept)),
        Origin("tiny", **origin),
        {part_of(name): Score(value) for name, value in scores.items()},
    )


@pytest.fixture
def first() -> Circuit:
    return scored(FIRST, FIRST, checksum="ab")


@pytest.fixture
def second() -> Circuit:
    return scored(["embed->m0", "a0.h0->logits"], SECOND, checksum="cd")


def only_row(frame: pd.DataFrame, **where: str) -> dict[str, Any]:
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.to_dict("records")[0]  # type: ignore[no-any-return]


def test_numbers_by_hand(first: Circuit, second: Circuit) -> None:
    """Of eight edges three and two are kept, and one by both."""
    result = circuits.compare([first, second])
    row = only_row(result.frame, level="edges", circuit="circuit 2")
    counts = ["n_circuit", "n_reference", "n_both", "only_circuit", "only_reference", "n_parts"]
    assert [row[name] for name in counts] == [2, 3, 1, 1, 2, 8]
    assert row["value"] == pytest.approx(1 / 4)
    assert (row["precision"], row["recall"]) == pytest.approx((1 / 2, 1 / 3))
    assert row["f1"] == pytest.approx(2 / 5)
    # Of 28 pairs of edges 10 have none of the three, 15 have one, 3 have two.
    assert row["expected_both"] == pytest.approx(3 / 4)
    assert row["expected_jaccard"] == pytest.approx((15 / 28) / 4 + (3 / 28) * (2 / 3))
    assert row["p_value"] == pytest.approx(18 / 28)
    # Scored in both: 4, -3 beside 1, -2. Without signs the orders are opposite.
    assert row["n_scored"] == 2
    assert row["spearman_signed"] == pytest.approx(1)
    assert row["spearman_absolute"] == pytest.approx(-1)
    # By size: 5 wrong; 2 wrong, 2 right; 1 right; then 3 others wrong, and m0->logits right.
    assert row["roc_absolute"] == pytest.approx((3 / 5 + 3 / 5 + 0) / 3)
    assert row["at_size_absolute"] == pytest.approx(1 / 3)
    # By how much worse the metric gets: 5 wrong, 2 right, -1 right, -2 wrong; then as before.
    assert row["roc_signed"] == pytest.approx((4 / 5 + 4 / 5 + 0) / 3)
    assert row["at_size_signed"] == pytest.approx(2 / 3)
    assert not row["same_weights"]


def test_nodes_and_heads_of_circuits_of_edges(first: Circuit, second: Circuit) -> None:
    frame = circuits.compare([first, second], reference=first).frame
    assert frame["reference"].unique().tolist() == ["circuit 1"]
    assert frame["circuit"].unique().tolist() == ["circuit 2"]
    nodes, heads = only_row(frame, level="nodes"), only_row(frame, level="heads")
    assert (nodes["n_both"], nodes["n_parts"], nodes["value"]) == (2, 2, 1.0)
    assert (heads["n_both"], heads["n_parts"], heads["p_value"]) == (1, 1, 1.0)
    assert math.isnan(nodes["roc_absolute"])
    assert nodes["n_scored"] == 0


def test_a_loss_has_the_other_sign(first: Circuit) -> None:
    """The same finding in two metrics, of which one falls where the other one rises."""
    turned = {part: Score(-score.value) for part, score in first.scores.items()}
    loss = replace(first, scores=turned, origin=replace(first.origin, higher_is_better=False))
    row = only_row(circuits.compare([first, loss], level="edges").frame, circuit="circuit 1")
    assert row["spearman_signed"] == pytest.approx(1)
    assert row["same_weights"]


def test_the_null_is_what_counting_says() -> None:
    for n, a, b in [(6, 3, 2), (5, 4, 3), (4, 0, 2), (3, 3, 3), (7, 1, 6)]:
        mine = set(range(a))
        draws = [mine & set(drawn) for drawn in combinations(range(n), b)]
        shared = [len(each) for each in draws]
        for seen in range(min(a, b) + 1):
            at_random = chance(n, a, b, seen)
            assert at_random.n_both == pytest.approx(sum(shared) / len(shared))
            assert at_random.jaccard == pytest.approx(
                sum(x / (a + b - x) for x in shared) / len(shared)
            )
            assert at_random.p_value == pytest.approx(sum(x >= seen for x in shared) / len(shared))
    assert math.isnan(chance(5, 0, 0, 0).jaccard)


def test_the_null_is_exact_where_it_is_large() -> None:
    n, a, b, seen = 32_491, 300, 420, 30
    terms = [math.comb(a, x) * math.comb(n - a, b - x) for x in range(seen, a + 1)]
    assert chance(n, a, b, seen).p_value == float(Fraction(sum(terms), math.comb(n, b)))
    assert chance(n, a, b, 300).p_value == 0.0 or chance(n, a, b, 300).p_value < 1e-300


def slow_roc(scores: list[float], positive: list[bool], n_hits: int, n_parts: int) -> float:
    """Sum of (1 - x_i) (y_i - y_(i-1)) over thresholds, the last of which takes everything."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores), reverse=True):
        taken = [is_hit for s, is_hit in zip(scores, positive, strict=True) if s >= threshold]
        points.append((taken.count(False) / (n_parts - n_hits), taken.count(True) / n_hits))
    points.append((1.0, 1.0))
    return sum((1 - x) * (y - before) for (_, before), (x, y) in pairwise(points))


def test_curves_equal_loops_over_thresholds() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 8, 40):
        for _ in range(20):
            scores = rng.integers(0, 6, n).astype(float)
            scores[rng.random(n) < 0.1] = np.inf
            is_hit = np.append(rng.random(n - 2) < 0.4, [True, False])
            n_hits, n_parts = int(is_hit.sum()) + 2, n + 7
            found = Finding.of(scores, is_hit, n_hits, n_parts)
            expected = slow_roc(scores.tolist(), is_hit.tolist(), n_hits, n_parts)
            assert found.roc_area == pytest.approx(expected, abs=1e-12)
            order = sorted(zip((-scores).tolist(), is_hit.tolist(), strict=True))
            best = [each for _, each in order][:n_hits]
            unscored = [False] * (n_parts - n - 2) + [True] * 2
            best += unscored[: n_hits - len(best)]
            assert found.at_size == pytest.approx(sum(best) / n_hits)
            taken, right = found.corners()
            x, y = (taken - right) / (n_parts - n_hits), right / n_hits
            assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
            assert ((1 - x[1:]) * np.diff(y)).sum() == pytest.approx(expected, abs=1e-12)


def test_pessimistic_areas_that_others_publish() -> None:
    """Points (0, 0), (x, x), (1, 1) have the area x (1 - x) there (Conmy et al.'s code)."""
    for x in (0.25, 0.5):
        scores, is_hit = np.zeros(4), np.array([True, False] * 2)
        one_of_two = np.arange(8) < 8 * x
        hits = np.concatenate([one_of_two, one_of_two])
        is_hit = np.repeat([True, False], 8)
        found = Finding.of(hits.astype(float), is_hit, 8, 16)
        assert found.roc_area == pytest.approx(x * (1 - x))
        assert Finding.of(scores, is_hit[6:10], 2, 4).roc_area == 0


def test_infinite_scores_have_ranks_too() -> None:
    """The ranks 1, 2, 3 beside 1, 3, 2: a correlation of 1/2."""
    names = ["embed->m0", "m0->logits", "a0.h0->logits"]
    a = scored(names, dict(zip(names, [-math.inf, -3.0, 2.0], strict=True)))
    b = scored(names, dict(zip(names, [-5.0, 4.0, 1.0], strict=True)))
    row = only_row(circuits.compare([a, b], level="edges").frame, circuit="circuit 1")
    assert row["spearman_signed"] == pytest.approx(1 / 2)
    assert row["spearman_absolute"] == pytest.approx(1)


@pytest.mark.parametrize("level", ["edges", "nodes", "heads"])
def test_random_circuits_equal_a_plain_recomputation(level: Any) -> None:
    shape = Graph(2, 3)
    a, b = (random_circuit(shape, level, seed) for seed in (1, 2))
    row = only_row(circuits.compare([a, b], level=level).frame, circuit="circuit 1")
    every: list[Part] = list(a.scores)
    in_a, in_b = ([part in each.parts for part in every] for each in (a, b))
    both = sum(x and y for x, y in zip(in_a, in_b, strict=True))
    assert row["n_parts"] == len(every)
    assert row["value"] == pytest.approx(both / (sum(in_a) + sum(in_b) - both))
    losses = [[-each.scores[part].value for part in every] for each in (a, b)]
    assert row["spearman_signed"] == pytest.approx(
        pd.Series(losses[0]).rank().corr(pd.Series(losses[1]).rank())
    )
    n_b = sum(in_b)
    assert row["roc_signed"] == pytest.approx(slow_roc(losses[0], in_b, n_b, len(every)))
    sizes = [abs(x) for x in losses[0]]
    assert row["roc_absolute"] == pytest.approx(slow_roc(sizes, in_b, n_b, len(every)))
    top = sorted(range(len(every)), key=lambda i: -sizes[i])[:n_b]
    assert row["at_size_absolute"] == pytest.approx(sum(in_b[i] for i in top) / n_b)


def test_an_empty_circuit_shares_nothing(first: Circuit) -> None:
    empty = replace(first, parts=frozenset(), scores={})
    frame = circuits.compare([empty, first], level="edges").frame
    row = only_row(frame, circuit="circuit 1")
    assert (row["value"], row["recall"], row["f1"], row["p_value"]) == (0, 0, 0, 1)
    assert math.isnan(row["precision"])
    assert math.isnan(only_row(frame, circuit="circuit 2")["roc_absolute"])
    both = circuits.compare([empty, replace(empty, classes={})], level="edges").frame
    assert both["value"].isna().all()


def test_parts_of_only_one(first: Circuit, second: Circuit) -> None:
    endless = replace(second, scores={**second.scores, part_of("embed->m0"): Score(math.inf)})
    frame = circuits.compare([first, endless], show="parts").frame
    parts = frame[["only_in", "part", "rank"]].values.tolist()
    assert parts == [
        ["circuit 1", "embed->a0.h0<q>", 1],
        ["circuit 1", "m0->logits", 3],
        ["circuit 2", "embed->m0", 1],
    ]
    values = frame[["value", "value_other"]].fillna(99).values.tolist()
    assert values == [[4.0, 1.0], [0.0, 99], [99, 99]]
    same = circuits.compare([first, replace(first, classes={})], show="parts")
    assert same.frame.empty
    assert json.loads(same.to_json())["rows"] == []


def test_curves_end_where_everything_is_taken(first: Circuit, second: Circuit) -> None:
    roc = circuits.compare([second], reference=first, show="roc")
    of_size = roc.frame[roc.frame["ranking"] == "absolute"]
    points = of_size[["size", "false_positive_rate", "value"]].to_numpy()
    by_hand = [[0, 0, 0], [2, 2 / 5, 0], [4, 2 / 5, 2 / 3], [7, 1, 2 / 3], [8, 1, 1]]
    assert points == pytest.approx(np.array(by_hand))
    curve = circuits.compare([second], reference=first, show="precision-recall").frame
    of_size = curve[curve["ranking"] == "absolute"]
    points = of_size[["size", "recall", "value"]].to_numpy()
    by_hand = [[2, 0, 0], [4, 2 / 3, 2 / 4], [7, 2 / 3, 2 / 7], [8, 1, 3 / 8]]
    assert points == pytest.approx(np.array(by_hand))
    assert len(roc.plot().axes[0].lines) == 2


def test_published_circuits_are_compared_by_name(tmp_path: Path) -> None:
    """IOI has 26 heads, greater-than eight of 144; edges against heads are seen as heads."""
    ioi = read_circuit("ioi")
    file = replace(ioi, classes={}).save(tmp_path / "found.json")
    result = circuits.compare(["ioi", file])
    assert result.frame["value"].tolist() == [1.0, 1.0]
    assert result.frame["n_parts"].tolist() == [144, 144]
    assert result.frame["n_both"].tolist() == [26, 26]
    assert result.provenance.command == f"circuits compare ioi {file}"
    assert (result.provenance.model, result.provenance.checksum) == ("gpt2", "")
    edges = Circuit(
        ioi.graph, frozenset(map(part_of, ["embed->a9.h9<q>", "a9.h9->logits"])), ioi.origin
    )
    row = only_row(circuits.compare([edges, "ioi"]).frame, circuit="circuit 1")
    assert (row["level"], row["n_circuit"], row["n_both"]) == ("heads", 1, 1)


def test_the_folder_of_a_saved_result_has_a_circuit(first: Circuit, tmp_path: Path) -> None:
    saved = circuits.compare([first, replace(first, classes={})])
    folder = replace(saved, circuit=first).save(tmp_path / "run.1")
    assert read_circuit(folder) == first
    names = circuits.compare([folder, first], level="edges").frame["circuit"].tolist()
    assert names == ["run.1", "circuit 2"]
    with pytest.raises(CircuitsError, match="no file with a circuit"):
        read_circuit(saved.save(tmp_path / "other"))


def test_positions_are_told_apart_where_asked() -> None:
    ioi = read_circuit("ioi")
    moved = replace(
        ioi,
        parts=frozenset(p.at("S1") if str(p) == "a9.h9@END" else p for p in ioi.parts),  # type: ignore[union-attr]
        classes={},
    )
    wherever = circuits.compare([ioi, moved]).frame
    assert wherever["value"].tolist() == [1.0, 1.0]
    apart = circuits.compare([ioi, moved], positions=True).frame
    n_at = len({p.position for p in (*ioi.parts, *moved.parts)})  # type: ignore[union-attr]
    assert apart["n_parts"].tolist() == [144 * n_at] * 2
    n = len(ioi.parts)
    assert apart["value"].tolist() == pytest.approx([(n - 1) / (n + 1)] * 2)
    with pytest.raises(CircuitsError, match="circuit 2 has parts that act at every position"):
        circuits.compare([ioi, ioi.everywhere()], positions=True)


def test_neurons_need_a_model_to_be_counted() -> None:
    model = circuits.load("compiled")
    two = [Circuit.of(model, names, level="neurons") for names in (["m0.n1", "m0.n2"], ["m0.n1"])]
    row = only_row(circuits.compare(two).frame, circuit="circuit 1")
    assert pd.isna(row["n_parts"])
    assert math.isnan(row["p_value"])
    assert (row["level"], row["value"]) == ("neurons", 0.5)
    known = only_row(circuits.compare(two, model=model).frame, circuit="circuit 1")
    assert known["n_parts"] == model.cfg.n_layers * model.cfg.d_mlp
    assert known["p_value"] == pytest.approx(2 / known["n_parts"])


def test_bad_input_is_one_sentence(first: Circuit, second: Circuit, tmp_path: Path) -> None:
    model = circuits.load("compiled")
    other = Circuit.of(model, ["embed->logits"])
    neurons = Circuit(TINY, frozenset([part_of("m0.n3")]), Origin("tiny"), level="neurons")
    bare = replace(first, scores={})
    empty = replace(bare, parts=frozenset())
    cases: list[tuple[list[Any], dict[str, Any], str]] = [
        ([first], {}, "two circuits or more, and one was given"),
        ([], {}, "and none were given"),
        (["ioi", "ioi"], {}, "ioi was given twice"),
        (["ioj", first], {}, "ioj is no file with a circuit, .* did you mean 'ioi'"),
        ([tmp_path, first], {}, "is no file"),
        ([first, other], {}, "1 layers of 1 heads, and circuit 2 is of compiled, with 6 layers"),
        ([first, neurons], {}, "no level in common: circuit 1 of edges, circuit 2 of neurons"),
        ([first, second], {"level": "neurons"}, "choose edges, nodes, heads"),
        ([first, second], {"show": "rok"}, "choose overlap, parts, roc or precision-recall"),
        ([bare, bare], {"show": "roc"}, "compare circuits that were scored, at the level"),
        ([first], {"reference": empty, "show": "roc"}, "a reference that has parts"),
        ([first, second], {"model": model}, "the circuit is of tiny, with 1 layers"),
    ]
    for given, options, said in cases:
        with pytest.raises(CircuitsError, match=said):
            circuits.compare(given, **options)
    with pytest.raises(CircuitsError, match="takes a list of circuits"):
        circuits.compare("ioi")


def test_the_command(first: Circuit, second: Circuit, tmp_path: Path) -> None:
    """Without a model: neither is one loaded, nor does the default one count."""
    a, b = first.save(tmp_path / "a.json"), second.save(tmp_path / "b.json")
    names = [str(a), str(b)]

    def run(*words: str, code: int = 0) -> str:
        env = {"CIRCUITS_MODEL": "no such model"}
        done = CliRunner().invoke(app, ["compare", *words, "-q"], prog_name="circuits", env=env)
        assert done.exit_code == code, done.output
        return done.output

    assert "some of the circuits are of other weights" in run(*names)
    assert json.loads(run(*names, "--json"))["provenance"]["command"] == (
        f"circuits compare {a} {b}"
    )
    assert "2 edges in" in run(*names, "--show", "parts")
    many = [str(replace(first, classes={}).save(tmp_path / f"{i}.json")) for i in range(3)]
    assert "Jaccard index; all other numbers" in run(*names, *many)
    for show in ("overlap", "parts", "roc", "precision-recall"):
        for options in ([], ["--reference", str(a), "--level", "edges"]):
            file = tmp_path / f"{show}.png"
            run(*names, "--show", show, *options, "--figure", str(file))
            assert file.read_bytes().startswith(b"\x89PNG")
            file.unlink()
    page = tmp_path / "page.html"
    run(*names, "--html", str(page))
    assert "How alike are" in page.read_text()
    assert "is no file with a circuit" in run("nothing.json", str(a), code=2)
    assert "the circuit is of tiny" in run(*names, "--model", "compiled", code=2)
    assert "--revision is of a model" in run(*names, "--revision", "main", code=2)


def test_a_result_is_read_as_it_was_saved(first: Circuit, second: Circuit, tmp_path: Path) -> None:
    result = circuits.compare([first, second])
    again = circuits.Result.load(result.save(tmp_path / "saved"))
    assert again.to_json() == result.to_json()
    assert "tiny ·" in again._repr_html_()
