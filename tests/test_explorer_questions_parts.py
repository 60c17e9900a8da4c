"""What the page says of one head, one MLP and a circuit, beside what the library says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

import circuits
from circuits.architectures import HookedGPT2
from circuits.circuit import Circuit
from circuits.errors import CircuitsError
from circuits.explorer.desk import Desk, one_thread
from circuits.explorer.pieces import Note, Piece
from circuits.explorer.questions.circuit import CircuitParts, RunAlone
from circuits.explorer.questions.head import Listens, Why, Writes
from circuits.explorer.questions.mlp import Neurons
from circuits.explorer.questions.written import logits_of, passing
from circuits.explorer.view import JSON, Edit, View

PROMPT = "When Mary and John went to the garden, John gave a letter to"
CONTRAST = "When Mary and John went to the garden, Mary gave a letter to"
VIEW = View(PROMPT, answer=" Mary", distractor=" John")
PAIRED = View(PROMPT, contrast=CONTRAST, answer=" Mary", distractor=" John")
ASKED = {"prompt": PROMPT, "answer": " Mary", "distractor": " John"}


@pytest.fixture(scope="module")
def desk(mini: HookedGPT2) -> Desk:
    return Desk(mini)


def pieces(desk: Desk, question: str, view: View, **options: JSON) -> Mapping[str, Piece]:
    """The last piece of each kind."""
    return {piece.kind: piece for piece in desk.ask(question, view, options)}


@pytest.mark.parametrize("head", ["a0.h0", "a5.h3", "a7.h7"])
def test_what_a_head_writes_is_its_direct_attribution(desk: Desk, head: str) -> None:
    """Of the two tokens that are followed, with the final norm's scale held."""
    about, layer, index = desk.subject(VIEW), int(head[1]), int(head[-1])
    tray = desk.tray(about)
    with torch.inference_mode():
        z = passing(desk, about, tray, layer, "attn.hook_z")[about.at, index]
        logits = logits_of(desk, about, tray, z @ desk.model.blocks[layer].attn.W_O[index])
    pair = desk.followed(about)
    frame = circuits.attribute(desk.model, **ASKED).frame.set_index("component")
    pushed = float(logits[pair.answer] - logits[pair.distractor])
    assert pushed == pytest.approx(frame.loc[head, "value"], abs=1e-5)
    said = pieces(desk, "head", VIEW, head=head)["writes"]
    assert isinstance(said, Writes)
    np.testing.assert_allclose(said.raises.values, logits.topk(8).values, rtol=1e-5)
    np.testing.assert_allclose(said.lowers.values, -(-logits).topk(8).values, rtol=1e-5)


def test_why_a_head_looks_is_what_why_says(desk: Desk) -> None:
    said = pieces(desk, "head", VIEW, head="a5.h3")["why"]
    assert isinstance(said, Why)
    frame = circuits.why(desk.model, "a5.h3", PROMPT).frame
    np.testing.assert_allclose(said.values.ravel(), frame["value"], atol=1e-5)
    assert said.values.sum() == pytest.approx(said.score, abs=1e-4)
    other = pieces(desk, "head", VIEW, head="a5.h3", key=4)["why"]
    assert isinstance(other, Why)
    assert other.key == 4
    told = circuits.why(desk.model, "a5.h3", PROMPT, key=4).frame
    np.testing.assert_allclose(other.values.ravel(), told["value"], atol=1e-5)


def test_heads_listen_to_whom_their_weights_compose_with(desk: Desk) -> None:
    said = pieces(desk, "head", VIEW, head="a5.h3")["listens"]
    assert isinstance(said, Listens)
    frame = circuits.composition(desk.model, to="a5.h3").frame
    best = frame[frame["slot"] == "k"].sort_values("z", ascending=False)
    assert [heard.part for heard in said.k] == best["sender"].head(8).tolist()
    first = pieces(desk, "head", VIEW, head="a0.h3")["listens"]
    assert isinstance(first, Listens)
    assert not [*first.q, *first.k, *first.v]


def test_cards_that_take_long_are_left_to_those_who_ask_for_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuits.explorer.questions import cards

    fresh = Desk(desk.model)
    monkeypatch.setattr(cards, "QUICK", 1000)
    said = pieces(fresh, "head", VIEW, head="a5.h3")
    assert "card" not in said
    note = said["note"]
    assert isinstance(note, Note)
    assert "circuits heads --component a5.h3" in note.text


