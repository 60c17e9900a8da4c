"""Weights and configurations at the door against TransformerLens' own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lens_door import TOKENS, assert_close, assert_folded, their_model, twin
from lens_twin import IGNORE_DEPRECATION

from circuits import load
from circuits.errors import CircuitsError
from circuits.transformer_lens import (
    HookedTransformer,
    HookedTransformerConfig,
)

transformer_lens = pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return their_model()


@pytest.fixture
def ours(theirs: Any) -> HookedTransformer:
    return twin(theirs)


def test_weights_have_their_names_order_and_gradients(ours: HookedTransformer, theirs: Any) -> None:
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    for model in (ours, theirs):
        model.zero_grad()
        model(TOKENS, return_type="loss").backward()
    for (name, mine), (_, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert_close(mine, other, msg=name)
        assert_close(mine.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_a_seed_draws_the_same_weights() -> None:
    sizes = {"n_layers": 2, "d_model": 12, "d_head": 4, "n_ctx": 9, "d_vocab": 11, "act_fn": "gelu"}
    for mode in ("gpt2", "xavier_uniform", "kaiming_normal"):
        more = sizes | {"seed": 3, "init_mode": mode, "device": "cpu"}
        other = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**more))
        mine = HookedTransformer(HookedTransformerConfig(**more))
        for name, weight in other.named_parameters():
            assert_close(mine.get_parameter(name), weight, msg=f"{mode} {name}")


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"refactor_factored_attn_matrices": True},
        {"fold_ln": False, "center_unembed": False},
    ],
    ids=str,
)
def test_processing_is_theirs(steps: dict[str, Any], theirs: Any) -> None:
    mine, other = twin(theirs), copy.deepcopy(theirs)
    state = other.state_dict()
    mine.load_and_process_state_dict(state, **steps)
    other.load_and_process_state_dict(state, **steps)
    assert_folded(mine(TOKENS), other(TOKENS))
    factored = "refactor_factored_attn_matrices" in steps
    for name, weight in other.named_parameters():
        if not (factored and ".attn." in name) and "ln" not in name:
            assert_folded(mine.get_parameter(name), weight, msg=lambda t, name=name: f"{name}: {t}")
    if not steps:
        assert [n for n, _ in mine.named_parameters()] == [n for n, _ in other.named_parameters()]
        assert mine.cfg.normalization_type == other.cfg.normalization_type == "LNPre"
    assert_folded(mine.OV.AB, other.OV.AB)
    assert_folded(mine.W_E_pos, other.W_E_pos)
    assert_folded(mine.accumulated_bias(1, True), other.accumulated_bias(1, True).double())
    for mode in "QKV":
        assert_folded(mine.all_composition_scores(mode), other.all_composition_scores(mode))
    assert mine.all_head_labels() == other.all_head_labels()


def test_weights_that_are_written_to_act(ours: HookedTransformer, theirs: Any) -> None:
    other_model = copy.deepcopy(theirs)
    for model in (ours, other_model):
        attn = model.blocks[0].attn
        attn.W_O.data = torch.ones_like(attn.W_O)
        attn.W_Q.data[1] = 0.5
        model.blocks[1].attn.W_K.data = model.blocks[1].attn.W_V.data.clone()
    assert_close(ours(TOKENS), other_model(TOKENS))


def test_parts_are_called_alone(ours: HookedTransformer, theirs: Any) -> None:
    resid = theirs(TOKENS, stop_at_layer=1).detach()
    for call in (
        lambda m: m.blocks[1](resid),
        lambda m: m.blocks[0].attn(query_input=resid, key_input=resid, value_input=resid),
        lambda m: m.blocks[0].mlp(resid),
        lambda m: m.ln_final(resid),
        lambda m: m.unembed(resid),
        lambda m: m.embed(TOKENS) + m.pos_embed(TOKENS),
        lambda m: m.input_to_embed(TOKENS)[0],
        lambda m: m(resid, start_at_layer=1, tokens=TOKENS, return_type="loss"),
        lambda m: m.loss_fn(m(TOKENS), TOKENS),
    ):
        assert_close(call(ours), call(theirs))
    assert ours.unembed.b_U.shape == (ours.cfg.d_vocab,)


def test_pretrained_defaults_are_theirs(theirs: Any) -> None:
    house = load("mini")
    model = HookedTransformer.from_pretrained("mini")
    raw = HookedTransformer.from_pretrained_no_processing("mini")
    assert not model.training
    assert model.cfg.normalization_type == "LNPre"
    assert raw.cfg.normalization_type == "LN"
    text = "Once upon a time"
    logits = house(text)
    torch.testing.assert_close(raw(text), logits, atol=1e-4, rtol=1e-4)
    assert_close(model(text).log_softmax(-1), logits.log_softmax(-1), atol=1e-3, rtol=1e-3)
    assert model(text).mean(-1).abs().max() < 1e-4
    assert model.W_pos.mean(-1).abs().max() < 1e-6
    assert bool((model.b_V == 0).all())
    back = raw.to_house()
    torch.testing.assert_close(back(text), logits, atol=1e-4, rtol=1e-4)


def test_configuration_is_settable_and_kept() -> None:
    cfg = HookedTransformerConfig(d_model=8, d_head=4, n_layers=1, n_ctx=9, d_vocab=7)
    cfg.use_attn_result = True
    assert HookedTransformerConfig.from_dict(cfg.to_dict()) == cfg
    theirs = transformer_lens.HookedTransformerConfig(
        d_model=8, d_head=4, n_layers=1, n_ctx=9, d_vocab=7, act_fn="relu"
    )
    names = "n_heads d_mlp attn_scale d_vocab_out n_devices parallel_attn_mlp n_params seed".split()
    names += (
        "initializer_range n_key_value_heads ungroup_grouped_query_attention use_attn_in".split()
    )
    for name in names:
        if name != "d_mlp":  # theirs has none until it is given
            assert getattr(cfg, name) == pytest.approx(getattr(theirs, name)), name


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_only": True},
        {"normalization_type": None},
        {"normalization_type": "RMS"},
        {"positional_embedding_type": "rotary"},
        {"act_fn": "solu_ln"},
        {"use_atn_result": True},
        {"d_vocab_out": 3},
        {"n_key_value_heads": 1},
    ],
    ids=str,
)
def test_what_is_no_gpt2_says_so(settings: dict[str, Any]) -> None:
    sizes = {"d_model": 8, "d_head": 4, "n_layers": 1, "n_ctx": 9, "d_vocab": 7}
    with pytest.raises(CircuitsError, match=next(iter(settings))):
        HookedTransformerConfig(**sizes, **settings)


def test_a_model_that_is_no_gpt2_says_so() -> None:
    with pytest.raises(CircuitsError, match="GPT-2-family"):
        HookedTransformer.from_pretrained("pythia-70m-of-nobody/at all")
