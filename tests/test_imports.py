"""`import circuits` and `circuits --help` are quick, because they leave torch alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT
from quick import only

import circuits
from circuits.cli.contents import questions
from experiments.benchmarks.commands import WITHOUT, WORDS

UNASKED = {"matplotlib", "PIL", "sympy", "scipy", "networkx", "pydantic", "jinja2", "transformers"}
UNASKED |= {"tokenizers", "ray", "peft", "starlette", "uvicorn", "IPython"}
HEAVY = {"torch", "pandas", "matplotlib", "huggingface_hub", "transformers", "scipy"}


def loaded_by(code: str, folder: Path | None = None) -> set[str]:
    """The packages that a fresh interpreter has imported after running this, there."""
    report = "import sys; sys.stderr.write(' '.join({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return set(run.stderr.split())


def help_of(*arguments: str) -> str:
    return (
        f"import contextlib, sys; sys.argv = {['circuits', *arguments, '--help']!r}\n"
        "from circuits.cli import main\n"
        "with contextlib.suppress(SystemExit): main()"
    )


def test_the_probe_sees_an_import() -> None:
    assert "fractions" in loaded_by("import fractions")


def test_import_is_light() -> None:
    loaded = loaded_by("import circuits")
    assert "circuits" in loaded
    assert not loaded & (HEAVY | {"numpy", "typer", "rich", "tiktoken"})


def test_errors_and_sizes_are_light() -> None:
    assert not loaded_by("import circuits; circuits.GPT2_SIZES, circuits.CircuitsError") & HEAVY


@pytest.mark.parametrize("command", only([[], ["ablate"]], [[], *([name] for name in questions())]))
def test_help_is_light(command: list[str]) -> None:
    loaded = loaded_by(help_of(*command))
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"numpy", "pydantic", "tiktoken", "jinja2"})


@pytest.mark.slow
def test_a_sweep_draws_and_compiles_nothing() -> None:
    loaded = loaded_by(
        "import circuits; from circuits.analyses.ablate import ablate\n"
        "ablate(circuits.load('sort-abc'), all_heads=True, n=2)"
    )
    assert {"torch", "pandas"} <= loaded
    assert not loaded & {"matplotlib", "sympy"}  # torch's compiler brings sympy


@pytest.mark.parametrize("name", only(["logit-lens"], sorted({*questions()} - WITHOUT)))
def test_a_command_imports_what_it_needs(name: str, tmp_path: Path) -> None:
    words = [name, *WORDS.get(name, []), *(["-n", "2"] if name in {"heads", "icl"} else [])]
    code = (
        f"import contextlib, io, sys; sys.argv = {['circuits', *words]!r}\n"
        "from circuits.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code"
    )
    drawn = {"matplotlib", "PIL"} if name == "fine-tune" else set()  # its curve
    loaded = loaded_by(code, tmp_path)
    assert "torch" in loaded
    assert loaded & UNASKED == drawn


@pytest.mark.parametrize("name", circuits.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(circuits, name).__doc__
    assert name in dir(circuits)


def test_misspelled_name_gets_a_suggestion() -> None:
    with pytest.raises(AttributeError, match="did you mean 'HookedGPT2'"):
        circuits.HookedGPT  # noqa: B018


def test_python_m_circuits_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "circuits", "--help"], capture_output=True, text=True, check=True
    )
    assert "ablate" in run.stdout
    assert run.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["logit-lens", "2 1 0", "--model", "sort-abc"],
        ["generate", "A", "-n", "1", "--model", "compiled"],
    ],
)
def test_garbage_is_collected_while_a_command_works(words: list[str]) -> None:
    """It is not while a command imports."""
    code = (
        "import contextlib, gc, io, sys; from circuits.__main__ import main\n"
        f"sys.argv = {['circuits', *words]!r}\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 1000"
    )
    assert "torch" in loaded_by(code)


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_large_tensors_get_huge_pages_unless_the_user_says_no(
    given: str | None, expected: str
) -> None:
    name = "THP_MEM_ALLOC_ENABLE"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {} if given is None else {name: given}
    code = f"import circuits, os; print(os.environ[{name!r}])"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == expected
