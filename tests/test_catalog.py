"""What a folder offers is what its files mark; nothing else has to be told."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from circuits import catalog
from circuits.catalog import METRIC, TASK, Catalog, Entry, Kind, entries, filled, usual
from circuits.errors import CircuitsError
from circuits.interventions import METHODS
from circuits.metrics import METRICS
from circuits.prompts import TASKS, USUAL

KINDS = [value for value in vars(catalog).values() if isinstance(value, Kind)]
FILE = '''"""A file."""


@{mark}
def {name}(model):
    """What is it?

    More.
    """
'''


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of things of which nothing else knows."""
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path)
    (tmp_path / "things").mkdir()
    return tmp_path / "things"


def _listed(dashes: bool = True) -> list[Entry]:
    entries.cache_clear()
    try:
        return list(entries(Kind("things", "thing", "thing", dashes)).values())
    finally:
        entries.cache_clear()


def test_a_file_is_enough(room: Path) -> None:
    (room / "words.py").write_text("def helps() -> None: ...\n")
    (room / "by_hand.py").write_text(FILE.format(mark="thing", name="by_hand"))
    (room / "zoo.py").write_text(FILE.format(mark='thing(usual=1, note="all of it")', name="zoo"))
    first, second = _listed()
    assert (first.name, first.module, first.meaning) == (
        "zoo",
        "circuits.things.zoo",
        "What is it?",
    )
    assert dict(first.said) == {"usual": 1, "note": "all of it"}
    assert (second.name, second.function) == ("by-hand", "by_hand")
    assert [entry.name for entry in _listed(dashes=False)] == ["zoo", "by_hand"]


@pytest.mark.parametrize("text", [FILE.format(mark="thing", name="other"), 2 * FILE])
def test_a_file_is_one_thing_of_its_name(room: Path, text: str) -> None:
    (room / "this.py").write_text(text.format(mark="thing", name="this"))
    with pytest.raises(TypeError, match=r"this.py should mark one function @thing, named this"):
        _listed()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.mark)
def test_unknown_names(kind: Kind) -> None:
    known: Catalog[object] = Catalog(kind)
    assert len(known) == len(list(known)) > 4
    for name, entry in entries(kind).items():
        assert known.require(name) is known[name]
        assert entry.meaning.endswith((".", "?"))
    with pytest.raises(KeyError):
        known["nonesuch"]
    name = next(iter(known))
    with pytest.raises(CircuitsError, match=f"no {kind.what} '{name}x'; choose .*mean '{name}'"):
        known.require(f"{name}x")


def test_those_there_are() -> None:
    assert list(METRICS) == sorted(METRICS) == list(entries(METRIC))
    assert list(TASKS) == [*USUAL, *sorted({*TASKS} - {*USUAL})]
    assert USUAL == usual(TASK) == ("repeated", "ioi", "sorting")
    assert "greater-than" in TASKS


def test_help_lists_them() -> None:
    assert filled("{metrics}!") == f"{', '.join([*METRICS][:-1])} or {[*METRICS][-1]}!"
    assert filled("{usual tasks}") == "repeated, ioi and sorting"
    assert all(task in filled("{tasks}") for task in TASKS)
    assert filled("a {metric} of nothing") == "a {metric} of nothing"


def test_names_come_without_torch() -> None:
    code = "import sys, circuits.catalog as c; c.filled('{tasks}'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_metrics_and_methods_are_copied_and_sent_by_name() -> None:
    for thing in (*METRICS.values(), *METHODS.values()):
        assert copy.deepcopy(thing) is thing
    changed = dataclasses.replace(METRICS["loss"], unit="bits")
    assert copy.copy(changed) == changed
