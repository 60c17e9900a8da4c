"""Learning in context and neurons, of models of other architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lens_models import SHAPES, lens_model
from lens_twin import IGNORE_DEPRECATION

from circuits.adapter import AdaptedModel, adapt
from circuits.analyses.icl import icl
from circuits.analyses.neurons import neurons
from circuits.errors import CircuitsError
from circuits.text_windows import TextFile

pytest.importorskip("transformer_lens.HookedTransformer")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> AdaptedModel:
    return adapt(lens_model(request.param))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("story") / "story.txt"
    file.write_text("When Mary and John went to the garden , John gave a letter to Mary . " * 20)
    return file


def test_losses_are_theirs(model: AdaptedModel, story: Path) -> None:
    frame = icl(model, file=story).frame
    windows = [rows for rows, _ in TextFile(model, story)]
    whole = torch.cat([rows for rows in windows if rows.shape[1] == model.cfg.n_ctx])
    with torch.no_grad():
        expected = model.theirs(whole, return_type="loss", loss_per_token=True)
    np.testing.assert_allclose(frame["value"], expected.mean(0), rtol=1e-6)
    assert icl(model, n=2, length=5).frame["value"].notna().all()


def test_what_neurons_do_there(model: AdaptedModel, story: Path) -> None:
    if model.cfg.attn_only:
        with pytest.raises(CircuitsError, match="attention layers only"):
            neurons(model, "m1.n3", file=story)
        return
    frame = neurons(model, "m1.n3", file=story, top=3).frame
    windows = torch.cat([rows for rows, _ in TextFile(model, story)][:-1])
    with torch.no_grad():
        _, cache = model.theirs.run_with_cache(windows)
    best = cache["post", 1][:, 1:, 3].amax(1).max()
    assert frame["value"].iloc[0] == pytest.approx(float(best), rel=1e-6)
    assert frame["effect_value"].isna().all() == model.cfg.post_norms
    assert len(neurons(model, file=story, top=40).frame) == 40


def test_what_gates_and_norms_leave_undefined() -> None:
    model = adapt(lens_model("gemma2"))
    with pytest.raises(CircuitsError, match="has gated MLPs"):
        neurons(model, "m1.n3", show="triggers")
    with pytest.raises(CircuitsError, match="normalizes what an MLP writes"):
        neurons(model, "m1.n3")
