"""Attribution patching agrees with patching where it can, and says where it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from circuits.analyses.approximate import agreement, approximate
from circuits.analyses.patch import patch
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.errors import CircuitsError

IOI: dict[str, Any] = {
    "prompt": "aAbBcdeBfg.",
    "corrupted": "aAbBcdeCfg.",
    "answer": "A",
    "distractor": "B",
}
CIRCUIT = {"a0.h1", "a1.h1", "a2.h0"}


def test_a_soft_circuit_is_found_by_its_gradient() -> None:
    model = build(n_layers=3, beta=4.0)
    frame = approximate(model, what="head", direction="noise", check=12, **IOI).frame
    for column in ("value", "exact"):
        sizes = frame.set_index("component")[column].abs().sort_values(ascending=False)
        assert set(sizes.index[:3]) == CIRCUIT
        assert sizes.iloc[2] > 3 * sizes.iloc[3]


def test_it_is_exact_where_the_rest_is_linear() -> None:
    # The name mover writes straight to the logits, through a LayerNorm that is the identity.
    for beta in (30.0, 4.0):
        frame = approximate(build(n_layers=3, beta=beta), component="a2.h0", check=1, **IOI).frame
        assert frame["value"].iloc[0] == pytest.approx(frame["exact"].iloc[0], abs=1e-3)


def test_saturated_attention_deceives_it_and_the_check_says_so() -> None:
    frame = approximate(build(n_layers=3), what="head", check=2, **IOI).frame
    rows = frame.dropna(subset=["exact"]).set_index("component")
    assert {"a1.h1", "a2.h0"} < set(rows.index)  # and two that were drawn at random
    assert len(rows) == 4
    assert rows.loc["a1.h1", "error"] == pytest.approx(195, abs=1)
    assert rows.loc["a1.h1", "exact"] == pytest.approx(5, abs=1e-3)
    assert rows.loc["a1.h1", "value"] > 100


def test_the_whole_table_is_that_of_patch(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "n": 7, "what": "mlp"}
    real, estimated = patch(words, **asked).frame, approximate(words, **asked).frame
    assert list(estimated.columns) == list(real.columns)
    same = ["task", "component", "layer", "head", "position", "metric", "unit", "n"]
    assert estimated[same].equals(real[same])
    for name in ("clean", "corrupted"):
        assert_allclose(estimated[name], real[name])
    assert np.corrcoef(estimated["value"], real["value"])[0, 1] > 0.9


def test_what_is_checked_is_what_patch_finds(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "n": 5, "what": "head", "direction": "noise"}
    found = approximate(words, check=2, **asked).frame.dropna(subset=["exact"])
    real = patch(words, **asked).frame.loc[found.index]
    for name, column in {"exact": "value", "exact_low": "ci_low", "exact_high": "ci_high"}.items():
        assert_allclose(found[name], real[column])


def test_agreement_is_measured_over_all_cells(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "n": 5, "what": "mlp", "positions": "roles"}
    found = approximate(words, check="all", **asked)
    assert (found.view, found.axes) == ("scatter", ("component", "value", "exact"))
    frame = found.frame
    assert_allclose(frame["exact"], patch(words, **asked).frame["value"])
    assert_allclose(frame["error"], frame["value"] - frame["exact"])
    ends = np.corrcoef(frame["value"], frame["exact"])[0, 1]
    assert frame["pearson"].tolist() == [pytest.approx(ends)] * len(frame)
    ranks = frame[["value", "exact"]].rank()
    expected = np.corrcoef(ranks["value"], ranks["exact"])[0, 1]
    assert frame["spearman"].iloc[0] == pytest.approx(expected)
    assert (frame["n_checked"] == len(frame)).all()
    assert len(found.plot().axes[0].collections) == 1


def test_agreement_where_there_is_none_to_speak_of() -> None:
    one = agreement(pd.DataFrame({"value": [1.0, 2.0], "exact": [3.0, float("nan")]}))
    assert np.isnan([one["pearson"], one["spearman"]]).all()
    assert one["n_checked"] == 1
    flat = agreement(pd.DataFrame({"value": [1.0, 2.0], "exact": [3.0, 3.0]}))
    assert np.isnan(flat["pearson"])


def test_progress_and_memory(words: HookedGPT2) -> None:
    seen: list[tuple[int, int]] = []
    asked: dict[str, Any] = {"n": 6, "what": "attn"}
    found = approximate(
        words, memory="2M", progress=lambda done, total: seen.append((done, total)), **asked
    )
    assert seen[-1] == (1000, 1000)
    assert len(seen) > 2
    assert_allclose(found.frame["value"], approximate(words, **asked).frame["value"], atol=1e-12)


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    approximate(words, what="resid_mid", task="ioi", n=3, check=1)
    assert checksum(words) == before
    assert all(weight.requires_grad and weight.grad is None for weight in words.parameters())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"task": "ioi", "what": "q"}, "no estimate by gradient"),
        ({"task": "ioi", "component": "a0.h1<k>"}, "no estimate by gradient"),
        ({"task": "ioi", "metric": "accuracy"}, "moves in steps"),
        ({"task": "ioi", "metric": "kl", "direction": "noise"}, "kl has no gradient"),
        ({"task": "ioi", "check": -1}, "check=-1"),
        ({"task": "ioi", "check": "most"}, "check=most.*or all"),
        ({"task": "ioi", "memory": "1K"}, "is too little"),
        ({"prompt": "and"}, "have no corrupted twins"),
        ({"task": "ioi", "what": "attention"}, "no 'attention' to patch"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        approximate(words, **asked)
