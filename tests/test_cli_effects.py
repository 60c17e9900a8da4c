"""How patching, paths, estimates and plans look on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from circuits.cli import app
from circuits.cli.tables import amount, duration

PAIR = ["--prompt", "aAbBcdeBfg.", "--corrupted", "aAbBcdeCfg.", "--answer", "A"]
PAIR += ["--distractor", "B", "--model", "compiled"]


def run(*args: str, **env: str) -> Any:
    return CliRunner().invoke(app, list(args), prog_name="circuits", env=env)


def test_patching_says_from_what_to_what() -> None:
    out = run("patch", *PAIR, "--what", "head").stdout
    assert "What restores it? Patching the output of each head (denoise, compiled)" in out
    assert "clean 10.000, corrupted 0.0003" in out
    assert out.index("a2.h0") < out.index("a1.h1")
    assert "effect = patched - corrupted; share: 0 is as corrupted, 1 is as clean" in out
    noise = run("paths", *PAIR, "--to", "a2.h0<q>").stdout
    assert "Along which edges does it travel to a2.h0<q>? (noise, compiled)" in noise
    assert "effect = patched - clean; share: of the effect of patching everything" in noise


def test_estimates_say_how_far_off_they_are() -> None:
    args = ["approximate", *PAIR, "--what", "head"]
    assert "--check N really patches the largest" in run(*args).stdout
    out = run(*args, "--check", "3").stdout
    assert "really, 95 %" in out
    assert "agreement with exact patching over 6 of 24 rows: Pearson" in out
    assert "worst estimates" in out


def test_a_plan_is_shown_and_nothing_is_run(tmp_path: Path) -> None:
    args = ["patch", *PAIR, "--what", "head", "--plan"]
    done = run(*args, "--parts", str(tmp_path / "parts"))
    assert "What would patch compute? (compiled)" in done.stdout
    assert "Nothing was run." in " ".join(done.stdout.split())
    assert not (tmp_path / "parts").exists()
    assert json.loads(run(*args, "--json").stdout)["rows"][0]["cells"] == 26


def test_an_edge_in_the_command_of_a_result_is_quoted() -> None:
    args = ["paths", *PAIR, "--from", "a1.h1", "--to", "a2.h0<q>", "--json"]
    first = run(*args)
    command = json.loads(first.stdout)["provenance"]["command"]
    assert "--from a1.h1" in command
    assert run(*shlex.split(command)[1:], "--json").stdout_bytes == first.stdout_bytes


def test_a_grid_has_what_fits_and_the_table_the_rest() -> None:
    lines = run("patch", *PAIR, COLUMNS="120").stdout.splitlines()
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows[:6]] == list("012345")
    assert rows[0][9] == rows[1][9] == "+10.00"  # S2, which is the ninth of twelve positions
    assert "10 of 72 rows" in lines[-2]
    narrow = run("patch", *PAIR, COLUMNS="60").stdout
    assert "6 layers by 12 positions do not fit into this terminal" in " ".join(narrow.split())
    assert "resid_pre.0@8" in narrow


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (amount(0), "0 B"),
        (amount(1023.9 * 1024), "1024 KiB"),
        (amount(5 * 2**40), "5120.0 GiB"),
        (duration(0.04), "0.0 s"),
        (duration(119), "119 s"),
        (duration(121), "2 min"),
        (duration(3600 * 30), "30 h 0 min"),
    ],
)
def test_amounts_and_times_for_people(shown: str, expected: str) -> None:
    assert shown == expected
