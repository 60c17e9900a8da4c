"""What weights say is also right for models of other architectures."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lens_models import SHAPES, lens_model, state
from lens_twin import IGNORE_DEPRECATION

from circuits.adapter import adapt
from circuits.analyses.composition import composition
from circuits.analyses.ov import ov
from circuits.analyses.qk import qk
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.qk_ov import ov_circuit

pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)

close = partial(torch.testing.assert_close, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_heads_writing_is_what_it_adds_to_the_logits(shape: str) -> None:
    """Run the head on streams that are one embedding: the matrix is that, but for scales."""
    model = adapt(lens_model(shape))
    head = Component("head", 0, 1)
    with torch.no_grad():
        matrix = ov_circuit(model, effective=False).of(head).AB
        block = model.blocks[0]
        silent = block.ln1.plain(torch.zeros_like(model.W_E))  # what the bias alone would write
        z = (block.ln1.plain(model.W_E) - silent) @ block.attn.W_V[1]
        written = z @ block.attn.W_O[1]
        if model.cfg.post_norms:  # type: ignore[attr-defined]
            written = block.ln1_post.plain(written)  # type: ignore[attr-defined]
        constant = model.ln_final.plain(torch.zeros_like(written))
        logits = (model.ln_final.plain(written) - constant) @ model.W_U
        logits = logits - logits.mean(1, keepdim=True)
    close(torch.cosine_similarity(matrix, logits), torch.ones(len(logits)).double(), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_it_runs_and_leaves_the_model_alone(shape: str) -> None:
    theirs = lens_model(shape)
    before = state(theirs)
    assert len(ov(theirs).frame) == 8
    if shape == "attn-only":  # there is no MLP to make embeddings effective
        with pytest.raises(CircuitsError, match="have no mlp"):
            ov(theirs, "a1.h1", effective=True, top=3)
    else:
        assert len(ov(theirs, "a1.h1", effective=True, top=3).frame) == 6
    assert len(qk(theirs, "a1.h3", show="eigenvalues").frame) == 6
    assert len(composition(theirs).frame) == 3 * 16
    check = partial(composition, theirs, slot="k", check=4, task="ioi", n=3)
    if shape == "gemma2":
        with pytest.raises(CircuitsError, match="normalizes what a layer writes"):
            check()
    else:
        assert check().frame["n"].eq(3).all()
    assert state(theirs) == before
    if shape in ("gpt2", "attn-only"):  # the two that add an embedding of positions
        assert len(qk(theirs, "a0.h0", show="positions").frame) == 48
    else:
        with pytest.raises(CircuitsError, match="W_pos"):
            qk(theirs, "a0.h0", show="positions")
