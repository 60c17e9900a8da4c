"""The commands about models themselves: which there are, where they come from, what they are."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from circuits import checkpoints, experiment
from circuits.cli import app
from circuits.config import MODEL_VARIABLE
from circuits.errors import CircuitsError
from circuits.model import Readout


def run(*args: str, **options: Any) -> Any:
    return CliRunner().invoke(app, list(args), prog_name="circuits", **options)


def test_models_and_info() -> None:
    rows = json.loads(run("models", "--json").stdout)
    assert [row["name"] for row in rows] == checkpoints.bundled_models()
    assert "sort-abc" in run("models").stdout
    facts = json.loads(run("info", "compiled", "--json").stdout)
    assert (facts["n_layers"], facts["tokenizer"]) == (6, "compiled (27 tokens)")
    assert facts["checksum"] in run("info", "compiled").stdout


def test_what_is_remarked_of_a_model_is_a_sentence(tmp_path: Path) -> None:
    """And no warning of Python's, with the line of a file of this package."""
    model = checkpoints.load("mini")
    model.readouts["score"] = Readout(torch.ones(model.cfg.d_model, 2))
    checkpoints.save(model, tmp_path / "a")
    said = f"{tmp_path / 'a'} has a head besides the vocabulary's: it is kept as "
    for words in (["info"], ["generate", "A", "-n", "1"]):
        done = run(*words, "--model", str(tmp_path / "a"))
        assert (done.exit_code, "UserWarning" in done.stderr) == (0, False), done.stderr
        assert done.stderr.startswith(said), done.stderr
    done = run("generate", "A", "-n", "1", "--quiet", "--model", str(tmp_path / "a"))
    assert done.stderr == ""


def test_every_command_that_asks_a_model_takes_it_by_name() -> None:
    group: Any = typer.main.get_command(app)
    options = {
        name: {flag for option in command.params for flag in option.opts}
        for name, command in group.commands.items()
    }
    assert [name for name in options if "--model" not in options[name]] == ["models"]
    assert [name for name in options if "--json" not in options[name]] == ["explore"]  # a page


def test_info_takes_the_model_in_any_way() -> None:
    expected = run("info", "sort-abc", "--json").stdout
    assert json.loads(expected)["name"] == "sort-abc"
    assert run("info", "--model", "sort-abc", "--json").stdout == expected
    assert run("info", "sort-abc", "--model", "sort-abc", "--json").stdout == expected
    asked = {"CIRCUITS_MODEL": "sort-abc"}
    assert run("info", "--json", env=asked).stdout == expected
    for words in (["compiled"], ["--model", "compiled"]):
        facts = json.loads(run("info", *words, "--json", env=asked).stdout)
        assert facts["name"] == "compiled"


def test_pull_takes_the_model_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: list[tuple[str, str | None]] = []

    def pull(name: str, revision: str | None) -> Path:
        pulled.append((name, revision))
        return Path("there")

    monkeypatch.setattr(checkpoints, "pull", pull)
    asked = {"CIRCUITS_MODEL": "gpt2-xl"}
    assert run("pull", "gpt2").stdout == "gpt2 is in there\n"
    assert run("pull", "--model", "gpt2", "--revision", "v2", env=asked).exit_code == 0
    assert json.loads(run("pull", "--json", env=asked).stdout) == {
        "name": "gpt2-xl",
        "folder": "there",
    }
    assert pulled == [("gpt2", None), ("gpt2", "v2"), ("gpt2-xl", None)]


def test_offline_a_missing_model_says_how_to_get_it() -> None:
    done = run("logit-lens", "A", "--model", "gpt2")
    assert done.exit_code == 2
    assert "circuits pull gpt2" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pull", "gpt2", "--model", "gpt2-xl"], "'gpt2' and --model 'gpt2-xl' are two models"),
        (["pull"], "'compiled' is no model of the hub"),
        (["info", "mini", "--model", "compiled"], "'mini' and --model 'compiled' are two models"),
        (["info", "--model", "minni"], "did you mean 'mini'"),
    ],
)
def test_models_that_nobody_can_mean(args: list[str], message: str) -> None:
    done = run(*args, env={"CIRCUITS_MODEL": "compiled"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_pull_without_a_model_says_what_to_name() -> None:
    done = run("pull", env={"CIRCUITS_MODEL": ""})
    assert done.exit_code == 2
    assert done.stderr == (
        "error: no model was named; give gpt2 or another of the hub, as owner/name\n"
    )


def test_an_experiment_keeps_its_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim is about that one; only --model asks another."""
    asked: list[str | None] = []

    def conduct(name: str, *, model: str | None, **options: Any) -> None:
        asked.append(model)
        raise CircuitsError("enough")

    monkeypatch.setattr(experiment, "conduct", conduct)
    for words in ([], ["--model", "sort-abc"]):
        run("run", "ioi", *words, env={"CIRCUITS_MODEL": "compiled"})
    assert asked == [None, "sort-abc"]


def test_the_variable_that_names_a_model_is_written_once() -> None:
    """Everything else says `MODEL_VARIABLE`; docstrings are no code."""
    folder = Path(checkpoints.__file__).parents[1]
    written = [
        (path.name, node.lineno)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == MODEL_VARIABLE
    ]
    assert [name for name, _ in written] == ["config.py"]
