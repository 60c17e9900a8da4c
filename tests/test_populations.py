"""About which prompts is an interval, and does it suit what a metric can be?"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.analyses.ablate import ablate
from circuits.analyses.diff import diff
from circuits.analyses.patch import patch
from circuits.hooks import HookPoint
from circuits.metrics import get_metric
from circuits.model import HookedGPT2
from circuits.prompts import Prompts, make

Z = 1.959964


def without(model: HookedGPT2, prompts: Prompts, head: str, metric: str) -> NDArray[np.float64]:
    """Each prompt's effect of zeroing a head, by a plain hook."""
    layer, number = (int(part[1:]) for part in head.split("."))

    def cut(z: Tensor, hook: HookPoint) -> Tensor:
        z = z.clone()
        z[:, :, number] = 0
        return z

    hooks = [(f"blocks.{layer}.attn.hook_z", cut)]
    score = get_metric(metric)
    with torch.inference_mode():
        clean = model(prompts.tokens, attention_mask=prompts.mask)
        edited = model.run_with_hooks(prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask)
        before, after = (score(logits, prompts, clean) for logits in (clean, edited))
    found: NDArray[np.float64] = (after - before).double().numpy()
    return found


def adjusted(effects: NDArray[np.float64]) -> list[float]:
    """Bonett and Price's interval, written out: ups b, downs c."""
    n, b, c = len(effects), int((effects == 1).sum()), int((effects == -1).sum())
    up, down = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = Z * ((up + down - (up - down) ** 2) / (n + 2)) ** 0.5
    return [max(-1, up - down - half), min(1, up - down + half)]


def ends(row: Any) -> list[float]:
    return [row["ci_low"], row["ci_high"]]


def test_accuracy_has_an_interval_of_paired_proportions(mini: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "metric": "accuracy", "n": 40, "seed": 3}
    frame = ablate(mini, all_heads=True, **asked).frame.set_index("component")
    assert (frame["ci_high"] - frame["ci_low"] > 0.1).all()
    prompts = make("ioi", mini, 40, 3)
    for head in ("a0.h0", "a0.h6", "a5.h3"):
        effects = without(mini, prompts, head, "accuracy")
        assert frame.loc[head, "value"] == pytest.approx(effects.mean())
        assert ends(frame.loc[head]) == pytest.approx(adjusted(effects)), head
    # Eleven of forty answers are lost without the one head, and none without the other.
    assert ends(frame.loc["a0.h6"]) == pytest.approx([-0.410351, -0.113459], abs=1e-5)
    assert ends(frame.loc["a0.h0"]) == pytest.approx([-0.065995, 0.065995], abs=1e-5)


def test_split_effects_on_accuracy_have_widths(mini: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "metric": "accuracy", "n": 12, "effects": True}
    frame = ablate(mini, all_heads=True, **asked).frame
    for name in ("direct", "indirect", "self_repair"):
        low, high = frame[f"{name}_low"], frame[f"{name}_high"]
        assert (high - low > 0.2).all()
        assert low.min() >= -1
        assert high.max() <= 1


def test_differences_of_accuracy_are_paired(mini: HookedGPT2) -> None:
    other = copy.deepcopy(mini)
    with torch.no_grad():
        other.blocks[0].attn.W_O[6].zero_()
    asked: dict[str, Any] = {"all_heads": True, "task": "ioi", "metric": "accuracy", "n": 12}
    found = diff(mini, other, analysis="ablate", **asked).frame.set_index("component")
    assert found["paired"].all()  # also where many heads have the same mean
    assert (found["ci_high"] - found["ci_low"] > 0.2).all()
    prompts = make("ioi", mini, 12)
    changes = [without(model, prompts, "a0.h6", "accuracy") for model in (mini, other)]
    change, n = changes[1] - changes[0], 12
    assert found.loc["a0.h6", "value"] == pytest.approx(change.mean())
    # As if two more prompts had changed by 2 and -2, the most that there is.
    spread = (np.square(change).sum() + 8) / (n + 2) - (change.sum() / (n + 2)) ** 2
    half, middle = Z * (spread / (n + 2)) ** 0.5, change.sum() / (n + 2)
    assert ends(found.loc["a0.h6"]) == pytest.approx([middle - half, middle + half], abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "low", "high"), [("kl", 0, np.inf), ("prob", -1, 1), ("prob_diff", -2, 2)]
)
def test_effects_stay_within_the_metrics_range(
    mini: HookedGPT2, metric: str, low: float, high: float
) -> None:
    frame = ablate(mini, all_heads=True, task="ioi", metric=metric, n=2).frame
    assert frame["ci_low"].min() >= low
    assert frame["ci_high"].max() <= high
    prompts = make("ioi", mini, 2)
    effects = without(mini, prompts, "a0.h6", metric)
    half = 12.7062 * abs(effects[0] - effects[1]) / 2  # Student's t with one degree of freedom
    wanted = [max(low, effects.mean() - half), min(high, effects.mean() + half)]
    row = frame.set_index("component").loc["a0.h6"]
    assert ends(row) == pytest.approx(wanted, rel=1e-3)


def test_kl_may_fall_where_the_base_is_not_the_clean_run(mini: HookedGPT2) -> None:
    frame = patch(mini, what="head", task="ioi", metric="kl", n=6).frame
    assert (frame["value"] < 0).any()
    assert (frame["ci_low"] < 0).any()
    noise = patch(mini, what="head", task="ioi", metric="kl", n=2, direction="noise").frame
    assert (noise["ci_low"] >= 0).all()


def test_shares_of_accuracy_have_widths(mini: HookedGPT2) -> None:
    frame = patch(mini, what="head", task="ioi", metric="accuracy", n=12).frame
    assert (frame["share_high"] > frame["share_low"]).all()
