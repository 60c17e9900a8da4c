"""Path patching finds the compiled model's six edges, and no edge that there is not."""

from __future__ import annotations

from typing import Any

import ground_truth
import pytest
import torch
from ground_truth import TRUE_EDGES
from word_model import word_model

from circuits.analyses.paths import paths
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.components import Component, parse
from circuits.errors import CircuitsError
from circuits.metrics import METRICS
from circuits.prompts import Prompts, make
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


def wang(
    model: HookedGPT2, prompts: Prompts, sender: tuple[int, int], slot: str | None, to: Any
) -> torch.Tensor:
    """Logits [b p v] by the four steps of Wang et al. 2022, appendix B.1, with plain hooks.

    `to` is a head that reads by its `slot`, or None for the logits.
    """
    assert prompts.corrupted is not None
    every = range(model.cfg.n_layers)
    options: dict[str, Any] = {"attention_mask": prompts.mask}
    original = model.run_with_cache(prompts.tokens, **options)[1]
    new = model.run_with_cache(prompts.corrupted, **options)[1]

    def held(layer: int) -> Any:
        def hook(z: torch.Tensor, hook: Any) -> torch.Tensor:
            z = original["z", layer].clone()
            if layer == sender[0]:
                z[:, :, sender[1]] = new["z", layer][:, :, sender[1]]
            return z

        return hook

    hooks: list[Any] = [(f"blocks.{layer}.attn.hook_z", held(layer)) for layer in every]
    seen: list[torch.Tensor] = []
    if to is not None:
        hooks.append((f"blocks.{to[0]}.attn.hook_{slot}", lambda x, hook: seen.append(x.clone())))
    logits: torch.Tensor = model.run_with_hooks(prompts.tokens, fwd_hooks=hooks, **options)
    if to is None:
        return logits

    def patch(x: torch.Tensor, hook: Any) -> torch.Tensor:
        x[:, :, to[1]] = seen[0][:, :, to[1]]
        return x

    hook = (f"blocks.{to[0]}.attn.hook_{slot}", patch)
    patched: torch.Tensor = model.run_with_hooks(prompts.tokens, fwd_hooks=[hook], **options)
    return patched


@pytest.mark.parametrize("to", ["logits", "a1.h0<q>", "a1.h1<k>", "a1.h0<v>"])
def test_with_heads_held_it_is_the_path_patching_of_the_ioi_paper(
    words: HookedGPT2, to: str
) -> None:
    prompts = make("ioi", words, 6, 0)
    found = edges(paths(words, from_="a0.h1", to=to, task=prompts, hold="heads"))
    part = None if to == "logits" else parse(to)
    with torch.no_grad():
        logits = wang(words, prompts, (0, 1), part and part.slot, part and (part.layer, part.head))
        expected = METRICS["logit_diff"](logits, prompts).mean().item()
    assert found == pytest.approx({f"a0.h1->{to}": expected}, abs=1e-9)
    assert (
        abs(edges(paths(words, from_="a0.h1", to=to, task=prompts))[f"a0.h1->{to}"] - expected)
        > 1e-4
    )


@pytest.mark.slow
def test_on_mini_heads_reach_the_logits_twice_as_much_by_way_of_mlps(mini: HookedGPT2) -> None:
    asked: dict[str, Any] = {"to": "logits", "task": "ioi", "n": 100, "seed": 3}
    both = [paths(mini, hold=hold, **asked) for hold in ("all", "heads")]
    direct, whole = (result.frame[result.frame["head"].notna()]["value"] for result in both)
    assert direct.corr(whole) == pytest.approx(0.984, abs=0.001)
    assert whole.abs().sum() / direct.abs().sum() == pytest.approx(2.090, abs=0.001)
    assert "also by way of MLPs" in both[1].title
    assert "MLPs" not in both[0].title


def test_without_mlps_between_both_are_the_same(words: HookedGPT2) -> None:
    for ends in ({"from_": "m1", "to": "logits"}, {"from_": ["a1.h0", "a1.h1"], "to": "m1"}):
        asked: dict[str, Any] = ends | {"task": "ioi", "n": 4}
        one, other = (paths(words, hold=hold, **asked).frame for hold in ("all", "heads"))
        assert one["value"].tolist() == pytest.approx(other["value"].tolist(), abs=1e-9)


@pytest.mark.parametrize("hold", ["all", "heads"])
@pytest.mark.parametrize("to", ["m1@S1", "a1.h0<q>@S2", "a1.h1@S1", "a1@IO", ["m1@S1", "m1@IO"]])
def test_a_receiver_that_nobody_reads_has_no_effect(words: HookedGPT2, to: Any, hold: Any) -> None:
    # ioi is measured at END, where a last layer's MLP and queries elsewhere are not seen.
    frame = paths(words, from_="embed", to=to, task="ioi", n=4, hold=hold).frame
    if to == "a1.h1@S1" or to == "a1@IO":  # its keys and values are
        assert frame["value"].item() != 0
        return
    assert frame["value"].tolist() == [0.0]
    assert frame[["ci_low", "ci_high", "share"]].values.tolist() == [[0.0, 0.0, 0.0]]
    assert frame["patched"].tolist() == frame["clean"].tolist()


def test_a_head_that_does_not_respond_has_no_effect(compiled: HookedGPT2) -> None:
    # a2.h3 is zeros: it gets what a1.h1 sends, and makes nothing of it.
    found = paths(compiled, from_="a1.h1", to="a2.h3<q>", **IOI)
    assert edges(found, "value") == {"a1.h1->a2.h3<q>": 0.0}


def test_an_edge_that_carries_nothing_is_an_error(compiled: HookedGPT2, words: HookedGPT2) -> None:
    # The twin differs from the eighth token on; a sender of zeros never does.
    nothing: list[dict[str, Any]] = [
        {"from_": "embed@3", "to": "m1@3"},
        {"from_": "a1.h3", "to": "logits"},
    ]
    for ends in nothing:
        with pytest.raises(CircuitsError, match="changed nothing"):
            paths(compiled, **ends, **IOI)
    with pytest.raises(CircuitsError, match="changed nothing"):
        paths(words, from_="embed@S1", to="m1@S2", task="ioi", n=4)
    with pytest.raises(CircuitsError, match="hold='head': between.*did you mean 'heads'"):
        paths(words, to="logits", task="ioi", n=2, hold="head")  # type: ignore[arg-type]
