"""Attribution patching agrees with patching where it can, and says where it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from circuits.analyses.attribution import attribution
from circuits.analyses.patch import patch
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2

IOI: dict[str, Any] = {
    "prompt": "aAbBcdeBfg.",
    "corrupted": "aAbBcdeCfg.",
    "answer": "A",
    "distractor": "B",
}
CIRCUIT = {"a0.h1", "a1.h1", "a2.h0"}


def test_a_soft_circuit_is_found_by_its_gradient() -> None:
    model = build(n_layers=3, beta=4.0)
    frame = attribution(model, what="head", direction="noise", check=12, **IOI).frame
    for column in ("value", "exact"):
        sizes = frame.set_index("component")[column].abs().sort_values(ascending=False)
        assert set(sizes.index[:3]) == CIRCUIT
        assert sizes.iloc[2] > 3 * sizes.iloc[3]


def test_it_is_exact_where_the_rest_is_linear() -> None:
    # The name mover writes straight to the logits, through a LayerNorm that is the identity.
    for beta in (30.0, 4.0):
        frame = attribution(build(n_layers=3, beta=beta), component="a2.h0", check=1, **IOI).frame
        assert frame["value"].iloc[0] == pytest.approx(frame["exact"].iloc[0], abs=1e-3)


def test_saturated_attention_deceives_it_and_the_check_says_so() -> None:
    frame = attribution(build(n_layers=3), what="head", check=2, **IOI).frame
    rows = frame.dropna(subset=["exact"]).set_index("component")
    assert set(rows.index) == {"a1.h1", "a2.h0"}
    assert rows.loc["a1.h1", "exact"] == pytest.approx(5, abs=1e-3)
    assert rows.loc["a1.h1", "value"] > 100


def test_the_whole_table_is_that_of_patch(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "n": 7, "what": "mlp"}
    real, estimated = patch(words, **asked).frame, attribution(words, **asked).frame
    assert list(estimated.columns) == list(real.columns)
    same = ["task", "component", "layer", "head", "position", "metric", "unit", "n"]
    assert estimated[same].equals(real[same])
    for name in ("clean", "corrupted"):
        assert_allclose(estimated[name], real[name])
    assert np.corrcoef(estimated["value"], real["value"])[0, 1] > 0.9


def test_what_is_checked_is_what_patch_finds(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "n": 5, "what": "head", "direction": "noise"}
    found = attribution(words, check=2, **asked).frame.dropna(subset=["exact"])
    real = patch(words, **asked).frame.loc[found.index]
    for name, column in {"exact": "value", "exact_low": "ci_low", "exact_high": "ci_high"}.items():
        assert_allclose(found[name], real[column])


def test_progress_and_memory(words: HookedGPT2) -> None:
    seen: list[tuple[int, int]] = []
    asked: dict[str, Any] = {"n": 6, "what": "attn"}
    found = attribution(
        words, memory="1M", progress=lambda done, total: seen.append((done, total)), **asked
    )
    assert seen[-1] == (1000, 1000)
    assert len(seen) > 2
    assert_allclose(found.frame["value"], attribution(words, **asked).frame["value"], atol=1e-12)


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    attribution(words, what="resid_mid", task="ioi", n=3, check=1)
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
        ({"task": "ioi", "memory": "1K"}, "is too little"),
        ({"prompt": "and"}, "have no corrupted twins"),
        ({"task": "ioi", "what": "attention"}, "no 'attention' to patch"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        attribution(words, **asked)
