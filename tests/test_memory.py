"""How much memory sweeps and commands take: `memory` bounds by how much a process grows.

Linux gives the process no more than its bound, so that what needs more fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounded_command import COMMANDS, words
from typer.testing import CliRunner

from circuits.checkpoints import load
from circuits.cli import app
from circuits.memory import parse_bytes
from circuits.registry import analyses
from circuits.sweep import pilot

HERE = Path(__file__).parent
HAS_PROC = Path("/proc/self/clear_refs").exists()
asks_linux = pytest.mark.skipif(not HAS_PROC, reason="asks Linux how large the process was")
BOUNDS = {
    **dict.fromkeys(("heads", "mean", "residual", "z", "paths"), "16M"),
    "attribution": "24M",
    **dict.fromkeys(("neurons", "circuits"), "32M"),
    "edges": "96M",
}
TAKING_MEMORY = [
    recipe.name for recipe in analyses().values() if "memory" in recipe.signature.parameters
]


def grown(file: str, kind: str, memory: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(HERE / file), kind, memory],
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parent,
    )
    return json.loads(done.stdout)


def require_bound(file: str, kind: str, memory: str) -> None:
    bounded, free = grown(file, kind, memory), grown(file, kind, "")
    assert bounded["grown"] <= parse_bytes(memory)
    np.testing.assert_allclose(bounded["values"], free["values"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@asks_linux
@pytest.mark.parametrize("kind", BOUNDS)
def test_a_sweep_grows_by_no_more_than_its_bound(kind: str) -> None:
    require_bound("bounded_sweep.py", kind, BOUNDS[kind])


@pytest.mark.slow
@asks_linux
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_grows_by_no_more_than_its_bound(kind: str) -> None:
    require_bound("bounded_command.py", kind, COMMANDS[kind][2])


# Not `evaluate`, of which it is not measured: it makes models that have not been trained.
def test_every_command_that_takes_a_bound_is_measured() -> None:
    assert {name for name, _, _ in COMMANDS.values()} == {*TAKING_MEMORY} - {"evaluate"}


@pytest.mark.slow
@pytest.mark.parametrize("command", TAKING_MEMORY)
def test_a_bound_too_small_is_one_error_that_says_which_is_enough(
    command: str,
) -> None:
    memory = last = 1000
    asked = lambda: CliRunner().invoke(app, [*words(command), "--memory", str(memory)])  # noqa: E731
    assert asked().exit_code == 2
    while (done := asked()).exit_code:  # what comes later may take more
        assert (done.exit_code, done.stdout) == (2, "")
        match = re.search(r"is too little: .* takes? (\d+) bytes", " ".join(done.stderr.split()))
        assert match, done.stderr
        memory, last = int(match[1]), memory
        assert memory > last


def test_a_row_is_measured_once_for_each_way_of_multiplying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, measured = load("sort-abc"), list[bool]()

    def peak_bytes(run: object) -> int:
        measured.append(model.backend.uses_onednn)
        return 1

    monkeypatch.setattr(pilot, "peak_bytes", peak_bytes)
    for onednn in (True, False, True, False):
        with model.backend.using(onednn=onednn):
            pilot.row_bytes(model, 6)
    assert measured == [True, False]
