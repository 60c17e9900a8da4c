"""Circuits in the files of EAP-IG and MIB, and what no file of a circuit may do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from circuit_samples import random_circuit, written

from circuits.circuit import Circuit, Graph, Level, Origin, Score, part_of
from circuits.components import parse
from circuits.errors import CircuitsError

# One layer of one head, by hand: of the eight edges two are in the graph. Corrupting the input
# raises this loss, on the whole by 0.5 + 0.25.
CFG = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8}
SCORES = {
    "input->a0.h0<q>": 0.5,
    "input->a0.h0<k>": 0.0,
    "input->a0.h0<v>": 0.25,
    "input->m0": 0.0,
    "a0.h0->m0": -2.0,
    "input->logits": 0.0,
    "a0.h0->logits": 1.5,
    "m0->logits": 0.0,
}
KEPT = ("input->a0.h0<q>", "a0.h0->logits")
NODES = ("input", "a0.h0", "m0", "logits")
READERS = ("a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits")
OURS = ["embed->a0.h0<q>", "a0.h0->logits"]


def eap_json(**changes: Any) -> dict[str, Any]:
    content = {
        "cfg": CFG,
        "nodes": {name: {"in_graph": name != "m0"} for name in NODES},
        "edges": {name: {"score": s, "in_graph": name in KEPT} for name, s in SCORES.items()},
    }
    return content | changes


def eap_pt(writers: tuple[str, ...] = NODES[:3], **changes: Any) -> dict[str, Any]:
    names = [[f"{sender}->{receiver}" for receiver in READERS] for sender in writers]
    content = {
        "cfg": CFG,
        "src_nodes": list(writers),
        "dst_nodes": list(READERS),
        "edges_scores": torch.tensor([[SCORES.get(name, 0.0) for name in row] for row in names]),
        "edges_in_graph": torch.tensor([[name in KEPT for name in row] for row in names]),
        "nodes_in_graph": torch.tensor([name != "m0" for name in writers]),
    }
    return content | changes


@pytest.mark.parametrize(
    "kind", ["json", "pt", "pt, other order", "json before 2025", "pt before 2025"]
)
def test_a_graph_of_eap_ig_is_read(kind: str, tmp_path: Path) -> None:
    old_json = eap_json(nodes={name: name != "m0" for name in NODES})
    old_pt = eap_pt(src_nodes={name: name != "m0" for name in NODES[:3]})
    old_pt["edges"] = old_pt.pop("edges_scores")
    del old_pt["nodes_in_graph"]
    content = {
        "json": eap_json(),
        "pt": eap_pt(),
        "pt, other order": eap_pt(("m0", "input", "a0.h0")),
        "json before 2025": old_json,
        "pt before 2025": old_pt,
    }[kind]
    circuit = Circuit.load(written(content, tmp_path / f"graph.{kind.split(',')[0].split()[0]}"))
    assert circuit.graph == Graph(1, 1)
    assert circuit.graph.d_model == 8
    assert [str(edge) for edge in circuit.edges] == OURS
    # Their loss is minus our metric: what raises it is what our metric needs.
    assert {str(part): score.value for part, score in circuit.scores.items()} == {
        name.replace("input", "embed"): -score for name, score in SCORES.items()
    }
    assert circuit.ranked(circuit.scores, signed=True)[0] == part_of("a0.h0->logits")
    assert circuit.origin.checksum is None
    assert "does not say of which model and weights" in str(circuit.origin.source)
    assert "a loss, minus the metric" in str(circuit.origin.selection)


def test_what_scores_are_of(tmp_path: Path) -> None:
    path = written(eap_json(), tmp_path / "graph.json")
    edge = part_of("a0.h0->m0")
    higher = Circuit.load(path, metric="logit_diff")
    assert (higher.scores[edge].value, higher.origin.unit) == (2.0, "logits")
    lower = Circuit.load(path, metric="kl")  # is a loss itself
    assert (lower.scores[edge].value, lower.origin.higher_is_better) == (-2.0, False)
    as_metric = Circuit.load(path, metric="logit_diff", scores_of="metric")
    assert as_metric.scores[edge].value == -2.0
    with pytest.raises(CircuitsError, match="scores_of='sum'"):
        Circuit.load(path, scores_of="sum")  # type: ignore[arg-type]
    with pytest.raises(CircuitsError, match="no metric 'logit_dif'"):
        Circuit.load(path, metric="logit_dif")


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_scores_that_are_of_no_loss_are_not_taken_for_one(suffix: str, tmp_path: Path) -> None:
    edges = {name: {"score": -s, "in_graph": name in KEPT} for name, s in SCORES.items()}
    pt = eap_pt()
    content = (
        eap_json(edges=edges) if suffix == ".json" else pt | {"edges_scores": -pt["edges_scores"]}
    )
    path = written(content, tmp_path / f"graph{suffix}")
    with pytest.raises(CircuitsError, match="add up to -0.75, .* scores_of='metric'"):
        Circuit.load(path)
    circuit = Circuit.load(path, scores_of="metric", metric="logit_diff")
    assert circuit.scores[part_of("a0.h0->logits")].value == -1.5
    assert str(circuit.origin.selection).endswith("changes of logit_diff, on EAP-IG's scale")


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("file", ["c.json", "c.pt"])
@pytest.mark.parametrize("level", ["edges", "nodes", "heads"])
def test_a_circuit_is_read_as_it_was_written_for_eap_ig(
    level: Level, file: str, parallel: bool, tmp_path: Path
) -> None:
    circuit = random_circuit(Graph(3, 2, parallel=parallel, d_model=8), level)
    path = circuit.save(tmp_path / file, format="eap-ig")
    again = Circuit.load(path, scores_of="loss")
    assert (again.graph, again.level, again.parts) == (circuit.graph, level, circuit.parts)
    assert again.scores == circuit.scores
    assert again.edges == circuit.edges


def test_a_loss_is_written_as_it_is(tmp_path: Path) -> None:
    circuit = random_circuit(Graph(1, 1, d_model=8))
    lower = replace(circuit, origin=Origin("mini", metric="kl", higher_is_better=False))
    for each, sign in ((circuit, -1), (lower, 1)):
        path = each.save(tmp_path / "c.json", format="eap-ig")
        edges = json.loads(path.read_text())["edges"]
        assert edges["a0.h0->m0"]["score"] == sign * each.scores[part_of("a0.h0->m0")].value
    assert Circuit.load(path, metric="kl", scores_of="loss").scores == lower.scores


def test_without_scores(tmp_path: Path) -> None:
    circuit = Circuit(Graph(2, 2, d_model=8), frozenset(map(part_of, OURS)), Origin("mini"))
    for file in ("c.json", "c.pt"):
        again = Circuit.load(circuit.save(tmp_path / file, format="eap-ig"))
        assert (again.parts, again.scores) == (circuit.parts, {})
    tensors = circuit.save(tmp_path / "p.pt", format="auto-circuit")
    assert Circuit.load(tensors, scores_of="loss").parts == circuit.parts


def _edges(**changes: dict[str, Any]) -> dict[str, Any]:
    edges = {name: {"score": s, "in_graph": False} for name, s in SCORES.items()}
    return eap_json(edges=edges | changes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_edges(**{"inpt->m0": {"in_graph": True}}), "inpt->m0, which .* did you mean 'input->m0'"),
        (_edges(**{"m0->a0.h0<q>": {"in_graph": True}}), "names m0->a0.h0<q>, which"),
        (eap_json(nodes=dict.fromkeys([*NODES, "a0.h1"], True)), "names a0.h1, which"),
        (eap_json(nodes={"input": True}), "has 4 nodes .* and the file names 1"),
        (eap_json(cfg=CFG | {"n_layers": 10**9}), "and the file names 4"),
        (eap_json(cfg=CFG | {"n_layers": 0}), "n_layers=0"),
        (eap_json(cfg=CFG | {"d_model": "wide"}), "d_model='wide'"),
        (_edges(**{"input->m0": {"in_graph": "no"}}), "in_graph is 'no'"),
        (eap_json(cfg={}), "no graph of EAP-IG: KeyError"),
        (eap_json(nodes=3), "no graph of EAP-IG"),
        (_edges(**{"input->m0": {"score": "much", "in_graph": True}}), "no graph of EAP-IG"),
        (
            eap_json(nodes={name: {"in_graph": True, "neurons": [True]} for name in NODES}),
            "holds neurons: .* for which this package has no name",
        ),
        (eap_pt(src_nodes=["input", "a0.h1", "m0"]), "names a0.h1, .* did you mean 'a0.h0'"),
        (eap_pt(dst_nodes=[*READERS[:4], "m0"]), "each of its model's 5 nodes once"),
        (eap_pt(edges_scores=torch.zeros(5, 3)), r"shape \(5, 3\), and its nodes \(3, 5\)"),
        (eap_pt(neurons_in_graph=torch.zeros(3, 8)), "neurons_in_graph"),
        (eap_pt(cfg=CFG | {"n_layers": 2}), "has 6 nodes"),
        ({"edges_in_graph": torch.zeros(3, 5)}, "lacks cfg, src_nodes, dst_nodes"),
    ],
)
def test_what_is_no_graph_is_refused(content: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / ("graph.pt" if "edges_in_graph" in content else "graph.json")
    with pytest.raises(CircuitsError, match=said):
        Circuit.load(written(content, path))


def test_what_a_format_cannot_say_is_refused(tmp_path: Path) -> None:
    circuit = Circuit(Graph(2, 2, d_model=8), frozenset(map(part_of, OURS)), Origin("mini"))
    at = replace(circuit, parts=frozenset([part_of("a0.h0->logits@END")]))
    neuron = Circuit(circuit.graph, frozenset([parse("m0.n3")]), circuit.origin, level="neurons")
    scored = replace(circuit, scores={part_of(OURS[0]): Score(1.0)})
    endless = replace(circuit, scores={part_of(OURS[1]): Score(-math.inf)})
    attention = Circuit(Graph(2, 2, False, d_model=8), circuit.parts, circuit.origin)
    cases: list[tuple[Circuit, str, str, str]] = [
        (at, "c.json", "eap-ig", "at one position, .* circuit.everywhere()"),
        (at, "c.pt", "auto-circuit", "at one position"),
        (neuron, "c.pt", "eap-ig", "a circuit of neurons"),
        (attention, "c.pt", "eap-ig", "this circuit's model has none"),
        (replace(circuit, graph=Graph(2, 2)), "c.pt", "eap-ig", "how wide the model is"),
        (scored, "c.pt", "auto-circuit", "a0.h0->logits is kept without a score"),
        (endless, "c.json", "eap-ig", "a0.h0->logits has an infinite score, which JSON cannot say"),
        (circuit, "c.txt", "eap-ig", "ends in .json or .pt"),
        (circuit, "c.json", "auto-circuit", "ends in .pt"),
        (circuit, "c.json", "eapig", "no format 'eapig'; .* did you mean 'eap-ig'"),
    ]
    for each, file, to, said in cases:
        with pytest.raises(CircuitsError, match=said):
            each.save(tmp_path / file, format=to)  # type: ignore[arg-type]
    assert at.everywhere().save(tmp_path / "c.json", format="eap-ig").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_infinite_scores_stay_infinite_in_tensors(tmp_path: Path) -> None:
    edges = list(map(part_of, OURS))
    scores = {edges[0]: Score(-2.0), edges[1]: Score(-math.inf)}
    circuit = Circuit(Graph(2, 2, d_model=8), frozenset(edges), Origin("mini"), scores)
    again = Circuit.load(circuit.save(tmp_path / "c.pt", format="eap-ig"))
    assert {part: s.value for part, s in again.scores.items() if s.value} == {
        edges[0]: -2.0,
        edges[1]: -math.inf,
    }


def test_options_that_a_file_does_not_take(tmp_path: Path) -> None:
    own = random_circuit(Graph(1, 1)).save(tmp_path / "own.json")
    graph_file = written(eap_json(), tmp_path / "graph.json")
    for path, option, said in (
        (own, {"metric": "kl"}, "takes no metric='kl'"),
        (own, {"scores_of": "loss"}, "takes no scores_of='loss'"),
        (graph_file, {"entry": "a"}, "takes no entry='a'"),
    ):
        with pytest.raises(CircuitsError, match=said):
            Circuit.load(path, **option)  # type: ignore[arg-type]
    with pytest.raises(CircuitsError, match="cannot be read"):
        Circuit.load(tmp_path / "none.json")


class _Program:
    """What a pickle can hold: a call."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return getattr, ("a", "upper")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"edges_in_graph": _Program()}, tmp_path / "graph.pt")
    with pytest.raises(CircuitsError, match="getattr, which may run code"):
        Circuit.load(tmp_path / "graph.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "graph.pt").read_bytes()[:100])
    with pytest.raises(CircuitsError, match="truncated"):
        Circuit.load(tmp_path / "cut.pt")


@pytest.mark.parametrize("parallel", [False, True])
def test_against_eap_ig(parallel: bool, tmp_path: Path) -> None:
    theirs = pytest.importorskip("eap.graph").Graph
    g = theirs.from_model(CFG | {"n_layers": 3, "n_heads": 2, "parallel_attn_mlp": parallel})
    random = torch.randn(g.scores.shape, generator=torch.Generator().manual_seed(0))
    g.scores[:] = random * g.real_edge_mask
    g.apply_topn(30, True, prune=True)
    g.to_json(str(tmp_path / "a.json"))
    g.to_pt(str(tmp_path / "a.pt"))
    for file in ("a.json", "a.pt"):
        circuit = Circuit.load(tmp_path / file, scores_of="loss")
        assert {
            str(edge).replace("embed", "input"): -s.value for edge, s in circuit.scores.items()
        } == {name: edge.score.item() for name, edge in g.edges.items()}
        assert {str(edge).replace("embed", "input") for edge in circuit.parts} == {
            name for name, edge in g.edges.items() if edge.in_graph
        }
        assert circuit.pruned().parts == circuit.parts
        for ours, load in (("b.json", theirs.from_json), ("b.pt", theirs.from_pt)):
            again = load(str(circuit.save(tmp_path / ours, format="eap-ig")))
            assert again.cfg == g.cfg
            for name in ("scores", "in_graph", "nodes_in_graph"):
                assert torch.equal(getattr(again, name), getattr(g, name)), name


def test_against_eap_ig_of_nodes(tmp_path: Path) -> None:
    theirs = pytest.importorskip("eap.graph").Graph
    g = theirs.from_model(CFG | {"n_layers": 3, "n_heads": 2}, node_scores=True)
    g.nodes_scores[:] = torch.randn(10, generator=torch.Generator().manual_seed(0)).abs()
    g.apply_topn(6, True, level="node", prune=True)
    g.to_pt(str(tmp_path / "a.pt"))
    circuit = Circuit.load(tmp_path / "a.pt")
    assert circuit.level == "nodes"
    assert graph_mask(circuit) == (g.in_graph & g.real_edge_mask).T.tolist()
    for ours, load in (("b.json", theirs.from_json), ("b.pt", theirs.from_pt)):
        again = load(str(circuit.save(tmp_path / ours, format="eap-ig")))
        assert torch.equal(again.in_graph, g.in_graph & g.real_edge_mask)
        assert torch.equal(again.nodes_in_graph, g.nodes_in_graph)
        assert torch.equal(again.nodes_scores[1:], g.nodes_scores[1:])  # the input is no part


def graph_mask(circuit: Circuit) -> list[list[bool]]:
    mask: list[list[bool]] = circuit.graph.mask(circuit.edges).tolist()
    return mask
