"""The experiment induction_emergence: what it measures, and what its claim stands or falls with."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import torch

from circuits.checkpoints import load
from circuits.experiment import Finding, script


@pytest.mark.slow
def test_emergence_trains_and_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("induction_emergence")
    monkeypatch.setattr(module, "QUICK_STEPS", 12)
    monkeypatch.setattr(module, "EVALUATIONS", 4)
    threads = torch.get_num_threads()
    found = module.run(load("mini"), seed=0, quick=True)
    assert isinstance(found, Finding)
    assert not found.holds  # nothing is learned in twelve steps
    losses = found.tables["losses"].frame
    assert set(losses["layers"]) == {"1 layer", "2 layers"}
    assert losses["step"].unique().tolist() == [0, 3, 6, 9, 12]
    best = found.tables["heads"].frame.groupby("layers")["component"].agg(set)
    assert all(name.startswith("a0.h") for name in best["1 layer"])
    assert {name[:2] for name in best["2 layers"]} <= {"a0", "a1"}
    assert (losses["n"] == losses["n"].iloc[0]).any()
    own = found.tables["own"].frame
    assert own.loc[own["measure"] == "induction", "value"].max() > 0.9
    assert torch.get_num_threads() == threads


def test_the_steepest_fall_is_found() -> None:
    loss = [4.0] * 11 + [3.0, 1.0] + [0.5] * 8
    curve = pd.DataFrame({"step": range(0, 210, 10), "value": loss}).assign(
        layers="2 layers", measure="second-copy loss"
    )
    share, where = script("induction_emergence").steepest_fall(curve, 200)
    assert (round(share, 3), where) == (round(3 / 3.5, 3), 120)


def a_training(rise: dict[str, int], heads: dict[str, str]) -> pd.DataFrame:
    """Curves of 100 steps with a score of 0.6 from some step on, at each measure's head."""
    flat = {"second-copy loss": 4.0, "prefix matching": 0.02, "previous-token": 0.05}
    rows = []
    for measure, layers, step in itertools.product(flat, ("1 layer", "2 layers"), range(0, 101, 5)):
        risen = layers == "2 layers" and step >= rise.get(measure, 50)
        late = 0.2 if measure == "second-copy loss" else 0.6
        head = {"component": heads.get(measure, ""), "layers": layers, "measure": measure}
        rows.append({**head, "step": step, "value": late if risen else flat[measure]})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("rise", "below", "fails"),
    [
        ({}, "a0.h3", []),
        ({"previous-token": 55}, "a0.h3", []),
        ({"previous-token": 90}, "a0.h3", ["steps 50 and 90"]),
        ({}, "a1.h2", ["how far a1.h2 is below a1.h1"]),
    ],
)
def test_emergence_is_at_the_same_time_and_above(
    rise: dict[str, int], below: str, fails: list[str]
) -> None:
    module = script("induction_emergence")
    heads = {"prefix matching": "a1.h1", "previous-token": below}
    checks = module.verdict(a_training(rise, heads), 100)
    failed = [c.says for c in checks if not c.holds]
    assert len(failed) == len(fails)
    assert all(what in says for what, says in zip(fails, failed, strict=True))
