"""Sites and answers of every architecture against transformer_lens, where it knows the type."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_models import SHAPES, decoder, tokens_of
from decoder_twin import twin
from every_analysis import OF_A_MODEL, TEXT, answer, write_files
from lens_twin import IGNORE_DEPRECATION
from numpy.testing import assert_allclose
from quick import only
from torch.testing import assert_close
from word_model import word_tokenizer

import circuits
from circuits.adapter import adapt
from circuits.architectures import Decoder
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.qk_ov import qk_circuit, typical_scales

pytest.importorskip("transformer_lens.HookedTransformer")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)

ADAPTED = [shape for shape in SHAPES if shape != "shortformer"]
# What the adapter refuses, or sees only once for all heads of a group, is compared elsewhere.
ONLY_OURS = {("pythia", "discover"), ("pythia", "evaluate")}


@cache
def pair(shape: str) -> tuple[Decoder, Any]:
    """The same model twice, with the words of the tasks."""
    ours = decoder(shape, tokenizer=word_tokenizer())
    theirs = adapt(twin(ours))
    theirs.tokenizer = ours.tokenizer
    return ours, theirs


@pytest.mark.parametrize("shape", ADAPTED)
def test_every_site_has_their_value(shape: str) -> None:
    ours, theirs = pair(shape)
    assert [site for site in ours.hook_dict if site in theirs.hook_dict] == [*theirs.hook_dict]
    extra = {site.split(".", 2)[-1] for site in ours.hook_dict if site not in theirs.hook_dict}
    assert extra <= {"hook_attn_in", "hook_mlp_in", "hook_tokens"}
    tokens = tokens_of(ours.cfg)
    inputs = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")
    plain = [site for site in theirs.hook_dict if not site.endswith(inputs)]
    with torch.no_grad():
        mine, cached = ours.run_with_cache(tokens, names_filter=plain)
        logits, expected = theirs.run_with_cache(tokens, names_filter=plain)
    assert_close(mine, logits, rtol=1e-9, atol=1e-9)
    for site in plain:
        assert_close(
            cached[site], expected[site], rtol=1e-8, atol=1e-8, msg=lambda m, s=site: s + m
        )


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files are read and written."""
    monkeypatch.chdir(tmp_path)
    write_files()


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("shape", only((), ADAPTED))
@pytest.mark.parametrize("name", OF_A_MODEL)
def test_every_analysis_says_what_it_says_of_theirs(name: str, shape: str) -> None:
    if (shape, name) in ONLY_OURS:
        return
    ours, theirs = pair(shape)
    other = decoder(shape, tokenizer=word_tokenizer(), seed=1)
    try:
        expected = answer(name, theirs, other)
    except CircuitsError as error:
        expected = None
        message = str(error)
    if expected is None:
        if name == "why" and shape not in ("qwen3", "gemma2"):  # only ours knows the rotation
            assert "more than queries times keys" in message
            assert len(answer(name, ours, other).frame)
            return
        with pytest.raises(CircuitsError) as caught:
            answer(name, ours, other)
        said, theirs_say = (re.sub(r" \(.*?\)", "", each) for each in (str(caught.value), message))
        assert said[:20] == theirs_say[:20]
        return
    mine, frame = answer(name, ours, other).frame, expected.frame
    if name == "diff":  # Gemma's unembedding is the embedding, in ours and not in theirs
        mine, frame = (each[each["component"] != "logits"] for each in (mine, frame))
    assert [*mine.columns] == [*frame.columns]
    assert len(mine)
    for column in mine:
        if mine[column].dtype == float:
            values, wanted = mine[column].to_numpy(), frame[column].to_numpy()
            assert_allclose(values, wanted, rtol=1e-5, atol=1e-7, err_msg=column)
            assert not np.isinf(values).any()
        else:
            assert mine[column].equals(frame[column]), column


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["llama", "pythia", "qwen2"])
def test_a_rotary_score_is_the_sum_of_its_pairs(shape: str) -> None:
    ours, _ = pair(shape)
    for more in ({}, {"against": "mean"}, {"against": 2}, {"positions": "indices", "top": 3}):
        frame = circuits.why(ours, "a1.h2", TEXT, key=5, **more).frame
        _, cache = ours.run_with_cache(TEXT, names_filter=["blocks.1.attn.hook_attn_scores"])
        scores = cache["attn_scores", 1][0, 2, -1].detach().numpy()
        others = {"mean": np.delete(scores, 5).mean(), 2: scores[2]}
        expected = scores[5] - others.get(more.get("against"), 0.0)
        assert frame["value"].sum() == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_what_the_embeddings_alone_add_to_a_rotary_score() -> None:
    ours, _ = pair("llama")
    frame = circuits.why(ours, "a1.h2", TEXT, key=5, top=99).frame.set_index(
        ["query_part", "key_part"]
    )
    tokens = ours.to_tokens(TEXT)[0]
    _, cache = ours.run_with_cache(TEXT, names_filter=["blocks.1.ln1.hook_scale"])
    ends, at = [], torch.tensor([len(tokens) - 1, 5])
    for place, W in zip(at, (ours.W_Q, ours.W_K), strict=True):
        read = ours.W_E[tokens[place]] / cache["scale", 1, "ln1"][0, place] * ours.blocks[1].ln1.w
        pairs = (read @ W[1, 2]).view(2, 3)  # both numbers of each pair
        turn = torch.polar(
            torch.ones(3).double(), place * 10_000.0 ** -(torch.arange(3).double() / 3)
        )
        ends.append(torch.complex(pairs[0], pairs[1]) * turn)
    expected = (ends[0] * ends[1].conj()).real.sum() / 6**0.5
    assert frame.loc[("embed", "embed"), "value"] == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0, 3])
def test_a_rotary_match_depends_on_the_distance(distance: int) -> None:
    ours, _ = pair("llama")
    head = Component("head", 0, 1)
    matrix = qk_circuit(ours, effective=False, distance=distance).of(head).AB
    scale = typical_scales(ours)[0]
    read = ours.W_E.double() * ours.blocks[0].ln1.w / scale
    attn = ours.blocks[0].attn
    q = attn.placed((read @ attn.W_Q[1])[:, None, None], 0, torch.tensor([7]))[:, 0, 0]
    k = attn.placed((read @ attn.W_K[1])[:, None, None], 1, torch.tensor([7 - distance]))[:, 0, 0]
    scores = q @ k.T / 6**0.5
    assert_close(matrix, scores - scores.mean(1, keepdim=True))


def test_distances_are_asked_of_rotary_positions_only() -> None:
    ours, theirs = pair("llama")
    with pytest.raises(CircuitsError, match="0 to 47 positions before"):
        circuits.qk(ours, "a0.h1", distance=48)
    with pytest.raises(CircuitsError, match="keeps to itself"):
        circuits.qk(theirs, "a0.h1", distance=1)
    with pytest.raises(CircuitsError, match="do not turn"):
        circuits.qk(circuits.load("compiled"), "a0.h1", distance=1)
    with pytest.raises(CircuitsError, match="no embeddings.*--distance"):
        circuits.qk(ours, "a0.h1", show="positions")
