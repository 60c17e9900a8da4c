"""Views as they come from a page: what is read, and what is refused in a sentence."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from circuits.errors import CircuitsError
from circuits.explorer.kept import Kept
from circuits.explorer.pieces import Note, Options, Take
from circuits.explorer.questions.attention import LayerAttention
from circuits.explorer.questions.map import Layer
from circuits.explorer.view import HOW, Edit, View
from circuits.explorer.wire import to_json

TRAY = (
    Edit("a5.h3", "zero"),
    Edit("m2@4", "scale", amount=0.5, on=False),
    Edit("resid_post.3", "steer", amount=-1.5, token=" Mary"),
)


def test_a_view_comes_back_from_json() -> None:
    view = View("Once", "Twice", 3, " upon", 17, TRAY)
    assert View.read(json.loads(json.dumps(view.json()))) == view
    assert View.read({"prompt": ""}) == View("")
    assert view.edits == (TRAY[0], TRAY[2])


@pytest.mark.parametrize("text", ["\U0001f600 שלום", "<script>alert(1)</script>", "\x00\x1b[2J"])
def test_any_text_is_a_prompt(text: str) -> None:
    assert View.read({"prompt": text}).prompt == text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "not a view"),
        ({}, "prompt of a view is None; give a text"),
        ({"prompt": 3}, "give a text"),
        ({"prompt": "a" * 20_001}, "20001 characters; give at most 20000"),
        ({"prompt": "\ud800"}, "half a character"),
        ({"prompt": "a", "promt": "b"}, "no 'promt'; its fields .* did you mean 'prompt'"),
        ({"prompt": "a", "contrast": 5}, "contrast is 5; give a text"),
        ({"prompt": "a", "at": True}, "whole number"),
        ({"prompt": "a", "at": 1.5}, "whole number"),
        ({"prompt": "a", "answer": ["b"]}, "answer is .*give a text"),
        ({"prompt": "a", "answer": "b" * 201}, "201 characters"),
        ({"prompt": "a", "tray": {}}, "give a list of edits"),
        ({"prompt": "a", "tray": [{"part": "m0", "how": "zero"}] * 51}, "at most 50"),
        ({"prompt": "a", "tray": ["m0"]}, "not an edit"),
        ({"prompt": "a", "tray": [{"part": "m0", "how": "zeros"}]}, "did you mean 'zero'"),
        ({"prompt": "a", "tray": [{"part": "m0", "how": "scale", "amount": 1e7}]}, "amount="),
        ({"prompt": "a", "tray": [{"part": "m0", "how": "scale", "amount": "2"}]}, "a number"),
        ({"prompt": "a", "tray": [{"part": "m0", "how": "zero", "on": 1}]}, "true or false"),
        ({"prompt": "a", "tray": [{"part": "m0", "how": "steer"}]}, "name one"),
        ({"prompt": "a", "tray": [{"part": "m0", "how": "zero", "token": "a"}]}, "leave it out"),
    ],
)
def test_what_is_no_view_is_refused(given: Any, says: str) -> None:
    with pytest.raises(CircuitsError, match=says):
        View.read(given)


@pytest.mark.parametrize("amount", [math.nan, math.inf])
def test_amounts_are_finite(amount: float) -> None:
    with pytest.raises(CircuitsError, match="amount"):
        Edit("m0", "scale", amount)


def test_every_edit_has_a_name_of_its_own() -> None:
    assert len({*HOW}) == 6


def test_options_are_of_their_type_and_known() -> None:
    options = Options({"n": 3, "what": "ablate"})
    assert options.read("n", 1) == 3
    assert options.read("top", 7) == 7
    for ask, says in (
        (lambda: options.read("n", "a"), "give a text"),
        (lambda: options.read("what", "a", allowed=("direct", "ablates")), "did you mean"),
        (lambda: options.require("head", "a0.h0"), "head is missing"),
        (lambda: options.only("n"), "no option 'what'; it takes n"),
    ):
        with pytest.raises(CircuitsError, match=says):
            ask()


def test_pieces_become_json() -> None:
    layer = to_json(Layer(2, [1 / 3, math.nan, math.inf], None))
    assert layer == {
        "kind": "layer", "layer": 2, "heads": [0.3333333, None, None], "mlp": None, "texts": None,
    }  # fmt: skip
    weights = np.array([[[65535, 0], [1, 2]]], dtype="<u2")
    assert to_json(LayerAttention(0, 2, weights))["weights"] == "//8AAAEAAgA="
    assert to_json(Note("a", "b")) == {"kind": "note", "about": "a", "text": "b"}
    with pytest.raises(TypeError, match="no place"):
        to_json(Take(object(), ""))  # type: ignore[arg-type]


def test_what_was_used_longest_ago_goes_first() -> None:
    kept, made = Kept(3000), []

    def make(name: str) -> np.ndarray[Any, Any]:
        return kept.get(name, lambda: (made.append(name), np.zeros(125))[1])

    for name in ("a", "b", "c", "a", "d", "a", "b"):
        make(name)
    assert made == ["a", "b", "c", "d", "b"]
    assert kept.bytes == 3000
    kept.of(((0, 0, 1.0),))
    assert kept.bytes == 0
