"""Finding circuits: what is kept, how it is chosen and checked, and the circuits that are known."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lens_models import lens_model
from lens_twin import IGNORE_DEPRECATION
from numpy.testing import assert_allclose, assert_array_equal
from random_models import TINY, randomized
from random_sweeps import random_prompts
from test_discovery import search
from typer.testing import CliRunner

import circuits
from circuits.architectures import HookedGPT2
from circuits.circuit import Circuit, Origin, Score, compiled_circuit, graph
from circuits.cli import app
from circuits.components import Component
from circuits.discovery import METHODS
from circuits.discovery.choosing import Choice
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import Prompts
from circuits.result import Result
from circuits.sweep import CircuitSweep, Kept, Source, plan, run
from circuits.sweep.survey import How


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    model = circuits.load("compiled")
    assert isinstance(model, HookedGPT2)
    return model


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return randomized(TINY)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return random_prompts(TINY, (7, 5, 7, 5), seed=3)


def scored(seed: int = 0) -> Circuit:
    """A circuit of no edges, every edge of which has a random score."""
    rng = np.random.default_rng(seed)
    whole = graph(TINY)
    scores = {
        edge: Score(float(value))
        for edge, value in zip(whole, rng.normal(size=len(whole)), strict=True)
    }
    return Circuit(whole, frozenset(), Origin("tiny"), scores)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "acdc"])
def test_the_known_circuit_is_found_whole_and_alone(compiled: HookedGPT2, method: str) -> None:
    result = circuits.discover(
        compiled,
        method=method,
        task="compiled-ioi",
        n=8,
        keep="0.01" if method == "acdc" else "6",
    )
    assert result.circuit is not None
    assert result.circuit.parts == compiled_circuit().parts
    rest = result.frame.loc[~result.frame["kept"], "value"].abs()
    assert rest.max() < 3e-3


@pytest.mark.slow
def test_the_gradient_misses_saturated_attention_and_the_check_sees_it(
    compiled: HookedGPT2,
) -> None:
    result = circuits.discover(
        compiled, method="eap", task="compiled-ioi", n=4, keep="6", check="all"
    )
    missed = set(result.frame.loc[result.frame["missed"], "part"])
    true = {str(edge) for edge in compiled_circuit().parts}
    assert missed == true - {"a2.h0->logits"}
    assert result.frame["n_checked"].iloc[0] == len(graph(compiled.cfg))


def test_a_soft_model_gives_its_circuit_to_the_gradient() -> None:
    from circuits.checkpoints.compiled import Recipe, build

    recipe = Recipe(n_layers=3, beta=4.0)
    result = circuits.discover(
        build(recipe), method="eap", task="compiled-ioi", n=16, keep="6", check=6
    )
    assert result.circuit is not None
    assert result.circuit.parts == compiled_circuit(recipe).parts
    assert not result.frame["missed"].any()


def slow_acdc(model: HookedGPT2, prompts: Prompts, threshold: float) -> tuple[set[str], Any]:
    """One edge after the other, each decided by a run of its own."""
    assert prompts.corrupted is not None
    whole = graph(model.cfg)
    source = Source("resample", prompts.corrupted, prompts.mask)

    def measure(mask: Any) -> Any:
        cells = ((Kept.only(whole, mask),),)
        sweep = CircuitSweep(prompts, get_metric("kl"), cells, source)
        return run(model, plan(model, sweep)).values[0]

    mask, current, changes = whole.exists.copy(), measure(whole.exists), {}
    for r, w in np.argwhere(whole.exists)[::-1]:
        tried = mask.copy()
        tried[r, w] = False
        values = measure(tried)
        edge = whole.edges[whole.exists[:r].sum() + w]
        changes[str(edge)] = (values - current).mean()
        if changes[str(edge)] < threshold:
            mask, current = tried, values
    return {str(edge) for edge in whole.named(mask)}, changes


def test_acdc_is_one_decision_after_another(tiny: HookedGPT2, prompts: Prompts) -> None:
    kept, changes = slow_acdc(tiny, prompts, 0.05)
    asked = search(tiny, prompts, "kl", threshold=0.05)
    given = METHODS["acdc"].search(asked)
    assert given.kept is not None
    assert {str(p) for p, keep in zip(asked.parts, given.kept, strict=True) if keep} == kept
    expected = [changes[str(part)] for part in asked.parts]
    assert_allclose(given.moments.effect[2:], expected, atol=1e-9)
    assert 0 < len(kept) < len(graph(tiny.cfg))


def test_nodes_are_scored_by_all_who_read_them(tiny: HookedGPT2, prompts: Prompts) -> None:
    edges = search(tiny, prompts, "loss", steps=2)
    nodes = search(tiny, prompts, "loss", steps=2, level="nodes")
    by_edge = METHODS["eap-ig"].search(edges).moments.effect[2:]
    by_node = METHODS["eap-ig"].search(nodes).moments.effect[2:]
    for node, value in zip(nodes.parts, by_node, strict=True):
        sums = [s for e, s in zip(graph(tiny.cfg), by_edge, strict=True) if e.sender == node]
        assert_allclose(value, sum(sums), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
def test_neurons_are_scored_by_their_gradients(
    tiny: HookedGPT2, prompts: Prompts, method: str
) -> None:
    asked = search(tiny, prompts, "loss", level="neurons", steps=1)
    given = METHODS[method].search(asked).moments.effect[2:].reshape(tiny.cfg.n_layers, -1)
    assert prompts.corrupted is not None
    _, other = tiny.run_with_cache(prompts.corrupted, attention_mask=prompts.mask)
    seen: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append(value.clone().requires_grad_() if not value.requires_grad else value)
        return seen[-1]

    sites = [f"blocks.{i}.mlp.hook_post" for i in range(tiny.cfg.n_layers)]
    logits = tiny.run_with_hooks(
        prompts.tokens, fwd_hooks=[(s, keep) for s in sites], attention_mask=prompts.mask
    )
    gradients = torch.autograd.grad(get_metric("loss")(logits, prompts).sum(), seen)
    for i, (site, gradient) in enumerate(zip(sites, gradients, strict=True)):
        expected = ((other[site] - seen[i]) * gradient).sum(1).mean(0).detach()
        assert_allclose(given[i], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("level", ["heads", "nodes", "neurons"])
def test_exact_nodes_are_ablations(tiny: HookedGPT2, prompts: Prompts, level: Any) -> None:
    from circuits.sweep import Sweep, cell

    asked = search(tiny, prompts, "loss", level=level)
    given = METHODS["exact"].search(asked).moments.effect[2:]
    assert prompts.corrupted is not None
    parts = [part for part in asked.parts if isinstance(part, Component)]
    source = Source("resample", prompts.corrupted, prompts.mask)
    sweep = Sweep(prompts, get_metric("loss"), ((), *map(cell, parts)), source)
    values = run(tiny, plan(tiny, sweep)).values
    assert_allclose(given, (values[1:] - values[0]).mean(1), atol=1e-10)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("keep", ["0", "7", "25%", "0.9", "100%"])
def test_the_largest_are_kept_and_dead_ends_pruned(keep: str, absolute: bool) -> None:
    circuit = scored()
    chosen = Choice(keep, "top", absolute).of(circuit)
    ranked = sorted(
        circuit.scores,
        key=lambda e: -abs(circuit.scores[e].value) if absolute else circuit.scores[e].value,
    )
    n = {"0": 0, "7": 7, "25%": len(ranked) // 4, "100%": len(ranked)}.get(keep)
    if n is None:
        sizes = [abs(s.value) if absolute else -s.value for s in circuit.scores.values()]
        n = sum(size >= 0.9 for size in sizes)
    mask = circuit.graph.mask(ranked[:n])
    assert chosen.parts == set(circuit.graph.named(circuit.graph.alive(mask)))
    assert chosen.origin.pruned == n - len(chosen)


@pytest.mark.parametrize("n", [1, 5, 20, 60])
def test_a_greedy_circuit_is_alive_and_takes_the_best_it_can_reach(n: int) -> None:
    circuit = scored(1)
    chosen = Choice(str(n), "greedy").of(circuit)
    assert len(chosen) <= n
    assert len(chosen.pruned()) == len(chosen)
    order: list[Any] = []  # by hand: again and again, the best edge into what is there
    nodes = {"logits"}
    ranked = circuit.ranked(circuit.scores)
    while len(order) < len(ranked):
        open_ends = [
            edge
            for edge in ranked
            if edge not in order and str(replace(edge.receiver, slot=None)) in nodes  # type: ignore[union-attr]
        ]
        if not open_ends:
            break
        order.append(open_ends[0])
        nodes.add(str(open_ends[0].sender))  # type: ignore[union-attr]
        alive = circuit.graph.alive(circuit.graph.mask(order))
        if alive.sum() > n:
            order.pop()
            break
    expected = circuit.graph.named(circuit.graph.alive(circuit.graph.mask(order)))
    assert chosen.parts == set(expected)


def test_more_edges_hold_all_that_fewer_hold() -> None:
    sizes = [Choice(keep).of(scored(2)) for keep in ("3", "10", "40", "90")]
    assert all(small.parts <= large.parts for small, large in pairwise(sizes))


@pytest.mark.parametrize("keep", ["", "-3", "x", "200%", "nan", "inf", "1e999", "5 %%"])
def test_what_is_no_choice_is_refused(keep: str) -> None:
    with pytest.raises(CircuitsError, match="give how many parts"):
        Choice(keep)


def test_a_result_keeps_its_circuit(compiled: HookedGPT2, tmp_path: Path) -> None:
    result = circuits.discover(compiled, method="exact", task="compiled-ioi", n=4, keep="6")
    folder = result.save(tmp_path / "found")
    again = Result.load(folder)
    assert again.circuit == Circuit.load(folder / "circuit.json")
    assert again.circuit is not None
    assert again.circuit.parts == compiled_circuit().parts
    assert again.to_json() == result.to_json()
    alone = result.save(tmp_path / "alone.json")
    assert Circuit.load(alone) == again.circuit
    assert again.circuit.require_fits(compiled) == again.circuit


def test_the_same_search_gives_the_same_bytes(compiled: HookedGPT2) -> None:
    ask: dict[str, Any] = {"method": "eap-ig", "task": "compiled-ioi", "n": 4}
    first, second = (circuits.discover(compiled, **ask) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.circuit is not None
    assert second.circuit is not None
    assert first.circuit.to_json() == second.circuit.to_json()


@pytest.mark.slow
def test_positions_are_roles(compiled: HookedGPT2) -> None:
    result = circuits.discover(
        compiled, method="exact", task="compiled-ioi", n=4, positions="roles", keep="6"
    )
    kept = set(result.frame.loc[result.frame["kept"], "part"])
    assert {"a2.h0->logits@END", "a1.h1->a2.h0<q>@END", "embed->a0.h1<q>@S2"} <= kept


ASK = ["discover", "--model", "compiled", "--task", "compiled-ioi", "-n", "4", "--method", "exact"]


def test_the_command_says_what_is_kept_and_saves_it(tmp_path: Path) -> None:
    path = tmp_path / "six.json"
    given = CliRunner().invoke(
        app, [*ASK, "--keep", "6", "--check", "3", "--save", str(path)], prog_name="circuits"
    )
    assert given.exit_code == 0, given.output
    assert f"kept: 6 of {len(compiled_circuit().graph):,} edges" in given.output
    assert "a1.h1->a2.h0<q>" in given.output
    assert "Pearson 1.000" in given.output
    assert set(json.loads(path.read_text())["kept"]) == {str(e) for e in compiled_circuit().parts}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--method", "epa"], "there is no discovery method 'epa'"),
        (["--keep", "x"], "give how many parts"),
        (["--method", "acdc", "--keep", "x"], "give a number such as 0.01"),
        (["--method", "acdc", "--level", "heads"], "acdc decides about edges"),
        (["--metric", "accuracy", "--method", "eap"], "has no gradient"),
        (["--metric", "kl", "--method", "eap"], "no gradient at the very run"),
        (["--steps", "0"], "a path has at least 1 point"),
        (["--check", "-1"], "check 0 or more"),
        (["--memory", "1K"], "is too little"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(args: list[str], said: str) -> None:
    base = ["discover", "--model", "compiled", "--task", "compiled-ioi", "-n", "4"]
    given = CliRunner().invoke(app, [*base, *args], prog_name="circuits")
    assert given.exit_code == 2, given.output
    assert said in " ".join(given.output.split())
    assert "Traceback" not in given.output


def test_prompts_without_twins_are_refused() -> None:
    given = CliRunner().invoke(app, ["discover", "--prompt", "The king and"], prog_name="circuits")
    assert given.exit_code == 2
    assert "twin" in given.output
    several = CliRunner().invoke(app, ["discover"], prog_name="circuits")
    assert "about one task" in " ".join(several.output.split())


def test_random_scores_are_a_null(tiny: HookedGPT2, prompts: Prompts) -> None:
    first, second, other = (
        METHODS["random"].search(search(tiny, prompts, "loss", seed=seed)).moments.effect
        for seed in (0, 0, 1)
    )
    assert_array_equal(first, second)
    assert abs(np.corrcoef(first[2:], other[2:])[0, 1]) < 0.3


def test_half_precision_finds_what_single_does(compiled: HookedGPT2) -> None:
    half = circuits.load("compiled", dtype="bfloat16")
    for level in ("edges", "nodes"):
        options: dict[str, Any] = {"level": level, "task": "compiled-ioi", "n": 4, "keep": "3"}
        single, narrow = (circuits.discover(each, **options).circuit for each in (compiled, half))
        assert single is not None
        assert narrow is not None
        assert narrow.parts == single.parts


@pytest.mark.slow
@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
def test_models_without_mlps_have_no_neurons() -> None:
    pytest.importorskip("transformer_lens.HookedTransformer")
    model = circuits.adapt(lens_model("attn-only"))
    with pytest.raises(CircuitsError, match="no MLPs, so it has no neurons"):
        circuits.discover(model, level="neurons", task="ioi", n=2)


def test_a_circuit_that_pruning_empties_is_told(compiled: HookedGPT2) -> None:
    with pytest.warns(UserWarning, match="the circuit is empty: none of the 1 edges"):
        result = circuits.discover(compiled, task="compiled-ioi", n=2, keep="1")
    assert result.circuit is not None
    assert not result.circuit.parts


def test_chance_keeps_to_the_budget(tiny: HookedGPT2, prompts: Prompts) -> None:
    asked = search(tiny, prompts, "logit_diff")
    method = METHODS.require("random").search
    with pytest.raises(
        CircuitsError, match=r"memory=1K is too little: .* take (\d+) bytes"
    ) as told:
        method(replace(asked, how=How(memory="1K")))
    least = int(str(told.value).split(" take ")[1].split()[0])
    by_one, at_once = method(replace(asked, how=How(memory=least))).moments, method(asked).moments
    assert by_one.n == at_once.n == len(prompts)
    assert_allclose(by_one.effect, at_once.effect, atol=1e-6)
    with pytest.MonkeyPatch.context() as patched:  # where nobody sets one, a long prompt passes
        patched.setattr("circuits.discovery.search.default_memory", lambda model: 10)
        assert_allclose(method(asked).moments.effect, by_one.effect, atol=1e-12)


def test_a_long_prompt_is_told_by_its_end() -> None:
    with pytest.raises(CircuitsError, match="does not continue") as told:
        circuits.discover(
            circuits.load("mini"), prompt="the " * 500, answer=" the", reference="zero"
        )
    assert len(str(told.value)) < 400
