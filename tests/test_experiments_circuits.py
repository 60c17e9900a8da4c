"""The experiment circuit_discovery: which method finds the circuit that exact patching finds?"""

from __future__ import annotations

import numpy as np
import pytest
from word_model import task_model

from circuits.checkpoints import load
from circuits.circuit import Circuit, graph
from circuits.experiment import script


@pytest.mark.slow
def test_the_largest_edges_are_found_and_do_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("circuit_discovery")
    monkeypatch.setattr(module, "QUICK_TASKS", {"greater-than": 1})
    finding = module.run(load("mini"), seed=1, quick=True)
    shares = finding.tables["shared_greater-than"].frame.set_index(["method", "edges"])["value"]
    assert shares["eap-ig", "5"] > 0.4 > 0.2 > shares["random", "5"]
    alone = finding.tables["faithfulness_greater-than"].frame.set_index(["method", "edges"])
    assert alone["value"]["exact", "20"] > 0.7 > 0.3 > abs(alone["value"][module.REWIRED, "5"])
    assert set(finding.tables["untrained"].frame["weights"]) == {"trained", "untrained"}


def test_an_untrained_model_has_no_circuit_to_discover() -> None:
    finding = script("circuit_discovery").run(task_model(), quick=True)
    assert not finding.holds
    tables = finding.tables
    for name in ("shared_ioi", "shared_greater-than"):
        assert tables[name].frame["value"].between(0, 1).all()
    ranks = tables["ranks"].frame.set_index(["task", "method"])["value"]
    assert ranks["ioi", "eap-ig"] > 0.8 > abs(ranks["ioi", "random"])


def test_edges_in_common_are_those_of_the_largest_size() -> None:
    overlap = script("circuit_discovery").overlap
    first, second = np.array([5.0, -4, 0.1, 1, 0]), np.array([-0.1, 3, 0.2, 2, 0])
    assert overlap(first, second, 1) == 0
    assert overlap(first, second, 2) == 0.5
    assert overlap(first, second, 3) == 2 / 3
    assert overlap(first, second, 5) == 1


def test_rewired_edges_keep_their_readers() -> None:
    module, model = script("circuit_discovery"), load("compiled")
    edges = ["embed->a0.h1<q>", "a0.h1->a1.h1<k>", "m0->a1.h1<k>", "a1.h1->logits"]
    circuit = Circuit.of(model, edges)
    whole = graph(model.cfg)
    kept = [module.rewired(circuit, np.random.default_rng(seed)).anywhere for seed in range(9)]
    for mask in kept:
        assert (mask.sum(1) == whole.mask(circuit.edges).sum(1)).all()
        assert not (mask & ~whole.exists).any()
    assert len({mask.tobytes() for mask in kept}) > 5
