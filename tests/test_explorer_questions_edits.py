"""Edits of the tray beside hooks written by hand, and views that cannot be answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.explorer.desk import Desk
from circuits.explorer.view import Edit, View
from circuits.explorer.wire import to_json

PROMPT = "When Mary and John went to the garden, John gave a letter to"
CONTRAST = "When Mary and John went to the garden, Mary gave a letter to"
Hand = Callable[[HookedGPT2], list[tuple[str, Any]]]


@pytest.fixture(scope="module")
def desk(mini: HookedGPT2) -> Desk:
    return Desk(mini)


def asked(desk: Desk, question: str, view: View, **options: Any) -> list[dict[str, Any]]:
    return [to_json(piece) for piece in desk.ask(question, view, options)]


def of_kind(pieces: list[dict[str, Any]], kind: str) -> list[Any]:
    return [piece for piece in pieces if piece["kind"] == kind]


def with_tray(*edits: Edit, **more: Any) -> View:
    return View(PROMPT, CONTRAST, answer=" Mary", distractor=" John", tray=edits, **more)


def at_head(change: Callable[[Tensor], Tensor], site: str, head: int) -> list[tuple[str, Any]]:
    """A hook that changes what one head has at a site [b p h ...]."""

    def write(value: Tensor, hook: Any) -> Tensor:
        value[:, :, head] = change(value[:, :, head])
        return value

    return [(site, write)]


def passing(model: HookedGPT2, site: str, text: str = PROMPT) -> Tensor:
    return model.run_with_cache(text, names_filter=site)[1][site]


def frozen(model: HookedGPT2) -> list[tuple[str, Any]]:
    """m1 doubled, while layer 5 attends as it did."""
    site = "blocks.5.attn.hook_pattern"
    held = passing(model, site)
    return [("blocks.1.hook_mlp_out", lambda value, hook: 2 * value), (site, lambda *_: held)]


def steered(model: HookedGPT2) -> list[tuple[str, Any]]:
    toward = model.W_U[:, model.to_single_token(" John")]
    toward = toward / toward.norm()

    def add(value: Tensor, hook: Any) -> Tensor:
        value[:, 14] += 0.5 * value[:, 14].norm() * toward
        return value

    return [("blocks.4.hook_resid_post", add)]


def patched(model: HookedGPT2) -> list[tuple[str, Any]]:
    other = passing(model, "blocks.3.hook_resid_pre", CONTRAST)

    def write(value: Tensor, hook: Any) -> Tensor:
        value[:, 10] = other[:, 10]
        return value

    return [("blocks.3.hook_resid_pre", write)]


def averaged(model: HookedGPT2) -> list[tuple[str, Any]]:
    site = "blocks.6.attn.hook_z"
    mean = passing(model, site)[0, :, 2].mean(0)
    return at_head(lambda value: mean.expand_as(value), site, 2)


BY_HAND: Mapping[str, tuple[tuple[Edit, ...], Hand]] = {
    "zero a head": (
        (Edit("a5.h0", "zero"),),
        lambda _: at_head(torch.zeros_like, "blocks.5.attn.hook_z", 0),
    ),
    "mean of a head": ((Edit("a6.h2", "mean"),), averaged),
    "scale a head's query": (
        (Edit("a5.h1<q>", "scale", -1),),
        lambda _: at_head(torch.neg, "blocks.5.hook_q_input", 1),
    ),
    "patch the stream at one place": ((Edit("resid_pre.3@10", "patch"),), patched),
    "steer at the end": ((Edit("resid_post.4@-1", "steer", 0.5, " John"),), steered),
    "freeze a layer": ((Edit("m1", "scale", 2), Edit("a5", "freeze")), frozen),
    "one is off": (
        (Edit("a5.h0", "zero"), Edit("a7", "zero", on=False)),
        lambda _: at_head(torch.zeros_like, "blocks.5.attn.hook_z", 0),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_edits_are_hooks_written_by_hand(desk: Desk, name: str) -> None:
    model, (edits, hand) = desk.model, BY_HAND[name]
    assert isinstance(model, HookedGPT2)
    view, hooks = with_tray(*edits), hand(model)
    with torch.no_grad():
        logits = model.run_with_hooks(PROMPT, fwd_hooks=hooks)[0, -1]
        plain = model(PROMPT)[0, -1]
    assert not torch.allclose(logits, plain, atol=1e-3)
    pieces = asked(desk, "read", view)
    now, before, *_ = of_kind(pieces, "predictions")
    assert (now["of"], before["of"]) == ("now", "before")
    np.testing.assert_allclose(now["logits"], logits[now["ids"]], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(before["logits"], plain[before["ids"]], rtol=1e-4, atol=1e-4)
    mary, john = (model.to_single_token(word) for word in (" Mary", " John"))
    (followed,) = of_kind(pieces, "followed")
    assert followed["difference"] == pytest.approx(float(logits[mary] - logits[john]), abs=1e-3)
    assert followed["before"] == pytest.approx(float(plain[mary] - plain[john]), abs=1e-3)


@pytest.mark.parametrize("name", ["patch the stream at one place", "freeze a layer"])
def test_maps_of_an_edited_model_are_passes_with_two_hooks(desk: Desk, name: str) -> None:
    model, (edits, hand) = desk.model, BY_HAND[name]
    assert isinstance(model, HookedGPT2)
    view, hooks = with_tray(*edits), hand(model)
    mary, john = (model.to_single_token(word) for word in (" Mary", " John"))

    def difference(*more: tuple[str, Any]) -> float:
        with torch.no_grad():
            logits = model.run_with_hooks(PROMPT, fwd_hooks=[*hooks, *more])[0, -1]
        return float(logits[mary] - logits[john])

    base = difference()
    layers = {layer["layer"]: layer for layer in of_kind(asked(desk, "map", view), "layer")}
    for layer in (0, 3, 5, 7):
        for head in (0, 7):
            zeroed = at_head(torch.zeros_like, f"blocks.{layer}.attn.hook_z", head)
            effect = difference(*zeroed) - base
            assert layers[layer]["heads"][head] == pytest.approx(effect, abs=1e-3)
        effect = difference((f"blocks.{layer}.hook_mlp_out", lambda v, hook: 0 * v)) - base
        assert layers[layer]["mlp"] == pytest.approx(effect, abs=1e-3)


def test_edited_attention_and_lens_are_of_the_edited_model(desk: Desk) -> None:
    model, (edits, hand) = desk.model, BY_HAND["steer at the end"]
    assert isinstance(model, HookedGPT2)
    view, hooks = with_tray(*edits), hand(model)
    with model.hooks(hooks):
        _, cache = model.run_with_cache(PROMPT)
        lens = circuits.logit_lens(model, PROMPT, positions="all").frame
        direct = circuits.attribute(model, prompt=PROMPT, answer=" Mary", distractor=" John").frame
    (layer,) = [p for p in asked(desk, "map", view, what="looks") if p.get("layer") == 6]
    assert layer["heads"] == pytest.approx(cache["pattern", 6][0, :, -1].max(-1).values.tolist())
    shown = of_kind(asked(desk, "lens", view), "lens")[0]["lens"]
    last = [tokens[-1] for tokens in shown["tokens"]]
    assert last == [lens.iloc[-1][name] for name in ("token", *(f"token_{i}" for i in range(2, 6)))]
    pushes = of_kind(asked(desk, "map", view, what="direct"), "layer")
    expected = direct.set_index("component")["value"]
    assert pushes[0]["heads"] == pytest.approx([expected[f"a7.h{h}"] for h in range(8)], abs=1e-4)


def test_text_goes_on_with_and_without_the_edits(desk: Desk) -> None:
    view = with_tray(
        Edit("a5", "zero"), Edit("resid_mid.7", "steer", 3, " the"), Edit("a4", "freeze")
    )
    pieces = of_kind(asked(desk, "continuation", view, n=4), "continued")
    assert [piece["of"] for piece in pieces[:4]] == ["now", "before", "now", "before"]
    plain = of_kind(asked(desk, "continuation", View(PROMPT), n=4), "continued")
    before = [piece["id"] for piece in pieces if piece["of"] == "before"]
    assert before == [piece["id"] for piece in plain]
    assert [piece["id"] for piece in pieces if piece["of"] == "now"] != before


def test_an_earlier_position_is_that_of_a_shorter_prompt(desk: Desk) -> None:
    """What comes later plays no part: everything is as if the text ended there."""
    shorter = "When Mary and John went to the garden, John"
    pair = {"answer": " gave", "distractor": " was"}
    for options in ({"method": "zero"}, {"method": "mean"}, {"what": "direct"}):
        here = asked(desk, "map", View(PROMPT, at=10, **pair), **options)
        there = asked(desk, "map", View(shorter, **pair), **options)
        for one_layer, other in zip(of_kind(here, "layer"), of_kind(there, "layer"), strict=True):
            assert one_layer["heads"] == pytest.approx(other["heads"], abs=1e-4)
        assert here[-1]["command"] == there[-1]["command"]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["\U0001f600 \U0001f468", "שלום עולם", "\x00<b>\u202e", " ", "\n"])
def test_any_text_can_be_read(desk: Desk, text: str) -> None:
    view = View(text, contrast=text + " and")
    (tokens,) = of_kind(asked(desk, "read", view), "tokens")
    assert desk.model.require_tokenizer().decode(tokens["ids"][1:]) == text
    for at in range(len(tokens["ids"])):  # also within a character
        pieces = asked(desk, "map", View(text, at=at))
        assert len(of_kind(pieces, "layer")) == 8
        assert of_kind(pieces, "take")


@pytest.mark.parametrize(
    ("view", "says"),
    [
        (View("a " * 400), "tokens, and mini reads at most 256"),
        (View("Once", at=9), "no position 9: the prompt has 2 tokens"),
        (View("Once", answer="zzzzzz"), "answer: 'zzzzzz' is"),
        (View("Once", answer=9999), "no token 9999"),
        (View("Once", answer=" Mary", distractor="Mary "), "distractor"),
        (View("Once", answer=5, distractor=5), "the same token"),
        (View("Once", tray=(Edit("a99.h0", "zero"),)), "no layer 99"),
        (View("Once", tray=(Edit("nonsense", "zero"),)), "names no component"),
        (View("Once", tray=(Edit("logits", "zero"),)), "cannot be edited"),
        (View("Once", tray=(Edit("m3@77", "zero"),)), "choose 0 to 1"),
        (View("Once", tray=(Edit("m3@S1", "zero"),)), "no role 'S1'"),
        (View("Once", tray=(Edit("m3", "freeze"),)), "no attention pattern"),
        (View("Once", tray=(Edit("a5.h3<pattern>", "zero"),)), "name a5.h3"),
        (View("Once", tray=(Edit("a5.h3", "steer", 1, " Mary"),)), "cannot be steered"),
        (View("Once", tray=(Edit("m3", "patch"),)), "contrasting prompt"),
        (View("Once", "Once upon", tray=(Edit("m3", "patch"),)), "equally long"),
    ],
)
def test_what_cannot_be_answered_is_said(desk: Desk, view: View, says: str) -> None:
    with pytest.raises(CircuitsError, match=says):
        asked(desk, "read", view)


def test_a_contrast_of_another_length_is_shown_and_not_compared(desk: Desk) -> None:
    view = View("Once upon a time", "Once upon")
    (contrast,) = of_kind(asked(desk, "read", view), "contrast")
    assert contrast["differs"] is None
    assert "equally long" in contrast["unaligned"]
    for options in ({"what": "patch"}, {"method": "resample"}):
        with pytest.raises(CircuitsError, match="equally long"):
            asked(desk, "map", view, **options)
        with pytest.raises(CircuitsError, match="write one"):
            asked(desk, "map", View("Once"), **options)
    later = View("Once upon a time", "Once upon a day", at=1)
    with pytest.raises(CircuitsError, match="the same, so there is nothing"):
        asked(desk, "map", later, what="patch")


def test_unknown_questions_and_options_are_refused(desk: Desk) -> None:
    for question, options, says in (
        ("maps", {}, "did you mean 'map'"),
        ("map", {"wath": "direct"}, "did you mean 'what'"),
        ("map", {"what": "beauty"}, "choose ablate"),
        ("cell", {"stage": "m9", "position": 0}, "no stage 'm9'"),
        ("cell", {"stage": "m3", "position": 99}, "no position 99"),
        ("continuation", {"n": 0}, "1 to 200"),
    ):
        with pytest.raises(CircuitsError, match=says):
            asked(desk, question, View("Once"), **options)


def test_models_without_tokenizer_take_token_ids() -> None:
    cfg = ModelConfig(2, n_heads=2, d_model=8, n_ctx=16, d_vocab=20)
    desk = Desk(HookedGPT2.random(cfg, seed=0))
    view = View("3 1 4, 1 5", "3 1 4 2 5")
    pieces = asked(desk, "read", view)
    assert of_kind(pieces, "tokens")[0]["texts"] == ["3", "1", "4", "1", "5"]
    check_maps(desk, view, has_mlps=True)
    with pytest.raises(CircuitsError, match="'x' is no token id"):
        asked(desk, "read", View("3 x"))
    with pytest.raises(CircuitsError, match="no tokenizer"):
        asked(desk, "lens", view)
    with pytest.raises(CircuitsError, match="no tokens"):
        asked(desk, "read", View(""))
    assert asked(desk, "map", view)[-1]["command"] == ""  # it is in no file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@pytest.mark.parametrize("shape", ["gpt2", "attn-only", "pythia"])
def test_models_of_another_library_are_asked_like_any(shape: str) -> None:
    pytest.importorskip("transformer_lens")
    from lens_models import lens_model

    desk = Desk(circuits.adapt(lens_model(shape, words=False)))
    check_maps(desk, View("3 1 4 1 5", "3 1 4 2 5"), has_mlps=shape != "attn-only")


def check_maps(desk: Desk, view: View, *, has_mlps: bool) -> None:
    """With an edit that changes nothing, the map is the same by another way."""
    tray = (Edit("a0.h1", "scale", 1.0),)
    edited = View(view.prompt, view.contrast, tray=tray)
    for options in ({}, {"method": "mean"}, {"what": "direct"}, {"what": "patch"}):
        layers = of_kind(asked(desk, "map", view, **options), "layer")
        again = of_kind(asked(desk, "map", edited, **options), "layer")
        assert [layer["mlp"] is not None for layer in layers] == [has_mlps] * len(layers)
        assert len(layers) == desk.model.cfg.n_layers
        for layer, other in zip(layers, again, strict=True):
            assert layer["heads"] == pytest.approx(other["heads"], abs=1e-4)
    assert of_kind(asked(desk, "map", view, what="looks"), "layer")
    assert len(of_kind(asked(desk, "attention", view), "attention")) == len(layers)
    assert of_kind(asked(desk, "head", view, head="a1.h0"), "take")
    assert asked(desk, "about", view)
