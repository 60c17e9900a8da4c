"""Names of parts: printing and parsing agree, and every wrong name gets one clear sentence."""

from __future__ import annotations

from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given
from random_models import TINY, randomized

from circuits.components import (
    Component,
    Edge,
    Slot,
    all_heads,
    all_mlps,
    check,
    parse,
    parse_edge,
)
from circuits.config import GPT2_SIZES, ModelConfig
from circuits.errors import CircuitsError

MINI = ModelConfig(8, n_heads=8, d_model=64, n_ctx=256, d_vocab=10, model_name="mini")

layers = st.integers(0, 99)
positions = st.none() | st.integers(-99, 99) | st.sampled_from(["END", "IO", "S1+1", "S2", "x_1"])
heads = st.builds(
    Component,
    st.just("head"),
    layers,
    layers,
    st.none() | st.sampled_from(["q", "k", "v", "pattern"]),
    positions,
)
neurons = st.builds(
    lambda layer, neuron, at: Component("neuron", layer, neuron=neuron, position=at),
    layers,
    layers,
    positions,
)
in_a_layer = st.builds(
    lambda kind, layer, at: Component(kind, layer, position=at),
    st.sampled_from(["attn", "mlp", "resid_pre", "resid_mid", "resid_post"]),
    layers,
    positions,
)
alone = st.builds(
    lambda kind, at: Component(kind, position=at),
    st.sampled_from(["embed", "pos", "logits"]),
    positions,
)
components = heads | neurons | in_a_layer | alone


@given(components)
def test_parsing_inverts_printing(component: Component) -> None:
    assert parse(str(component)) == component
    assert parse(f" {component} ") == component


@given(components, components)
def test_edges_parse_as_printed(sender: Component, receiver: Component) -> None:
    try:
        edge = Edge(sender, receiver)
    except CircuitsError:
        return
    assert parse_edge(str(edge)) == edge
    with pytest.raises(CircuitsError):
        Edge(receiver, sender)


@pytest.mark.parametrize(
    ("text", "kind", "layer", "head", "slot", "position"),
    [
        ("a5.h3", "head", 5, 3, None, None),
        ("a0.h0<v>@S1+1", "head", 0, 0, "v", "S1+1"),
        ("a5", "attn", 5, None, None, None),
        ("a5.h3<pattern>@END", "head", 5, 3, "pattern", "END"),
        ("m7@END", "mlp", 7, None, None, "END"),
        ("m7.n12@-1", "neuron", 7, None, None, -1),
        ("embed", "embed", None, None, None, None),
        ("pos@3", "pos", None, None, None, 3),
        ("resid_pre.6@-1", "resid_pre", 6, None, None, -1),
        ("resid_post.11", "resid_post", 11, None, None, None),
        ("logits", "logits", None, None, None, None),
    ],
)
def test_the_grammar(
    text: str, kind: str, layer: object, head: object, slot: object, position: object
) -> None:
    found = parse(text)
    assert (found.kind, found.layer, found.head, found.slot, found.position) == (
        kind,
        layer,
        head,
        slot,
        position,
    )
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5.3", "did you mean 'a5.h3'?"),
        ("L5H3", "did you mean 'a5.h3'?"),
        ("a5h3", "did you mean 'a5.h3'?"),
        ("A5.3", "did you mean 'a5.h3'?"),
        ("mlp7", "did you mean 'm7'?"),
        ("mlp7.n12", "did you mean 'm7.n12'?"),
        ("L7N12", "did you mean 'm7.n12'?"),
        ("attn12", "did you mean 'a12'?"),
        ("resid_prr.6", "did you mean 'resid_pre.6'?"),
        ("embedding", "did you mean 'embed'?"),
        ("m7<q>", "only a head has inputs"),
        ("m7.n12<pattern>", "only a head has inputs <q>, <k> and <v>, and a <pattern>"),
        ("a5.n12", "names no component"),
        ("a5.h3@", "names no component"),
        ("a5.h3@+3", "no position"),
        ("a٣", "names no component"),
        ("", "names no component"),
    ],
)
def test_wrong_names_get_the_right_one(text: str, hint: str) -> None:
    with pytest.raises(CircuitsError) as error:
        parse(text)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Component("head", 99, 3), "there is no layer 99: mini has layers 0 to 7"),
        (Component("mlp", -1), "there is no layer -1: mini has layers 0 to 7"),
        (Component("head", 5, 8), "there is no head 8: mini has heads 0 to 7 in each layer"),
        (
            Component("neuron", 5, neuron=256),
            "there is no neuron 256: mini has neurons 0 to 255 in each layer",
        ),
        (
            Component("mlp", 5, position=256),
            "there is no position 256: mini reads at most 256 tokens",
        ),
    ],
)
def test_parts_the_model_lacks(component: Component, message: str) -> None:
    with pytest.raises(CircuitsError) as error:
        check(component, MINI)
    assert str(error.value) == message


