"""Experiments: a claim holds with its whole interval and its control; its bundle is read back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import ROOT
from typer.testing import CliRunner

from circuits import experiment
from circuits.analyses.ablate import ablate
from circuits.checkpoints import load
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.experiment import Bundle, Check, Finding, check, conduct, experiments
from circuits.result import Result

SCRIPT = '''"""A claim about sorting."""

from circuits.analyses.ablate import ablate
from circuits.experiment import Finding, check

CLAIM = "Head a0.h0 matters."
MODEL = "sort-abc"


def run(model, *, seed, quick):
    found = ablate(model, all_heads=True, task="sorting", n=10 if quick else 20, seed=seed)
    rows = found.frame.set_index("component").loc
    return Finding(
        (
            check("ablating it hurts", rows["a0.h0"], "logits", below=0),
            check("another matters less", rows["a0.h1"], "logits", below=1000, control=True),
        ),
        {"heads": found},
    )
'''


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = tmp_path / "experiments"
    home.mkdir()
    (home / "sorts.py").write_text(SCRIPT)
    (home / "helper.py").write_text("NUMBER = 1\n")
    monkeypatch.setattr(experiment, "_HOMES", (home,))
    experiments.cache_clear()
    yield home
    experiments.cache_clear()


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ({"value": 1.0, "above": 0.5}, True),
        ({"value": 0.5, "above": 0.5}, False),
        ({"value": 1.0, "above": 0.5, "ci_low": 0.4, "ci_high": 1.6}, False),
        ({"value": 1.0, "below": 1.5, "ci_low": 0.4, "ci_high": 1.6}, False),
        ({"value": 1.0, "below": 2.0, "above": 0.0, "ci_low": 0.4, "ci_high": 1.6}, True),
        ({"value": float("nan"), "above": 0.0}, False),
    ],
)
def test_a_check_holds_with_its_whole_interval(given: dict[str, float], holds: bool) -> None:
    assert Check("it is so", **given).holds is holds  # type: ignore[arg-type]


def test_a_check_needs_a_bound_and_a_claim_a_control() -> None:
    with pytest.raises(CircuitsError, match="against nothing"):
        Check("it is so", 1.0)
    good = Check("it is so", 1.0, above=0)
    with pytest.raises(CircuitsError, match="a control"):
        Finding((good,), {})
    with pytest.raises(CircuitsError, match="evidence"):
        Finding((Check("not so", 0.0, below=1, control=True),), {})


def test_rows_without_an_interval_are_checked_by_value() -> None:
    one = check("it is so", {"value": 2, "ci_low": float("nan"), "n": 1}, above=1)
    assert (one.ci_low, one.ci_high, one.n, one.holds) == (None, None, 1, True)


def test_an_experiment_is_listed_conducted_and_read_back(scripts: Path, tmp_path: Path) -> None:
    assert experiments() == {"sorts": "Head a0.h0 matters."}
    bundle = conduct("sorts", quick=True, out=tmp_path / "out")
    assert bundle.model == "sort-abc"
    assert bundle.command == "circuits run sorts --quick"
    again = Bundle.load(tmp_path / "out" / "sorts")
    assert again.finding.checks[0].says == "ablating it hurts"
    assert again.finding.holds == bundle.finding.holds
    table = Result.load(tmp_path / "out" / "sorts" / "heads")
    assert len(table.frame) == 9
    assert (tmp_path / "out/sorts/heads.svg").read_text().startswith("<?xml")
    expected = ablate(load("sort-abc"), all_heads=True, task="sorting", n=10)
    assert table.to_json() == expected.to_json()
    conduct("sorts", quick=True, seed=3, out=tmp_path / "out")  # takes its place
    assert Bundle.load(tmp_path / "out/sorts").seed == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sorts"]


def test_the_command_prints_the_verdict(scripts: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["run", "--list"])
    assert "Head a0.h0 matters." in listed.stdout
    done = runner.invoke(app, ["run", "sorts", "--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert "evidence" in done.stdout
    assert "The claim" in done.stdout
    spoken = runner.invoke(app, ["run", "sorts", "--quick", "--json", "--out", str(tmp_path)])
    assert json.loads(spoken.stdout)["claim"] == "Head a0.h0 matters."


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "sort"], "did you mean 'sorts'"),
        (["run"], "--list"),
        (["run", "sorts", "--model", "minni"], "did you mean"),
    ],
)
def test_bad_input_is_one_error(arguments: list[str], says: str, scripts: Path) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_nothing_is_run_for_a_folder_that_cannot_be_written(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitsError, match="cannot be written"):
        conduct("sorts", out=tmp_path / "file")
    other = tmp_path / "other" / "sorts"
    other.mkdir(parents=True)
    (other / "precious.txt").write_text("mine")
    with pytest.raises(CircuitsError, match="other files"):
        conduct("sorts", quick=True, out=tmp_path / "other")
    assert (other / "precious.txt").read_text() == "mine"


def test_a_broken_bundle_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CircuitsError, match="cannot be read"):
        Bundle.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CircuitsError, match="no experiment's manifest"):
        Bundle.load(tmp_path)


def test_a_bundle_in_a_notebook(scripts: Path, tmp_path: Path) -> None:
    page = conduct("sorts", quick=True, out=tmp_path)._repr_html_()
    assert "Head a0.h0 matters." in page
    assert "circuits run sorts --quick" in page
    assert page.count("<tr>") == 3


@pytest.mark.slow
def test_a_script_is_a_command_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "experiments/causal_graph.py", "--quick", "--model", "nope"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no file called 'nope'" in done.stderr
    for name in experiments():
        assert '__name__ == "__main__"' in (ROOT / "experiments" / f"{name}.py").read_text()
