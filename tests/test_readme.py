"""What README.md says is true: its example runs, its tables are current, its commands parse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import readme
import typer
from architecture_table import table

TEXT = readme.README.read_text(encoding="utf-8")


@pytest.mark.slow
def test_examples_run() -> None:
    examples = readme.blocks(TEXT, "python")
    for example in examples:
        assert len([line for line in example.splitlines() if line.strip()]) <= 10
    code = "".join(examples)  # the later ones use the first one's model
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == code.count("print(")


def test_command_lines_are_understood() -> None:
    from circuits.cli import app

    group: Any = typer.main.get_command(app)
    lines = [line for block in readme.blocks(TEXT, "console") for line in block.splitlines()]
    assert lines
    for line in lines:
        _, program, command, *words = shlex.split(line, comments=True)
        assert program == "circuits"
        assert group.commands[command].make_context(command, words).params


def test_generated_parts_are_current() -> None:
    from circuits.cli import app

    assert readme.rendered(TEXT, app) == TEXT, "run: python tests/readme.py"


def test_commands_that_ci_runs() -> None:
    first, second = readme.commands(TEXT)
    assert len(first.splitlines()) == len(second.splitlines()) == 1
    assert "circuits ablate --layer 5 --head 3" in first
    assert "pytest" in second
    for command in (first, second):
        assert command.startswith("python3 -m venv .venv && ")
        assert "-c constraints.txt" in command


def test_every_link_leads_to_a_file() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (readme.ROOT / target).exists()] == []


def test_a_new_command_makes_the_table_stale() -> None:
    app = typer.Typer()

    @app.command("count")
    def count() -> None:
        """How many heads
        are there? Exactly.

        More about it.
        """

    @app.command("name")
    def name() -> None:
        """Which model is it?"""

    table = readme.command_table(app)
    assert table.splitlines()[2:] == [
        "| `circuits count` | How many heads are there? |",
        "| `circuits name` | Which model is it? |",
    ]
    assert table in readme.rendered(TEXT, app)


def test_map_lists_rooms_in_reading_order(tmp_path: Path) -> None:
    for name, doc in {
        "circuits/__init__.py": "Door.",
        "circuits/model.py": "The model.",
        "circuits/errors.py": "What can go wrong? Much.",
        "circuits/prompts/__init__.py": "Tasks (by Some et al. 2022). More.",
        "circuits/prompts/ioi.py": "Names.",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""{doc}"""\n', encoding="utf-8")
    entries = [line.split(maxsplit=1) for line in readme.house_map(tmp_path).splitlines()[1:-1]]
    assert entries == [
        ["circuits/"],
        ["errors.py", "What can go wrong?"],
        ["model.py", "The model."],
        ["prompts/", "Tasks (by Some et al. 2022)."],
        ["models/", "The bundled checkpoints, each with its MODEL_CARD.md."],
        ["experiments/", "One script a claim."],
        ["notebooks/", "What was found, explained from the beginning."],
        ["tests/", "What every room promises; an oracle, parity, house rules."],
    ]


def test_markers_must_be_there() -> None:
    with pytest.raises(ValueError, match="markers"):
        readme.rendered("no markers", typer.Typer(callback=lambda: None))


@pytest.mark.slow
def test_the_table_of_architectures_is_what_the_analyses_say() -> None:
    from circuits.cli import app

    assert readme.rendered(TEXT, app, table()) == TEXT, "run: python tests/readme.py"
