"""Decompositions of models of other architectures are exact, too."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from lens_models import SHAPES, lens_model
from lens_twin import IGNORE_DEPRECATION

from circuits.adapter import AdaptedModel, adapt
from circuits.analyses.attribute import attribute
from circuits.analyses.logit_lens import logit_lens
from circuits.analyses.why import why
from circuits.errors import CircuitsError
from circuits.tuned_lens import TunedLens, divergence, train_tuned_lens

pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)
IOI: dict[str, Any] = {"task": "ioi", "n": 3}


@cache
def given(shape: str) -> AdaptedModel:
    return adapt(lens_model(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_pushes_sum_to_the_logit_difference(shape: str) -> None:
    model = given(shape)
    kinds: list[dict[str, Any]] = [{"what": "layers"}]
    if not model.cfg.post_norms:
        kinds += [{}, {"positions": "roles"}]
    if model.cfg.attn_only:
        with pytest.raises(CircuitsError, match="hook_post"):
            attribute(model, **IOI, what="neurons", top=3)
    elif not model.cfg.post_norms:
        kinds += [{"what": "neurons", "top": 3}]
    for kind in kinds:
        frame = attribute(model, **IOI, **kind).frame
        assert frame["value"].sum() == pytest.approx(frame["total"].iloc[0], abs=1e-9)
        has_positions = model.cfg.positional_embedding_type == "standard"
        assert ("pos" in set(frame["component"])) == has_positions


def test_scores_without_rotation_are_taken_apart() -> None:
    frame = why(given("gpt2"), "a1.h2", **IOI).frame
    assert frame["value"].sum() == pytest.approx(frame["score"].iloc[0], abs=1e-9)


def test_the_lens_reads_the_streams_that_are_there() -> None:
    stages = ["embed", "a0", "m0", "a1", "m1"]
    assert logit_lens(given("llama"), "When Mary").frame["stage"].tolist() == stages
    # Where attention and MLP read the same stream, there is none between them.
    parallel = logit_lens(given("pythia"), "When Mary").frame
    assert parallel["stage"].tolist() == ["embed", "m0", "m1"]
    assert parallel["kl"].iloc[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shape", ["llama", "pythia"])
def test_a_lens_is_tuned_for_them(shape: str) -> None:
    model = given(shape)
    tokens = torch.randint(
        2, model.cfg.d_vocab, (20, 8), generator=torch.Generator().manual_seed(0)
    )
    lens = train_tuned_lens(model, tokens[:16], steps=20, lr=0.02)
    before = divergence(model, tokens[16:], TunedLens.untrained(model)).mean(1)
    after = divergence(model, tokens[16:], lens).mean(1)
    assert (after[:-1] < before[:-1]).all()
    assert after[-1] == pytest.approx(0, abs=1e-9)
