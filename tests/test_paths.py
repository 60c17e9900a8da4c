"""Path patching finds the compiled model's six edges, and no edge that there is not."""

from __future__ import annotations

from typing import Any

import ground_truth
import pytest
from ground_truth import TRUE_EDGES
from word_model import word_model

from circuits.analyses.paths import paths
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.result import Result

IOI: dict[str, Any] = {
    "prompt": "aAbBcdeBfg.",
    "corrupted": "aAbBcdeCfg.",
    "answer": "A",
    "distractor": "B",
}


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    return build(n_layers=3)


@pytest.fixture(scope="module")
def words() -> HookedGPT2:
    return word_model().double()


def edges(result: Result, column: str = "patched") -> dict[str, float]:
    return dict(zip(result.frame["edge"], result.frame[column], strict=True))


def named(edge: str) -> str:
    """emb->0.1.q is embed->a0.h1<q>."""
    sender, receiver = (
        end if end in ("emb", "out") else "a{}.h{}".format(*end.split(".")[:2])
        for end in edge.split("->")
    )
    slot = f"<{edge[-1]}>" if receiver != "out" else ""
    names = {"emb": "embed", "out": "logits"}
    return f"{names.get(sender, sender)}->{names.get(receiver, receiver)}{slot}"


def test_every_edge_of_every_sender_finds_exactly_the_six_true_ones(compiled: HookedGPT2) -> None:
    found: dict[str, float] = {}
    for sender in ("embed", "a0.h0", "a0.h1", "a1.h0", "a1.h1", "a2.h0"):  # the others are zero
        found |= edges(paths(compiled, from_=sender, **IOI))
    expected = dict.fromkeys(found, 10.0)
    expected |= {named(edge): value for edge, value in TRUE_EDGES.items()}
    mlps_and_logits = 4 + 2 * 4 + 2 * 3 + 2
    assert len(expected) == len(found) == 36 + 2 * 24 + 2 * 12 + mlps_and_logits
    assert found == pytest.approx(expected, abs=2e-3)


def test_every_edge_to_a_receiver(compiled: HookedGPT2) -> None:
    for receiver in ("a2.h0<q>", "a2.h0<k>", "a1.h1<v>", "logits"):
        found = edges(paths(compiled, to=receiver, **IOI))
        true = {named(edge): value for edge, value in TRUE_EDGES.items()}
        expected = {edge: true.get(edge, 10.0) for edge in found}
        assert found == pytest.approx(expected, abs=2e-3)


def test_every_edge_of_a_sender(compiled: HookedGPT2) -> None:
    found = paths(compiled, from_="a1.h1", **IOI)
    expected = dict.fromkeys(edges(found), 10.0) | {"a1.h1->a2.h0<q>": -10 / 3}
    assert edges(found) == pytest.approx(expected, abs=1e-3)
    assert len(expected) == 12 + 2 + 1  # the next layer's inputs, two MLPs, the logits
    assert edges(found, "share")["a1.h1->a2.h0<q>"] == pytest.approx(4 / 3, abs=1e-4)
    assert found.axes == ("stage", "part")
    assert found.plot().axes


def test_one_edge_between_two_ends(compiled: HookedGPT2) -> None:
    found = paths(compiled, from_="embed", to="a2.h0<k>", **IOI)
    assert edges(found) == pytest.approx({"embed->a2.h0<k>": 0}, abs=2e-3)
    part = Component("head", 0, 1)
    found = paths(compiled, from_=["a1.h1", part], to=["a2.h0", "logits"], **IOI)
    assert edges(found) == pytest.approx(
        {"a1.h1->a2.h0+a1.h1->logits": -10 / 3, "a0.h1->a2.h0+a0.h1->logits": 10}, abs=1e-3
    )
    assert found.view == "bars"


def test_positions_of_sender_and_receiver(compiled: HookedGPT2) -> None:
    at = ground_truth.END_AT
    found = edges(paths(compiled, from_=f"a1.h1@{at}", to=f"a2.h0<q>@{at}", **IOI))
    assert found == pytest.approx({f"a1.h1@{at}->a2.h0<q>@{at}": -10 / 3}, abs=1e-3)
    with pytest.raises(CircuitsError, match=r"patching a1.h1@3->a2.h0<q>@11 changed nothing"):
        paths(compiled, from_="a1.h1@3", to=f"a2.h0<q>@{at}", **IOI)


def test_denoising_along_a_path(compiled: HookedGPT2) -> None:
    found = paths(compiled, to="logits", direction="denoise", **IOI)
    expected = dict.fromkeys(edges(found), 0.0) | {"a2.h0->logits": 10.0}
    assert edges(found) == pytest.approx(expected, abs=1e-3)
    assert edges(found, "share")["a2.h0->logits"] == pytest.approx(1, abs=1e-4)


def test_all_direct_paths_add_up_to_the_logits_for_a_linear_metric(compiled: HookedGPT2) -> None:
    # The compiled model's final LayerNorm is the identity, so the logits are a sum of its parts.
    frame = paths(compiled, to="logits", direction="denoise", **IOI).frame
    assert frame["value"].sum() == pytest.approx(10, abs=1e-3)


def test_the_table(words: HookedGPT2) -> None:
    frame = paths(words, to=["a1.h0<q>", "m1"], task="ioi", n=6).frame
    assert frame["sender"].tolist()[:4] == ["embed", "a0.h0", "a0.h1", "m0"]
    assert frame["receiver"].tolist()[:2] == ["a1.h0<q>+m1"] * 2
    assert frame["receiver"].tolist()[-1] == "m1"  # a1's heads reach the MLP only
    assert frame["stage"].tolist()[:4] == ["input", "0", "0", "0"]
    assert frame["part"].tolist()[:4] == ["embed", "h0", "h1", "mlp"]
    assert (frame["ci_low"] <= frame["value"]).all()
    assert set(frame["n"]) == {6}
    plan = paths(words, to="logits", task="ioi", n=3, plan=True).frame.iloc[0]
    assert plan["cells"] == 2 + 1 + 4 + 2


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    paths(words, from_="a0.h0", task="ioi", n=2)
    assert checksum(words) == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing to trace"),
        ({"to": "a99.h0"}, "there is no layer 99"),
        ({"from_": "m99"}, "there is no layer 99"),
        ({"to": "a0.h9<q>"}, "there is no head 9"),
        ({"from_": "m1", "to": "a0.h0"}, "a0.h0 does not come after m1"),
        ({"from_": "a1.h0", "to": "a1.h1<k>"}, "does not come after"),
        ({"to": "embed"}, "nothing comes before embed"),
        ({"from_": "resid_post.1", "to": "m0"}, "does not come after"),
        ({"from_": "a0.h0<q>", "to": "m1"}, "is an input and sends nothing"),
        ({"from_": "a0", "to": "resid_pre.1"}, "cannot receive an edge"),
        ({"to": "logits", "prompt": "and to"}, "have no corrupted twins"),
        ({"to": "a0.h0->m1"}, "is an edge"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        paths(words, **({"n": 2} if "prompt" not in asked else {}), **asked)
