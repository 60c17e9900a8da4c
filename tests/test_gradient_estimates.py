"""One gradient's estimate of every patch: a derivative, exact where the rest is linear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from random_models import TINY, randomized
from random_sweeps import random_prompts

from circuits.architectures import HookedGPT2
from circuits.backend import packed
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.memory import peak_bytes
from circuits.metrics import METRICS
from circuits.prompts import Prompts
from circuits.sweep import Source, Sweep, cell, gradient, plan, run
from circuits.sweep.gradient import _at_once, attribute, estimates

SITES = ["embed", "pos", "resid_pre.0", "resid_mid.1", "resid_post.0", "a0", "m1", "a0.h1", "a1.h3"]
SITES += ["a0.h2@MID", "m0@0", "a1.h0@END", "m1@END", "resid_post.1@MID"]


def asked(model: HookedGPT2, *names: Any, metric: str = "loss", **options: Any) -> Sweep:
    prompts = random_prompts(model.cfg, [7, 5, 7, 6], seed=3)
    assert prompts.corrupted is not None
    source = Source("resample", prompts.corrupted, prompts.mask)
    return Sweep(prompts, METRICS[metric], tuple(map(cell, names)), source, **options)


def moved(model: HookedGPT2, sweep: Sweep, part: Component, step: float) -> torch.Tensor:
    """The metric when the part goes this share of the way from the base's value to the source's."""
    prompts = sweep.prompts
    _, other = model.run_with_cache(
        sweep.source.tokens, names_filter=part.site, attention_mask=prompts.mask
    )
    where = prompts.where(part.position)[..., None]

    def hook(value: torch.Tensor, hook: Any) -> None:
        here, there = value, other[part.site]
        if part.head is not None:
            here, there = value[:, :, part.head], there[:, :, part.head]
        here += step * (there - here) * where

    with torch.no_grad():
        logits = model.run_with_hooks(
            prompts.tokens, fwd_hooks=[(part.site, hook)], attention_mask=prompts.mask
        )
        clean = model(prompts.corrupted, attention_mask=prompts.mask)
    return sweep.metric(logits, prompts, clean)


@pytest.mark.parametrize("metric", ["logit_diff", "prob", "loss", "kl"])
def test_estimates_are_derivatives_along_the_way_to_the_other_run(
    tiny: HookedGPT2, metric: str
) -> None:
    sweep = asked(tiny, *SITES, metric=metric)
    sweep = replace(sweep, clean=sweep.prompts.corrupted)
    found = attribute(tiny, sweep)
    h = 1e-5
    for row, (write,) in zip(found.effects, sweep.cells, strict=True):
        part = write.target
        slope = (moved(tiny, sweep, part, h) - moved(tiny, sweep, part, -h)) / (2 * h)
        assert_allclose(row, slope.numpy(), rtol=1e-5, atol=1e-7, err_msg=str(part))
    both = run(tiny, plan(tiny, replace(sweep, cells=((), cell("resid_pre.0")))))
    assert_allclose([found.base, found.source], both.values)


def test_it_equals_patching_where_the_rest_is_linear() -> None:
    # LayerNorm with a huge eps divides by a constant; without its MLP the last layer is linear.
    model = randomized(replace(TINY, eps=1e14))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".w"):
                weight *= 1e7
        model.blocks[1].mlp.W_out.zero_()
    names = ["a1.h0", "a1.h1@MID", "a1", "resid_mid.1", "resid_post.1", "m1", "a1.h2@END"]
    sweep = asked(model, *names, metric="logit_diff")
    patched = run(model, plan(model, replace(sweep, cells=((), *sweep.cells)))).values
    assert_allclose(attribute(model, sweep).effects, patched[1:] - patched[0], rtol=1e-6, atol=1e-9)


def test_parts_written_together_add_up(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, "a0.h1", "m1@END")
    together = replace(sweep, cells=(cell("a0.h1", "m1@END"), ()))
    expected = attribute(tiny, sweep).effects.sum(0)
    assert_allclose(attribute(tiny, together).effects, [expected, 0 * expected])


def test_small_batches_and_packed_weights_give_the_same(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, *SITES)
    expected = attribute(tiny, sweep).effects
    assert_allclose(attribute(tiny, sweep, memory="200K").effects, expected)
    single = tiny.float()
    with packed(single):
        assert_allclose(attribute(single, sweep).effects, expected, rtol=1e-3, atol=1e-3)


def test_memory_is_no_more_than_foreseen() -> None:
    cfg = replace(TINY, n_layers=4, n_heads=4, d_model=32, d_head=8, d_mlp=128, n_ctx=32)
    model = randomized(replace(cfg, d_vocab=200), dtype=torch.float32)
    prompts = random_prompts(model.cfg, [32] * 4, seed=0)
    assert prompts.corrupted is not None
    cells = tuple(cell(f"a{layer}.h{head}") for layer in range(4) for head in range(4))
    cells += tuple(
        cell(f"{kind}{layer}") for layer in range(4) for kind in ("a", "m", "resid_pre.")
    )
    source = Source("resample", prompts.corrupted, prompts.mask)
    sweep = Sweep(prompts, METRICS["loss"], cells, source)
    foreseen = next(n for n in range(10**5, 10**8, 10**4) if _fits(model, n, 4))
    used = peak_bytes(lambda: attribute(model, sweep))
    assert foreseen / 8 < used < foreseen / 2  # what a process grows by is more


def _fits(model: HookedGPT2, memory: int, prompts: int) -> bool:
    try:
        return _at_once(model, 32, memory) >= prompts
    except CircuitsError:
        return False


def test_the_model_is_left_as_it_was(tiny: HookedGPT2) -> None:
    tiny.W_pos.requires_grad_(False)
    with torch.inference_mode():
        attribute(tiny, asked(tiny, *SITES))
    with pytest.raises(CircuitsError):
        attribute(tiny, asked(tiny, "m0", metric="accuracy"))
    frozen = [name for name, weight in tiny.named_parameters() if not weight.requires_grad]
    assert frozen == ["W_pos"]
    assert all(weight.grad is None for weight in tiny.parameters())
    assert not [name for name, hook in tiny.hook_dict.items() if hook.watched]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a0.h1<q>"], {}, "no estimate by gradient"),
        (["a0.h1->m1"], {}, "no estimate by gradient"),
        (["a9"], {}, "there is no layer 9"),
        (["m0"], {"metric": "accuracy"}, "moves in steps"),
        (["m0"], {"metric": "kl"}, "kl has no gradient at the very run"),
        (["m1@0"], {"metric": "logit_diff"}, "is zero at every one of these parts"),
        (["m0"], {"memory": 10}, "memory=10 bytes is too little"),
    ],
    ids=str,
)
def test_what_cannot_be_estimated(
    tiny: HookedGPT2, names: list[str], options: dict[str, Any], message: str
) -> None:
    memory = options.pop("memory", None)
    with pytest.raises(CircuitsError, match=message):
        attribute(tiny, asked(tiny, *names, **options), memory=memory)


def test_a_long_prompt_is_computed_where_nobody_sets_a_budget(
    tiny: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = asked(tiny, "m0")
    expected = attribute(tiny, sweep).effects
    monkeypatch.setattr(gradient, "default_memory", lambda model: 10)
    assert_allclose(attribute(tiny, sweep).effects, expected, atol=1e-12)


def test_only_another_run_has_a_way_to_it(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, "m0")
    zero = Source("zero", sweep.prompts.tokens, sweep.prompts.mask)
    with pytest.raises(CircuitsError, match="from another run"):
        attribute(tiny, replace(sweep, source=zero))
    assert np.isfinite(attribute(tiny, sweep).effects).all()


def test_blocks_are_averaged_over_all_their_prompts(tiny: HookedGPT2) -> None:
    sweep = asked(tiny, *SITES)
    prompts, metric = sweep.prompts, sweep.metric

    def make(block: Prompts) -> Sweep:
        assert block.corrupted is not None
        source = Source("resample", block.corrupted, block.mask)
        return Sweep(block, metric, sweep.cells, source)

    found = estimates(tiny, [prompts.subset(slice(0, 1)), prompts.subset(slice(1, 4))], make)
    whole = attribute(tiny, sweep)
    assert found.n == 4
    assert_allclose(found.value[:2], [whole.base.mean(), whole.source.mean()])
    assert_allclose(found.effect[2:], whole.effects.mean(1))
    assert_allclose(found.ratio()["value"][1], 1)
    with pytest.raises(CircuitsError, match="there are no prompts to ask"):
        estimates(tiny, [], make)
