"""F of circuits of each size beside their edges: the numbers of evaluate, on other prompts."""

from __future__ import annotations

import re

import pytest
from numpy.testing import assert_allclose

import circuits
from circuits.architectures import HookedGPT2
from circuits.checkpoints.compiled import Recipe, build
from circuits.circuit import Circuit
from circuits.evaluation import unseen_curve
from circuits.pages import page
from circuits.result import Result


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return build(Recipe(n_layers=3, beta=4.0))


@pytest.fixture(scope="module")
def found(model: HookedGPT2) -> Result:
    return circuits.discover(model, method="eap", task="compiled-ioi", n=8, keep="6")


def test_it_is_the_curve_of_evaluate(model: HookedGPT2, found: Result) -> None:
    assert found.circuit is not None
    curve = unseen_curve(model, found.circuit, n=12)
    assert curve is not None
    expected = circuits.evaluate(model, found.circuit, curve=True, n=12).frame
    for column in ("kept", "pruned", "value", "ci_low", "ci_high"):
        assert_allclose(curve.frame[column], expected[column], atol=1e-9)
    assert "12 prompts of compiled-ioi that were not used" in curve.words


def test_the_page_of_what_is_found_has_it(model: HookedGPT2, found: Result) -> None:
    html = page(found, model=model)
    said = re.search(r'"faithful_on":"([^"]*)"', html)
    assert said is not None
    assert "The circuit itself has F = " in said[1]
    tested = circuits.evaluate(model, found.circuit, curve=True, n=12)
    assert '"faithful_on":"All on 12 prompts of compiled-ioi."' in page(tested)


def test_there_is_none_for_prompts_of_ones_own(model: HookedGPT2, found: Result) -> None:
    assert found.circuit is not None
    bare = Circuit.of(model, [str(edge) for edge in found.circuit.edges])
    assert unseen_curve(model, bare) is None
