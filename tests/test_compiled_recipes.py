"""Compiled models of other sizes, with their heads elsewhere: the six edges are theirs, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ground_truth import LARGE, RECIPES, every_edge
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import only

from circuits.analyses.paths import paths
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.checkpoints.compiled import BUNDLED, Recipe, build
from circuits.circuit import Circuit, compiled_circuit
from circuits.components import Component, parse
from circuits.errors import CircuitsError
from circuits.prompts import make

# Of the weights that the bundled model has had from the beginning, and of two variants.
BYTES = "26362fd588daeebf13bd1e043a0f07e4a4064577afb559f92403311efbb95f1a"
SMALLER = "b1654c8aac8e88b190f71a514f27fc61551fc6bd09555c90ee6b5db973ede586"
LARGE_AND_SOFT = "d451970ff389b62ddfce8d18f595eff79aa79e7d358127bae06c9ed9ae4a4126"

# How well names that a head attends to share it evenly: LayerNorm scales them alike to 1e-5, and
# their scores of 30 differ by as much.
TO = 5e-3

COLUMNS = ("edge", "value")
MOVED = ("empty-layers", "permuted-heads", "one-head-a-layer", "induction-last")


def test_the_default_is_the_bundled_model() -> None:
    assert checksum(build()) == checksum(load("compiled")) == BYTES
    assert checksum(build(n_layers=3)) == checksum(build(Recipe(n_layers=3))) == SMALLER
    assert checksum(build(BUNDLED, **LARGE, n_layers=3, beta=4.0)) == LARGE_AND_SOFT


@pytest.mark.parametrize("name", MOVED)
def test_heads_are_the_same_elsewhere(name: str) -> None:
    recipe = RECIPES[name]
    sizes = {size: getattr(recipe, size) for size in ("d_vocab", "n_ctx", "d_head")}
    n_heads = max(2, recipe.n_heads)
    model, plain = build(recipe), build(**sizes, n_heads=n_heads, n_layers=3)
    taken = set()
    for role, place in recipe.heads.items():
        for weight, expected in zip(
            weights_of(model, place), weights_of(plain, BUNDLED.heads[role]), strict=True
        ):
            d = 4 * recipe.d_vocab + recipe.n_ctx + 4  # of a wider stream, the rest is unused
            assert expected.any()
            assert torch.equal(used(weight, d), used(expected, d))
        taken.add((place.layer, place.head))
    for layer in range(recipe.n_layers):
        for head in range(recipe.n_heads):
            if (layer, head) not in taken:
                assert not any(w.any() for w in weights_of(model, Component("head", layer, head)))


def weights_of(model: HookedGPT2, place: Component) -> list[torch.Tensor]:
    """W_Q, W_K, W_V and, transposed, W_O of a head: [d e] each."""
    assert place.layer is not None
    attn = model.blocks[place.layer].attn
    weights = (attn.W_Q, attn.W_K, attn.W_V, attn.W_O.transpose(1, 2))
    return [weight[place.head].detach() for weight in weights]


def used(weight: torch.Tensor, d: int) -> torch.Tensor:
    """The first rows, of the features; no other has anything."""
    assert not weight[d:].any()
    return weight[:d]


def check_six(recipe: Recipe, n: int = 8, seed: int = 0) -> None:
    """Exact patching of every edge finds these six, with their numbers, and no other."""
    model = build(recipe)
    prompts = make("compiled-ioi", model, n, seed)
    effects, clean = every_edge(model, prompts)
    assert clean == pytest.approx(np.full(n, 10.0), abs=1e-3)
    known = recipe.effects
    assert len(known) == 6
    assert {*known} <= {*effects}
    for edge, effect in effects.items():
        assert effect == pytest.approx(np.full(n, known.get(edge, 0.0)), abs=TO), str(edge)
    matter = {edge for edge, effect in effects.items() if abs(effect.mean()) > 0.01}
    assert matter == compiled_circuit(recipe).parts  # precision and recall are 1


@pytest.mark.parametrize("name", only(("smallest", "permuted-heads"), RECIPES))
def test_exact_patching_finds_the_six_edges_and_no_other(name: str) -> None:
    check_six(RECIPES[name], n=6)


EXACT = ((15.0, 0.2), (20.0, 0.02), (30.0, 5e-3), (200.0, 0.02))


@pytest.mark.parametrize("case", only(EXACT[1:2], EXACT))
def test_how_exact_the_numbers_are(case: tuple[float, float]) -> None:
    beta, to = case
    recipe = replace(RECIPES["permuted-heads"], beta=beta)
    model = build(recipe)
    effects, _ = every_edge(model, make("compiled-ioi", model, 8))
    errors = [
        np.abs(effect - recipe.effects.get(edge, 0)).max() for edge, effect in effects.items()
    ]
    assert max(errors) < to
    assert bool(compiled_circuit(recipe).scores) == (to <= 0.02)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any sizes and any places that can be."""
    n_heads, n_layers = draw(st.integers(2, 4)), draw(st.integers(3, 6))
    d_vocab, n_ctx = draw(st.integers(11, 24)), draw(st.integers(6, 20))
    at_least = max(d_vocab + 1 + n_ctx, -(-(4 * d_vocab + n_ctx + 4) // n_heads))
    a, b, c = sorted(draw(st.permutations(range(n_layers)))[:3])
    d, e = sorted(draw(st.permutations(range(n_layers)))[:2])
    heads = [draw(st.permutations(range(n_heads))) for _ in range(n_layers)]
    stage = {"duplicate_token": a, "s_inhibition": b, "name_mover": c}
    stage |= {"previous_token": d, "induction": e}
    places = {role: Component("head", at, heads[at].pop()) for role, at in stage.items()}
    d_head = at_least + draw(st.integers(0, 5))
    beta = float(draw(st.integers(28, 40)))
    return Recipe(d_vocab, n_ctx, d_head, n_heads, n_layers, beta, **places)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(recipes(), st.integers(0, 99))
def test_six_edges_of_any_recipe(recipe: Recipe, seed: int) -> None:
    check_six(recipe, n=4, seed=seed)


def test_paths_names_them_where_they_are() -> None:
    recipe = RECIPES["permuted-heads"]
    model = build(recipe)
    to = [edge.receiver for edge in recipe.effects if edge.receiver.kind == "head"]
    frames = [paths(model, to=part, task="compiled-ioi", n=8).frame for part in to]
    edges, values = (np.concatenate([frame[column] for frame in frames]) for column in COLUMNS)
    effects = {edge: x for edge, x in zip(edges, values, strict=True) if abs(x) > 0.01}
    known = {str(edge): effect for edge, effect in recipe.effects.items()}
    del known["a2.h3->logits"]
    assert effects == pytest.approx(known, abs=TO)


# --- what it says of itself -----------------------------------------------------------------------


def test_its_circuit_is_written_and_read(tmp_path: Path) -> None:
    model, circuit = load("compiled"), compiled_circuit()
    path = circuit.save(tmp_path / "compiled.json")
    again = Circuit.load(path)
    assert (again.parts, again.origin) == (circuit.parts, circuit.origin)
    assert {part: score.value for part, score in again.scores.items()} == pytest.approx(
        BUNDLED.effects, abs=1e-4
    )
    assert circuit.require_fits(model).pruned().parts == circuit.parts
    assert circuit.origin.pruned == 0
    assert (circuit.origin.metric, circuit.origin.unit) == ("logit_diff", "logits")
    assert {part: score.value for part, score in circuit.scores.items()} == BUNDLED.effects
    assert circuit.frame["kept"].tolist() == [True] * 6


def test_its_circuit_is_of_this_model_only() -> None:
    circuit = compiled_circuit(RECIPES["three-layers"])
    with pytest.raises(CircuitsError, match="with 3 layers of 4 heads, and compiled has 6"):
        circuit.require_fits(load("compiled"))
    with pytest.raises(CircuitsError, match="found in compiled with the weights b1654c8aac8e"):
        circuit.require_fits(build(n_layers=3, beta=29.0))


def test_a_soft_model_has_the_same_edges_and_no_such_numbers() -> None:
    recipe = RECIPES["permuted-heads"]
    soft = compiled_circuit(replace(recipe, beta=4.0))
    assert soft.parts == compiled_circuit(recipe).parts
    assert not soft.scores


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 0.0}, "beta=0.0: .* choose 30 for exact attention"),
        ({"beta": float("inf")}, "beta=inf"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"n_heads": 1, "d_head": 200}, r"n_heads=1 .* at least 2 \(duplicate_token is a0.h1\)"),
        ({"name_mover": parse("a7.h0")}, r"n_layers=6 .* at least 8 \(name_mover is a7.h0\)"),
        ({"name_mover": parse("m2")}, r"name_mover=m2 is no whole head"),
        ({"name_mover": parse("a2.h0<q>")}, r"name_mover=a2.h0<q> is no whole head"),
        ({"name_mover": parse("a2.h0@END")}, r"name_mover=a2.h0@END is no whole head"),
        ({"name_mover": "a2.h0"}, r"name_mover=a2.h0 is no whole head; .*parse\('a2.h0'\)"),
        ({"induction": Component("head", 1, -1)}, "induction=a1.h-1 is no whole head"),
        ({"induction": parse("a1.h1")}, "induction and s_inhibition are both a1.h1"),
        ({"induction": parse("a0.h2")}, "induction=a0.h2 cannot read what previous_token=a0.h0"),
        ({"name_mover": parse("a1.h2")}, "name_mover=a1.h2 cannot read what s_inhibition=a1.h1"),
    ],
)
def test_what_no_recipe_can_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CircuitsError, match=said):
        Recipe(**changes)
