"""The figure of an answer is the one that the command writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import circuits
from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError
from circuits.explorer.desk import Desk
from circuits.explorer.pieces import Piece
from circuits.explorer.view import Edit, View
from circuits.explorer.wire import to_json
from circuits.figures import save_figure
from circuits.result import Result

TEXT, TWIN = "aAbBcdeBfg.", "aAbBcdeCfg."
PAIR = {"prompt": TEXT, "answer": "A", "distractor": "B"}
VIEW = View(TEXT, answer="A", distractor="B")


@pytest.fixture(scope="module")
def desk(compiled: HookedGPT2) -> Desk:
    return Desk(compiled)


def drawn(desk: Desk, view: View, of: str, **options: Any) -> str:
    piece = figure(desk, view, {"of": of, "options": options, "format": "svg"})
    return str(to_json(piece)["svg"])


def figure(desk: Desk, view: View, options: dict[str, Any]) -> Piece:
    (piece,) = desk.ask("figure", view, options)
    return piece


def written(result: Result, tmp_path: Path) -> str:
    return save_figure(result.plot(), tmp_path / "figure.svg").read_text()


def test_maps_are_those_of_the_commands(desk: Desk, tmp_path: Path) -> None:
    model = desk.model
    ablated = circuits.ablate(model, all_heads=True, method="mean", **PAIR)
    assert drawn(desk, VIEW, "map", what="ablate", method="mean") == written(ablated, tmp_path)
    pushed = circuits.attribute(model, **PAIR)
    assert drawn(desk, VIEW, "map", what="direct") == written(pushed, tmp_path)
    both = View(TEXT, TWIN, answer="A", distractor="B")
    patched = circuits.patch(model, what="head", corrupted=TWIN, **PAIR)
    assert drawn(desk, both, "map", what="patch") == written(patched, tmp_path)


def test_patterns_and_lenses_are_those_of_the_commands(desk: Desk, tmp_path: Path) -> None:
    model = desk.model
    looks = circuits.attention(model, TEXT, component="a1.h0")
    assert drawn(desk, VIEW, "head", head="a1.h0") == written(looks, tmp_path)
    says = circuits.logit_lens(model, TEXT, positions="all")
    assert drawn(desk, VIEW, "lens") == written(says, tmp_path)


def test_edits_are_in_the_figure(desk: Desk) -> None:
    edited = View(TEXT, answer="A", distractor="B", tray=(Edit("a1", "zero"),))
    assert drawn(desk, edited, "lens") != drawn(desk, VIEW, "lens")


def test_a_png_has_its_bytes(desk: Desk) -> None:
    piece = figure(desk, VIEW, {"of": "lens", "format": "png"})
    assert to_json(piece)["png"].startswith("iVBORw0KGgo")  # the signature of PNG, in base64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "about"}, "of is 'about'; choose read, map"),
        ({}, "of is ''; choose"),
        ({"of": "lens", "format": "exe"}, "format is 'exe'; choose svg, png"),
        ({"of": "lens", "path": "/tmp/x"}, "no option 'path'"),
        ({"of": "map", "options": {"what": "kind"}}, "of kind there is no figure"),
        ({"of": "map", "options": {"what": "patch"}}, "contrasting prompt"),
        ({"of": "map", "options": {"method": "../x"}}, "no ablation method"),
        ({"of": "head", "options": {"head": "a9.h9"}}, "there is no layer 9"),
        ({"of": "lens", "options": [1]}, "options are"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn(desk: Desk, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        figure(desk, VIEW, options)
