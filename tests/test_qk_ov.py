"""Scores from weights are the model's own, whatever its layers divide them by."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from bridge_models import bridge
from lens_models import LLAMA, SHAPES, SIZES, WORDS, lens_model, randomize, word_tokenizer
from lens_twin import IGNORE_DEPRECATION
from torch import Tensor

from circuits.adapter import AdaptedModel, adapt
from circuits.adapter.scores import score_scales
from circuits.analyses.heads import heads
from circuits.analyses.qk import qk
from circuits.analyses.why import why
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.head_kinds.names import _inhibition, _Run
from circuits.prompts import make
from circuits.qk_ov import product_scales, qk_circuit

pytest.importorskip("transformer_lens.HookedTransformer")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)
close = partial(torch.testing.assert_close, atol=1e-9, rtol=1e-9)
ROOT = 6**0.5
# What is said of the scale, and what each of the two layers divides by.
SAID: dict[str, tuple[dict[str, Any], list[float]]] = {
    "root": ({}, [ROOT, ROOT]),
    "another": ({"attn_scale": 2 * ROOT}, [2 * ROOT, 2 * ROOT]),
    "none": ({"use_attn_scale": False}, [1, 1]),
    "by-layer": ({"scale_attn_by_inverse_layer_idx": True}, [ROOT, 2 * ROOT]),
}


def lens(shape: dict[str, Any], **said: Any) -> Any:
    """A random model of this shape in float64."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = SIZES | {"d_vocab": len(WORDS), "model_name": "tiny", "dtype": torch.float64}
    theirs = HookedTransformer(HookedTransformerConfig(**sizes, **shape, **said, device="cpu"))
    theirs.tokenizer = word_tokenizer()
    randomize(theirs)
    return theirs


def only_embeddings(theirs: Any) -> AdaptedModel:
    """Nothing enters the second layer but token embeddings of one length, as the matrix has it."""
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith(("W_pos", "W_O", "W_out", "b_O", "b_out")):
                weight.zero_()
        embed = theirs.embed.W_E
        if "LN" in theirs.cfg.normalization_type:
            embed -= embed.mean(-1, keepdim=True)
        embed.copy_(embed / embed.norm(dim=-1, keepdim=True))
    return adapt(theirs)


def scores(model: AdaptedModel, tokens: Tensor, layer: int) -> Tensor:
    """The run's own, of head 1."""
    with torch.no_grad():
        return model.run_with_cache(tokens)[1]["attn_scores", layer][:, 1]


TOKENS = torch.randint(len(WORDS), (1, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("said", SAID)
def test_entries_differ_as_the_models_own_scores_do(said: str, layer: int) -> None:
    model = only_embeddings(lens(SHAPES["gpt2"], **SAID[said][0]))
    with torch.no_grad():
        matrix = qk_circuit(model, effective=False).of(Component("head", layer, 1)).AB
    seen = TOKENS[0]
    difference = (scores(model, TOKENS, layer)[0] - matrix[seen][:, seen])[-1]
    close(difference, difference[:1].expand(9))  # but for what all keys have, all is there


@pytest.mark.parametrize("said", SAID)
def test_what_layers_divide_by(said: str) -> None:
    options, expected = SAID[said]
    for shape in (SHAPES["gpt2"], LLAMA):
        assert score_scales(adapt(lens(shape, **options))) == pytest.approx(expected, rel=1e-12)


def twice(theirs: Any) -> Any:
    """The same function with queries twice as long, for a model that divides by twice as much."""
    with torch.no_grad():
        for block in theirs.blocks:
            block.attn.W_Q *= 2
            block.attn.b_Q *= 2
    return theirs


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2", "pythia"])
def test_models_that_do_the_same_say_the_same(shape: str) -> None:
    one = lens(SHAPES[shape])
    other = twice(lens(SHAPES[shape], attn_scale=2 * ROOT))
    with torch.no_grad():
        close(one(TOKENS), other(TOKENS))
    asked: dict[str, Any] = {"head": "a1.h2", "top": 4}
    assert_same(qk(one, **asked).frame, qk(other, **asked).frame)
    if shape == "gpt2":
        assert_same(*(why(model, "a1.h2", task="ioi", n=3).frame for model in (one, other)))
        inhibited = [inhibition(adapt(model)) for model in (one, other)]
        assert inhibited[0].abs().max() > 1e-3
        close(*inhibited)


def inhibition(model: AdaptedModel) -> Tensor:
    """What heads add to the scores of all others, as if each were a name mover: [l b h]."""
    prompts = make("ioi", model, 4)
    every_head = torch.ones(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.float64)
    return _inhibition(model, _Run.of(model, prompts, prompts.tokens), every_head)


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=1e-9, atol=1e-9)


def test_half_the_scale_is_twice_the_entry() -> None:
    highest = {
        said: qk(lens(SHAPES["gpt2"], **SAID[said][0]), "a0.h1", top=1).frame["value"].iloc[0]
        for said in ("root", "another", "none")
    }
    assert highest["another"] == pytest.approx(highest["root"] / 2, rel=1e-12)
    assert highest["none"] == pytest.approx(highest["root"] * ROOT, rel=1e-12)


def test_a_capped_models_entries_are_before_the_cap_and_say_so() -> None:
    model = adapt(lens_model("gemma2"))
    assert model.cfg.scores_soft_cap == 5
    assert qk(model, "a1.h2").unit == "attention score at distance 0 before the cap of 5"
    assert qk(adapt(lens_model("llama")), "a1.h2").unit == "attention score at distance 0"
    assert score_scales(model) == pytest.approx([ROOT, ROOT], rel=1e-12)


def test_where_scores_are_no_products_nothing_is_said() -> None:
    theirs = lens(LLAMA, use_qk_norm=True)
    with pytest.raises(CircuitsError, match="of layer 0 of tiny are no products of its queries"):
        qk(theirs, "a1.h2")
    capped = lens(SHAPES["gpt2"], attn_scores_soft_cap=0.5)
    with pytest.raises(CircuitsError, match="a soft cap.*cannot be taken apart"):
        why(capped, "a1.h2", task="ioi", n=3)
    for model in (theirs, capped, lens(LLAMA)):
        assert product_scales(adapt(model)) is None
        card = heads(model, kind="s-inhibition", n=3).frame
        assert card["value"].isna().all()
        assert card["note"].str.contains("no plain product of the two is a score").all()
    assert product_scales(adapt(lens(SHAPES["gpt2"]))) == pytest.approx([ROOT, ROOT])


def test_a_bridge_that_does_not_say_it_is_measured() -> None:
    pytest.importorskip("transformer_lens.model_bridge")
    # Gemma 2 divides by the root of query_pre_attn_scalar (256), and caps.
    expected = {"GPT2": 2.0, "Llama": ROOT, "Gemma2": 16.0}
    for shape, divisor in expected.items():
        assert score_scales(adapt(bridge(shape))) == pytest.approx([divisor] * 2, rel=1e-6)


def test_what_positions_add_is_no_part_of_the_product() -> None:
    """ALiBi shifts all scores of a first position by a constant that depends on earlier runs."""
    model = adapt(lens({"act_fn": "gelu_new"}, positional_embedding_type="alibi"))
    assert score_scales(model) == [ROOT, ROOT]
    model(TOKENS)
    assert score_scales(model) == [ROOT, ROOT]