def test_the_only_layer_and_head_are_named_so() -> None:
    small = ModelConfig(1, n_heads=1, d_model=4, n_ctx=4, d_vocab=4, model_name="small")
    with pytest.raises(CircuitsError, match=r"small has only layer 0$"):
        check(Component("mlp", 1), small)
    with pytest.raises(CircuitsError, match=r"small has only head 0 in each layer$"):
        check(Component("head", 0, 1), small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("head", 5), "takes a layer and a head"),
        (("mlp",), "takes a layer; given were layer=None"),
        (("mlp", 5, 3), "takes a layer; given were layer=5, head=3"),
        (("embed", 0), "takes no number; given were layer=0"),
        (("neuron", 5), "takes a layer and a neuron"),
        (("haed", 5, 3), "did you mean 'head'"),
        (("head", 5, 3, "z"), "only a head has inputs"),
        (("head", 5, 3, None, "@END"), "is no position"),
    ],
)
def test_fields_that_do_not_belong_together(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(CircuitsError) as error:
        Component(*arguments)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "m1.n2->m1",
        "m1.n2->a1",
        "a2.h2->a5.h5<pattern>",
        "a2.h2<pattern>->m3",
        "a5.h3->a5.h4",
        "m7->a7.h0",
        "a2.h2<q>->a5.h5",
        "a1->a0",
        "logits->m3",
        "m1->resid_pre.1",
    ],
)
def test_impossible_edges(text: str) -> None:
    with pytest.raises(CircuitsError):
        parse_edge(text)


@pytest.mark.parametrize(
    "text",
    ["embed->a0.h0<k>", "a5.h3->m5", "a5.h3->a6.h0<v>", "m5->resid_post.5", "m5.n1->logits@END"],
)
def test_possible_edges(text: str) -> None:
    assert str(parse_edge(text)) == text


@pytest.mark.parametrize("text", ["a5.h3", "a5.h3->m6->m7", ""])
def test_an_edge_has_two_ends(text: str) -> None:
    with pytest.raises(CircuitsError, match="names no edge"):
        parse_edge(text)


def test_every_part_of_gpt2_is_listed() -> None:
    cfg = GPT2_SIZES["gpt2"]
    assert len(all_heads(cfg)) == len(set(all_heads(cfg))) == 144
    assert len(all_mlps(cfg)) == 12
    assert all(check(part, cfg) is part for part in (*all_heads(cfg), *all_mlps(cfg)))


def test_every_part_has_a_site_in_the_model() -> None:
    sites = set(randomized().hook_dict)
    kinds = ["attn", "mlp", "resid_pre", "resid_mid", "resid_post"]
    parts = [*all_heads(TINY), *(Component(kind, 1) for kind in kinds)]  # type: ignore[arg-type]
    parts += [Component(kind) for kind in ("embed", "pos", "logits")]
    parts += [Component("head", 1, 2, slot) for slot in get_args(Slot)]
    parts += [parse("m1.n19")]
    assert {part.site for part in parts} <= sites
    assert parse("a1.h2<k>@3").site == "blocks.1.hook_k_input"


def test_narrowing_to_a_position() -> None:
    assert str(parse("a1.h2<k>").at("S1+1")) == "a1.h2<k>@S1+1"
    assert parse("m3@END").at(None) == parse("m3")


def test_the_own_part_of_what_passes_a_site() -> None:
    model = randomized()
    _, cache = model.run_with_cache([[1, 2, 3]], names_filter=lambda name: True)
    shapes = {"a1.h2": 6, "a1.h2<pattern>": 3, "a1.h2<k>": 16, "m1.n19": 1, "m1": 16, "embed": 16}
    for name, width in shapes.items():
        part = parse(name)
        assert cache[part.site][part.within].shape == (1, 3, width)
    pattern = parse("a1.h2<pattern>")
    assert cache[pattern.site][pattern.within].equal(cache["pattern", 1][:, 2])
    assert cache["post", 1][parse("m1.n19").within][..., 0].equal(cache["post", 1][..., 19])
