"""The terminal's views of analyses: found by name, one function each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from circuits.analyses.logit_lens import logit_lens
from circuits.architectures import HookedGPT2
from circuits.cli import views
from circuits.cli.views import show
from circuits.registry import analyses, beside
from circuits.result import Result

FILES = sorted(path.stem for path in Path(inspect.getfile(views)).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_the_view_of_an_analysis(name: str) -> None:
    assert name in {recipe.function for recipe in analyses().values()}
    module = beside(name, "circuits.cli.views")
    assert module is not None
    hints = inspect.get_annotations(module.view, eval_str=True)
    assert hints == {"result": Result, "width": int, "return": Iterator[RenderableType]}
    public = [n for n, f in inspect.getmembers(module, inspect.isfunction) if n[0] != "_"]
    here = [n for n in public if getattr(module, n).__module__ == module.__name__]
    assert here == ["view"]


@pytest.mark.parametrize(
    "name", ["no_analysis", "logit-lens", "os", "files", "documents.page", "__init__", ""]
)
def test_what_is_no_analysis_has_nothing_beside(name: str) -> None:
    assert beside(name, "circuits.cli.views") is None
    assert beside(name, "circuits.pages") is None


def test_an_analysis_without_a_view_is_a_plain_table(compiled: HookedGPT2) -> None:
    result = logit_lens(compiled, "aAbB.")
    assert "takes over after" in _shown(result)
    plain = _shown(replace(result, provenance=replace(result.provenance, analysis="other")))
    assert "takes over after" not in plain
    assert all(name in plain.split() for name in ("position", "stage", "token"))


def _shown(result: Result) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        show(result, console)
    return captured.get()