def test_threads_are_as_many_as_before_whenever_a_piece_is_there(desk: Desk) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert {torch.get_num_threads() for _ in desk.ask("read", VIEW)} == {2}
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_tray_reaches_the_head(desk: Desk) -> None:
    """What a head writes is nothing while it is silenced."""
    view = View(PROMPT, tray=(Edit("a5.h3", "zero"),))
    said = pieces(desk, "head", view, head="a5.h3")["writes"]
    assert isinstance(said, Writes)
    np.testing.assert_allclose(said.raises.values, 0, atol=1e-6)


def test_neurons_are_those_that_push_most(desk: Desk) -> None:
    said = pieces(desk, "mlp", VIEW, layer=6)["neurons"]
    assert isinstance(said, Neurons)
    n = len(said.neurons)
    frame = circuits.attribute(desk.model, what="neurons", layer=6, top=n, **ASKED).frame
    here = frame[frame["neuron"].notna()].set_index("component")
    assert {f"m6.n{each.neuron}" for each in said.neurons} == {*here.index}
    for neuron in said.neurons:
        assert neuron.effect == pytest.approx(here.loc[f"m6.n{neuron.neuron}", "value"], abs=1e-5)
        _, cache = desk.model.run_with_cache(PROMPT)
        active = float(cache["post", 6][0, -1, neuron.neuron])
        assert neuron.activation == pytest.approx(active, abs=1e-5)
        values = circuits.neurons(desk.model, f"m6.n{neuron.neuron}", show="values", top=5).frame
        raised = values.loc[values["side"] == "promoted", "token"]
        assert neuron.values == raised.tolist()
        triggers = circuits.neurons(
            desk.model, f"m6.n{neuron.neuron}", show="triggers", top=5
        ).frame
        assert neuron.triggers == triggers["token"].tolist()
    effects = [abs(neuron.effect) for neuron in said.neurons]
    assert effects == sorted(effects, reverse=True)


def test_a_published_circuit_is_shown_and_run_alone(desk: Desk) -> None:
    said = pieces(desk, "circuit", PAIRED, name="mini-ioi")
    parts, alone = said["parts"], said["alone"]
    assert isinstance(parts, CircuitParts)
    assert isinstance(alone, RunAlone)
    circuit = Circuit.published("mini-ioi")
    assert [part.part for part in parts.parts] == [str(node) for node in circuit.nodes]
    model = desk.model

    def difference(prompt: str) -> float:
        last = model(prompt)[0, -1].detach()
        return float(last[model.to_single_token(" Mary")] - last[model.to_single_token(" John")])

    assert alone.whole == pytest.approx(difference(PROMPT), abs=1e-4)
    assert alone.nothing == pytest.approx(difference(CONTRAST), abs=1e-4)


def test_a_circuits_file_is_sent_as_its_text(desk: Desk) -> None:
    whole = Circuit.whole(desk.model)
    said = pieces(desk, "circuit", VIEW, text=whole.to_json())
    alone = said["alone"]
    assert isinstance(alone, RunAlone)
    assert alone.alone == pytest.approx(alone.whole, abs=1e-3)
    assert "contrast says more" in alone.meaning


@pytest.mark.parametrize(
    ("question", "options", "says"),
    [
        ("head", {"head": "m3"}, "no head"),
        ("head", {"head": "a99.h0"}, "99"),
        ("head", {"head": "a5.h3", "key": 99}, "sees positions"),
        ("head", {}, "head is missing"),
        ("mlp", {"layer": 99}, "choose 0 to 7"),
        ("mlp", {"layer": "six"}, "whole number"),
        ("circuit", {}, "name a published circuit"),
        ("circuit", {"name": "../../secret"}, "is published"),
        ("circuit", {"name": "ioi"}, "mini"),
        ("circuit", {"text": "{}"}, "circuit"),
        ("circuit", {"text": "x" * 4_000_001}, "at most"),
    ],
)
def test_wrong_wishes_say_what_there_is(
    desk: Desk, question: str, options: Mapping[str, JSON], says: str
) -> None:
    with pytest.raises(CircuitsError, match=says) as error:
        list(desk.ask(question, VIEW, options))
    assert "/tmp" not in str(error.value)
