"""The explorer's questions, asked of every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoder_models import SHAPES, decoder
from quick import only
from test_explorer_questions_edits import asked, of_kind
from word_model import word_tokenizer

from circuits.errors import CircuitsError
from circuits.explorer.desk import Desk
from circuits.explorer.view import Edit, View

VIEW = View(
    "When Mary and John went to the garden",
    "When Mary and Mary went to the garden",
    answer=" Mary",
    distractor=" John",
)
EDITED = View(
    VIEW.prompt,
    VIEW.contrast,
    answer=VIEW.answer,
    distractor=VIEW.distractor,
    tray=(Edit("a0.h1", "scale", 1.0),),
)


@pytest.mark.parametrize("shape", only(("pythia",), SHAPES))
def test_every_question_is_answered_or_refused_by_name(shape: str) -> None:
    desk = Desk(decoder(shape, tokenizer=word_tokenizer(), dtype=torch.float32))
    layers: list[Any] = []
    for options in ({}, {"method": "mean"}, {"what": "direct"}, {"what": "patch"}):
        if shape == "gemma2" and options.get("what") == "direct":
            with pytest.raises(CircuitsError, match="normalizes what a part writes"):
                asked(desk, "map", VIEW, **options)
            continue
        layers, again = (
            of_kind(asked(desk, "map", view, **options), "layer") for view in (VIEW, EDITED)
        )
        assert len(layers) == desk.model.cfg.n_layers
        has_mlps = not desk.model.cfg.attn_only
        assert [layer["mlp"] is not None for layer in layers] == [has_mlps] * len(layers)
        for layer, other in zip(layers, again, strict=True):
            assert layer["heads"] == pytest.approx(other["heads"], abs=1e-4)
    assert len(of_kind(asked(desk, "attention", VIEW), "attention")) == len(layers)
    assert of_kind(asked(desk, "head", VIEW, head="a1.h0"), "take")
    for question in ("about", "read", "continuation", "lens"):
        assert asked(desk, question, VIEW)
    refusal = {"gemma2": "normalizes what", "attn-only": "only", "shortformer": "only"}.get(shape)
    if refusal is not None:
        with pytest.raises(CircuitsError, match=refusal):
            asked(desk, "mlp", VIEW, layer=1)
    else:
        assert asked(desk, "mlp", VIEW, layer=1)
