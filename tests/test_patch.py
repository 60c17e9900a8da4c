"""Activation patching finds the compiled model's circuit, and says what it cannot be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ground_truth
import numpy as np
import pytest
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal
from word_model import word_model

from circuits.analyses.ablate import ablate
from circuits.analyses.approximate import approximate
from circuits.analyses.patch import patch
from circuits.analyses.paths import paths
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.checkpoints.compiled import build
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import Prompts, make
from circuits.result import Result

IOI: dict[str, Any] = {
    "prompt": "aAbBcdeBfg.",
    "corrupted": "aAbBcdeCfg.",
    "answer": "A",
    "distractor": "B",
}
S2, END = ground_truth.S2_AT, ground_truth.END_AT


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    return build(n_layers=3)


@pytest.fixture(scope="module")
def words() -> HookedGPT2:
    return word_model().double()


def column(result: Result, name: str = "patched") -> dict[str, float]:
    return dict(zip(result.frame["component"], result.frame[name], strict=True))


def test_noising_heads_finds_the_circuit_and_nothing_else(compiled: HookedGPT2) -> None:
    found = patch(compiled, what="head", direction="noise", **IOI)
    expected = dict.fromkeys(column(found), 10.0)
    expected |= {"a0.h1": -10 / 3, "a1.h1": -10 / 3, "a2.h0": 0.0}
    assert len(expected) == 12
    assert column(found) == pytest.approx(expected, abs=1e-3)
    assert column(found, "clean") == pytest.approx(dict.fromkeys(expected, 10.0), abs=1e-3)
    assert column(found, "corrupted") == pytest.approx(dict.fromkeys(expected, 0.0), abs=1e-3)


def test_denoising_heads_restores_what_follows_them(compiled: HookedGPT2) -> None:
    # With the S-inhibition of the clean run the name mover is left with IO and the third name.
    found = patch(compiled, what="head", **IOI)
    expected = dict.fromkeys(column(found), 0.0) | {"a1.h1": 0.5, "a2.h0": 1.0}
    assert column(found, "share") == pytest.approx(expected, abs=1e-4)


def test_the_information_moves_from_s2_to_the_end(compiled: HookedGPT2) -> None:
    shares = column(patch(compiled, what="resid_mid", **IOI), "share")
    restored = {name for name, share in shares.items() if share > 0.9}
    assert restored == {f"resid_mid.0@{S2}", f"resid_mid.2@{END}"}
    assert shares[f"resid_mid.1@{END}"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("slot", "head", "at"), [("q", "a0.h1", S2), ("v", "a1.h1", S2)])
def test_inputs_of_heads(compiled: HookedGPT2, slot: Any, head: str, at: int) -> None:
    found = patch(compiled, what=slot, direction="noise", positions="indices", **IOI)
    values = column(found)
    low = {name for name, value in values.items() if value < -3}
    assert f"{head}<{slot}>@{at}" in low
    assert {name.partition("@")[2] for name in low} <= {str(at), str(END)}


def test_both_directions_meet_in_the_middle(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "n": 8, "seed": 2}
    denoise = patch(words, what="attn", **asked)
    noise = patch(words, what="attn", direction="noise", **asked)
    for result in (denoise, noise):
        frame = result.frame
        way = (frame["patched"] - frame["corrupted"]) / (frame["clean"] - frame["corrupted"])
        assert_allclose(frame["share"], way, rtol=1e-9, atol=1e-12)
        assert (frame["share_low"] <= frame["share"]).all()
        assert (frame["share"] <= frame["share_high"]).all()
        start = frame["clean" if result is noise else "corrupted"]
        assert_allclose(frame["value"], frame["patched"] - start, rtol=1e-9, atol=1e-9)
    assert_allclose(denoise.frame["clean"], noise.frame["clean"])
    everything = patch(words, component="resid_pre.1", **asked).frame.iloc[0]
    assert everything["share"] == pytest.approx(1)
    assert everything["share_high"] - everything["share_low"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_positions(words: HookedGPT2) -> None:
    assert words.tokenizer is not None
    by_index = patch(words, task="repeated", n=2).frame
    assert by_index["position"].tolist()[:3] == ["0", "1", "2"]
    assert patch(words, task="repeated", n=2, positions="roles").frame["position"].tolist() == [
        *("SECOND", "END") * 2
    ]
    roles = patch(words, task="ioi", n=12).frame
    assert set(roles["position"]) == {"IO", "S1", "S1+1", "S2", "END"}
    assert roles["position"].iloc[3:5].tolist() == ["S2", "END"]
    heads = patch(words, what="head", task="ioi", n=4)
    assert heads.frame["position"].isna().all()
    assert heads.axes == ("layer", "head")
    several = patch(words, what="head", positions="roles", n=4)
    assert several.axes == ("task", "position", "layer", "head")
    titles = {axes.get_title(loc="left") for axes in several.plot().axes}
    assert {"ioi S2", "repeated SECOND"} <= titles


def test_figures_of_tasks_with_other_positions(words: HookedGPT2) -> None:
    figure = patch(words, n=2).plot()
    panels = [axes for axes in figure.axes if axes.get_xlabel() == "position"]
    assert [axes.get_title(loc="left") for axes in panels] == ["repeated", "ioi"]
    labels = [tick.get_text() for tick in panels[1].get_xticklabels()]
    assert "S2" in labels
    assert len(patch(words, component="a0", n=2).plot().axes) == 1
    assert len(patch(words, what="mlp", positions="all", task="ioi", n=2).plot().axes) == 1


def test_components_are_patched_together(compiled: HookedGPT2) -> None:
    row = patch(compiled, component=["a1.h1", f"a2.h0@{END}"], **IOI).frame.iloc[0]
    assert row["component"] == f"a1.h1+a2.h0@{END}"
    assert row["share"] == pytest.approx(1, abs=1e-4)
    assert row[["layer", "head", "position"]].isna().all()


def test_kl_is_from_the_clean_run(words: HookedGPT2) -> None:
    for direction in ("denoise", "noise"):
        found = patch(words, what="mlp", task="ioi", n=3, metric="kl", direction=direction)
        assert_allclose(found.frame["clean"], 0, atol=1e-12)
        assert (found.frame["corrupted"] > 0).all()


def test_pairs_from_a_file(words: HookedGPT2, tmp_path: Path) -> None:
    row = '{"clean": "When Mary gave to", "corrupted": "When John gave to", "answer": " the"}\n'
    (tmp_path / "pairs.jsonl").write_text(row * 3)
    of_file = patch(words, what="head", file=tmp_path / "pairs.jsonl").frame
    one: dict[str, Any] = {"prompt": "When Mary gave to", "corrupted": "When John gave to"}
    of_text = patch(words, what="head", answer=" the", **one).frame
    assert_allclose(of_file["value"], of_text["value"], rtol=1e-9)
    assert set(of_file["n"]) == {3}
    assert np.isnan(of_text["share_low"]).all()


def test_plan_and_parts(words: HookedGPT2, tmp_path: Path) -> None:
    plan = patch(words, task="ioi", n=4, plan=True).frame.iloc[0]
    assert (plan["cells"], plan["forwards"]) == (12, 48)
    asked: dict[str, Any] = {"task": "ioi", "n": 4, "parts": tmp_path / "parts"}
    first = patch(words, **asked)
    assert patch(words, **asked, resume=True).to_json() == first.to_json()
    little = patch(words, task="ioi", n=4, memory="300K")
    assert_allclose(little.frame["value"], first.frame["value"], atol=1e-12)


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    patch(words, what="q", task="ioi", n=3)
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]


@pytest.mark.slow
def test_mini_restores_the_indirect_object_through_its_known_heads(mini: HookedGPT2) -> None:
    found = patch(mini, what="head", task="ioi", n=48)
    best = found.frame.sort_values("value", ascending=False)["component"].tolist()
    assert {"a0.h6", "a1.h3"} <= set(best[:4])
    assert {"a5.h5", "a6.h3"} <= set(best[:8])
    assert (found.frame["ci_low"].loc[found.frame["component"].isin(best[:4])] > 0).all()


def untwinned(model: HookedGPT2) -> Prompts:
    return replace(make("ioi", model, 2), corrupted=None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": "and and"}, "have no corrupted twins"),
        ({"task": untwinned}, "have no corrupted twins"),
        ({"prompt": "and to", "corrupted": "and to"}, "are the clean prompts themselves"),
        ({"prompt": ["and", "to"], "corrupted": "the"}, "2 prompts and 1 corrupted twins"),
        ({"prompt": "and", "corrupted": "and to"}, "compared token by token"),
        ({"task": "ioi", "corrupted": "and"}, "corrupted belongs to a prompt of your own"),
        ({"task": "ioi", "what": "heads"}, "there is no 'heads' to patch.*did you mean 'head'"),
        ({"task": "ioi", "direction": "denoised"}, "no direction 'denoised'.*mean 'denoise'"),
        ({"task": "ioi", "positions": "role"}, "positions='role'.*did you mean 'roles'"),
        ({"task": "ioi", "n": 12, "positions": "indices"}, "the same index is something else"),
        ({"task": "ioi", "component": "a99"}, "there is no layer 99"),
        ({"task": "ioi", "component": "a0", "what": "head"}, "leave out what and positions"),
        ({"task": "ioi", "component": "a0->m1"}, "is an edge"),
        ({"task": "ioi", "component": "logits"}, "the logits are what is measured"),
        ({"task": "ioi", "component": "m0@SUBJECT"}, "no position 'SUBJECT'"),
        ({"task": "repeated", "component": "pos"}, "changed nothing"),
        ({"task": "ioi", "metric": "los"}, "no metric 'los'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    task = asked.get("task")
    asked = asked | ({"task": task(words)} if callable(task) else {})
    with pytest.raises(CircuitsError, match=message):
        patch(words, **asked)


def test_the_sorting_model_has_pairs_too() -> None:
    found = patch(load("sort-abc"), n=8)
    assert set(found.frame["position"]) == {"OUTPUT", "END"}


def test_half_precision_comes_near(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"what": "head", "task": "ioi", "n": 4}
    exact = patch(words, **asked).frame["value"]
    half = patch(word_model().bfloat16(), **asked).frame["value"]
    assert_allclose(half, exact, atol=0.15 * exact.abs().max())


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (ablate, {"all_heads": True}),
        (patch, {"what": "head"}),
        (paths, {"to": "logits"}),
        (approximate, {"what": "head", "check": "all"}),
    ],
)
def test_a_metric_of_ones_own(
    words: HookedGPT2, function: Callable[..., Result], what: dict[str, Any]
) -> None:
    asked = {"task": "ioi", "n": 6, **what}
    named = function(words, metric="prob", **asked)
    given = function(words, metric=replace(get_metric("prob"), name="chance"), **asked)
    assert set(given.frame["metric"]) == {"chance"}
    assert_frame_equal(given.frame.assign(metric="prob"), named.frame)
    assert named.provenance.arguments["metric"] == "prob"
    assert "metric" not in given.provenance.arguments
    assert given.provenance.command == named.provenance.command.replace(" --metric prob", "")
