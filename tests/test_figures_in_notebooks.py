"""Figures in a fresh notebook: a picture each, once, whether or not matplotlib was told to."""

from __future__ import annotations

import base64
import os
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from quick import only

from circuits import figures
from circuits.figures import save_figure

ABLATE = """import circuits
from circuits.analyses.ablate import ablate
ablate(circuits.load("compiled"), all_heads=True, n=2).plot()"""
HEATMAP = """import numpy as np
from circuits.figures import heatmap
heatmap(np.eye(2))"""
DRAWN = {
    "bars": lambda: figures.bars(["m0"], np.ones(1)),
    "curves": lambda: figures.curves({"a": (np.arange(3.0), np.ones(3), None)}, axes=("x", "y")),
    "heatmap": lambda: figures.heatmap(np.eye(2)),
    "lens_grid": lambda: figures.lens_grid([["a"]], np.ones((1, 1)), rows=["0"], columns=["b"]),
    "pattern_grid": lambda: figures.pattern_grid({"a0.h0": np.eye(2)}, ["a", "b"]),
    "scatter": lambda: figures.scatter(np.ones(1), np.ones(1), labels=["a"], axes=("x", "y")),
}


def outputs(*cells: str) -> list[list[Any]]:
    """What each cell shows in a kernel that nobody has configured."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    fresh = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(env=fresh)
    return [cell.outputs for cell in notebook.cells]


def size(output: Any) -> tuple[int, int]:
    """Width and height of the PNG in an output."""
    png = base64.b64decode(output.data["image/png"])
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@pytest.mark.slow
def test_a_result_is_a_picture_in_a_fresh_notebook() -> None:
    [[output]] = outputs(ABLATE)
    assert output.output_type == "execute_result"
    width, height = size(output)
    assert width > 300
    assert height > 150


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", ["%matplotlib inline", "import matplotlib.pyplot as plt; plt.rcParams['figure.dpi']"]
)
def test_a_figure_is_shown_once_before_and_after(setting: str) -> None:
    [before], _, [after], _ = outputs(HEATMAP, setting, HEATMAP, "None")
    assert size(before) == size(after)
    assert set(before.data) == set(after.data) == {"image/png", "text/plain"}


@pytest.mark.parametrize("kind", only(("heatmap", "bars"), DRAWN))
def test_every_figure_knows_its_picture(kind: str) -> None:
    figure, before = DRAWN[kind](), dict(rcParams)
    png = figure._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG")
    assert png == DRAWN[kind]()._repr_png_()  # type: ignore[attr-defined]
    assert dict(rcParams) == before


def test_a_picture_leaves_the_figure_as_it_was(tmp_path: Any) -> None:
    figure = figures.heatmap(np.eye(2))
    first = save_figure(figure, tmp_path / "first.png").read_bytes()
    figure._repr_png_()  # type: ignore[attr-defined]
    assert save_figure(figure, tmp_path / "second.png").read_bytes() == first
