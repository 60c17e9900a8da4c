"""The circuits that come with the package: what the papers say, in names that our tasks have."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from word_model import word_model

import circuits
from circuits.circuit import Circuit, graph, part_of, published
from circuits.circuit.publications import FOLDER
from circuits.components import Component, Edge
from circuits.config import GPT2_SIZES
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import make
from circuits.prompts.greater_than import NOUNS

# Hanna et al. 2023, whose edges follow from what each group reads.
EARLY_HEADS, EARLY_MLPS = ("a0.h1", "a0.h3", "a0.h5"), ("m0", "m1", "m2", "m3")
READERS = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1")
LATE_MLPS = ("m8", "m9", "m10", "m11")


def test_ioi_has_the_26_heads_of_the_paper() -> None:
    ioi = Circuit.published("ioi")
    assert len(ioi.heads) == len(ioi.parts) == len(ioi.classes) == 26
    assert Counter(ioi.classes.values()) == {
        "name mover": 3,
        "backup name mover": 8,
        "negative name mover": 2,
        "S-inhibition": 4,
        "induction": 4,
        "duplicate token": 3,
        "previous token": 2,
    }
    at = {
        of: {
            part.position
            for part in ioi.parts
            if isinstance(part, Component) and ioi.classes[part.at(None)] == of
        }
        for of in ioi.classes.values()
    }
    assert at.pop("induction") == at.pop("duplicate token") == {"S2"}
    assert at.pop("previous token") == {"S1+1"}
    assert set().union(*at.values()) == {"END"}


def test_greater_than_has_the_edges_between_the_groups_of_the_paper() -> None:
    circuit = Circuit.published("greater-than")
    late = (*READERS, *LATE_MLPS)
    expected = set()
    for edge in graph(GPT2_SIZES["gpt2"]):
        sender, receiver = str(edge.sender), str(edge.receiver).split("<")[0]
        slot = edge.receiver.slot
        to_early = receiver in EARLY_MLPS and sender in ("embed", "a0.h1", *EARLY_MLPS)
        to_readers = receiver in READERS and sender in EARLY_HEADS + EARLY_MLPS and slot != "q"
        if to_early or to_readers or (sender == "embed" and receiver in EARLY_HEADS):
            expected.add(Edge(edge.sender, edge.receiver.at("YY")))
        if receiver in (*LATE_MLPS, "logits") and sender in late:
            expected.add(Edge(edge.sender, edge.receiver.at("END")))
    assert circuit.parts == expected
    assert circuit.pruned().parts == circuit.parts
    assert {*map(str, circuit.nodes)} == {*EARLY_HEADS, *EARLY_MLPS, *late}
    assert {*circuit.classes} == {*circuit.nodes}


def test_positions_are_roles_of_the_task_that_is_named() -> None:
    digits = [f"{year:02d}" for year in range(100)]
    centuries = [f" {century}" for century in range(11, 18)]
    years = word_model([*digits, *centuries, *(f" {noun}" for noun in NOUNS[:3])])
    for name, model in {"ioi": circuits.load(), "greater-than": years}.items():
        circuit = Circuit.published(name)
        prompts = make(str(circuit.origin.task), model, 2)
        assert circuit.origin.metric == prompts.metric
        assert circuit.origin.unit == get_metric(prompts.metric).unit
        ends = [part.receiver if isinstance(part, Edge) else part for part in circuit.parts]
        for position in {end.position for end in ends}:
            prompts.index(str(position))  # or it says which roles there are


@pytest.mark.parametrize("name", published())
def test_every_file_says_where_it_is_from(name: str) -> None:
    circuit = Circuit.published(name)
    assert circuit.to_json() == (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    if circuit.origin.model in GPT2_SIZES:
        assert circuit.graph == graph(GPT2_SIZES[circuit.origin.model])
        assert re.search(r"arXiv \d{4}\.\d{5}", str(circuit.origin.source))
    else:
        circuit.require_fits(circuits.load(circuit.origin.model))


def test_another_name_is_refused() -> None:
    assert published() == sorted(path.stem for path in FOLDER.iterdir())
    with pytest.raises(CircuitsError, match="'greaterthan'; .* did you mean 'greater-than'"):
        Circuit.published("greaterthan")


def test_classes_and_width_are_read_as_they_were_written(tmp_path: Path) -> None:
    model = circuits.load("compiled")
    hand = Circuit.of(model, ["a0.h1", "a1.h1@END"], level="nodes")
    circuit = Circuit(
        hand.graph,
        hand.parts,
        hand.origin,
        level="nodes",
        classes={Component("head", 1, 1): "mövers"},
    )
    again = Circuit.load(circuit.save(tmp_path / "c.json"))
    assert again == circuit
    assert again.graph.d_model == model.cfg.d_model
    assert json.loads(circuit.to_json())["classes"] == {"mövers": ["a1.h1"]}
    assert again.without("a1.h1").classes == circuit.classes
    with pytest.raises(CircuitsError, match="a9.h1 has a class, and is no head or MLP"):
        Circuit(
            hand.graph,
            hand.parts,
            hand.origin,
            level="nodes",
            classes={Component("head", 9, 1): "x"},
        )


def test_a_shape_that_no_model_has_is_refused(tmp_path: Path) -> None:
    content = json.loads(Circuit.published("ioi").to_json())
    content["shape"]["n_layers"] = "twelve"
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(CircuitsError, match="no circuit of this package: its n_layers is 'twelve'"):
        Circuit.load(tmp_path / "c.json")


def test_everywhere() -> None:
    model = circuits.load("compiled")
    edges = ["a0.h1->a1.h1<k>@S1+1", "a0.h1->a1.h1<k>@S2", "a1.h1->logits"]
    everywhere = Circuit.of(model, edges).everywhere()
    assert everywhere.parts == {part_of("a0.h1->a1.h1<k>"), part_of("a1.h1->logits")}
    assert everywhere.everywhere() == everywhere
