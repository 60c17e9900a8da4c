"""Sums and means over activations in half precision: every analysis, against float32.

The weights compared have the same numbers; what differs is the arithmetic. A half has 11 bits
(float16) or 8 (bfloat16), and activations are rounded to them on their way through the model.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from every_analysis import OF_A_GPT2, OF_A_MODEL, OF_CIRCUITS, TEXT, answer, question, write_files
from quick import only
from word_model import task_model

import circuits
from circuits.alignment.subspaces import Subspace, random_basis
from circuits.analyses.ablate import ablate
from circuits.architectures import HookedGPT2
from circuits.components import parse
from circuits.decompose import logit_attrs, logit_bias
from circuits.detectors import DETECTORS, attention_to, detect_head
from circuits.prompts import make
from circuits.registry import find
from circuits.sweep import Source
from circuits.sweep.values import Reference

HALVES = [torch.float16, torch.bfloat16]
# Of the answer's largest number or of 1, whichever is more: some units in a half's last place.
TOLERANCE = {torch.float16: 0.008, torch.bfloat16: 0.04}
IOI: dict[str, Any] = {"task": "ioi", "n": 40}
# A CPU without float16 arithmetic needs a minute for each of these on `mini`; the loud model is
# asked them.
MANY_RUNS = {"ablate", "heads", "interchange", "patch", "tune-lens"}
# Several ways to ask each analysis: its command, the words, and the options.
QUESTIONS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("ablate", (), {"component": "m0", "method": "mean", **IOI}),
    ("ablate", (), {"component": "m0", "method": "mean", "metric": "kl", **IOI}),
    ("ablate", (), {"component": "m0", "method": "noise", **IOI}),
    ("ablate", (), {"component": "m0", "method": "resample", **IOI}),
    ("ablate", (), {"all_heads": True, "effects": True, "method": "mean", **IOI}),
    ("ablate", (), {"all_heads": True, "method": "position-mean", **IOI}),
    ("approximate", (), {"what": "mlp", **IOI}),
    ("attribute", (), IOI),
    ("attribute", (), {"what": "neurons", **IOI}),
    ("attribute", (), {"positions": "roles", **IOI}),
    ("composition", (), {"check": 4, "task": "ioi", "n": 10}),
    ("heads", (), {"n": 10}),
    ("icl", (), {"n": 10, "length": 20}),
    ("icl", (), {"file": "text.txt", "context": 20}),
    ("interchange", (), {"component": "a1", "task": "ioi", "n": 10}),
    ("neurons", ("m0.n3",), {}),
    ("neurons", ("m0.n3",), {"file": "text.txt"}),
    ("neurons", (), {"layer": 0, "file": "text.txt"}),
    ("ov", (), {}),
    ("ov", ("a0.h1",), {}),
    ("patch", (), IOI),
    ("paths", (), {"to": "logits", **IOI}),
    ("qk", (), {}),
    ("qk", ("a0.h1",), {"show": "positions"}),
    ("tune-lens", ("lens.safetensors",), {"file": "text.txt", "context": 16, "steps": 2}),
    ("why", ("a1.h1", TEXT), {}),
    ("why", ("a1.h1",), {"positions": "roles", "query": "END", "key": "IO", **IOI}),
]
OF_ONE_MODEL = sorted({*OF_A_MODEL} - {"diff"} - OF_CIRCUITS - OF_A_GPT2)
NAMED = {name for name, _, _ in QUESTIONS}
QUESTIONS += [(name, *question(name)) for name in OF_ONE_MODEL if name not in NAMED]


@pytest.fixture(scope="module")
def loud() -> HookedGPT2:
    """A small model whose activations reach 4,000, as those of trained ones do at some tokens.

    Everything that is added to the stream is 400 times larger than usual, and the final LayerNorm
    makes up for it. Twenty such numbers are more than float16 can hold.
    """
    model = task_model()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("W_E", "W_pos", "W_O_flat", "b_O", "W_out", "b_out")):
                weight.mul_(400)
        model.ln_final.w.div_(400)
        model.ln_final.b.div_(400)
    return model


def close(half: pd.DataFrame, single: pd.DataFrame, dtype: torch.dtype) -> None:
    """Finite where float32 is, and as near as the model's own rounding allows."""
    assert len(half) == len(single)
    names = [str(name) for name in single if pd.api.types.is_float_dtype(single[name])]
    for name in names:
        assert np.isfinite(half[name]).equals(np.isfinite(single[name])), name
    name = "value" if "value" in single else names[0]
    found, expected = (np.sort(frame[name].dropna().to_numpy(float)) for frame in (half, single))
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * size)


@pytest.mark.parametrize("dtype", only([torch.bfloat16], HALVES), ids=str)
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q[0]} {q[1]} {q[2]}")
@pytest.mark.slow
def test_every_analysis_of_a_loud_model(
    loud: HookedGPT2,
    question: tuple[str, tuple[Any, ...], dict[str, Any]],
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files()
    name, words, options = question
    half = copy.deepcopy(loud).to(dtype)
    ask = find(name).load()
    single = ask(copy.deepcopy(half).float(), *words, **options).frame
    close(ask(half, *words, **options).frame, single, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_analysis_of_mini(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files()
    half = circuits.load("mini", dtype=dtype)
    single = copy.deepcopy(half).float()
    left_out = MANY_RUNS if dtype is torch.float16 else set()
    for name in sorted({*OF_ONE_MODEL} - left_out):
        close(answer(name, half).frame, answer(name, single).frame, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "apart"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_mean_ablation_of_mini(dtype: str, apart: float) -> None:
    asked: dict[str, Any] = {"component": "m0", "method": "mean", **IOI}
    half = circuits.load("mini", dtype=dtype)
    value, expected = (
        float(ablate(model, **asked).frame["value"][0])
        for model in (half, copy.deepcopy(half).float())
    )
    assert expected < -10
    assert value == pytest.approx(expected, abs=apart)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", ["mean", "position-mean"])
def test_what_is_written_is_rounded_once(loud: HookedGPT2, method: Any, dtype: torch.dtype) -> None:
    """The mean of what passed the site, taken in float64, to the last place of a half."""
    model, site = copy.deepcopy(loud).to(dtype), "blocks.0.hook_mlp_out"
    prompts = make("ioi", model, 500)
    lengths = prompts.mask.sum(1)
    rows = lengths == lengths.mode().values
    tokens, mask = prompts.tokens[rows], prompts.mask[rows]
    reference = Reference(model, Source(method, tokens, mask), [site])
    some = prompts.subset(slice(int(rows.nonzero()[0]), int(rows.nonzero()[0]) + 1))
    written = reference.values(some, slice(0, 1))[site]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, attention_mask=mask, names_filter=site)
    values = cache[site].double()
    whole = values[mask] if method == "mean" else values[:, : int(mask[0].sum())]
    assert values.sum(0).abs().max() > 65504
    assert written.dtype == dtype
    expected = whole.mean(0).to(dtype)
    one_place = torch.finfo(dtype).eps
    torch.testing.assert_close(written[0].squeeze(0), expected, rtol=one_place, atol=1e-2)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_attention_over_many_queries(dtype: torch.dtype) -> None:
    """149 of 299 queries look half at the first token, the others wholly: 224.5 / 299."""
    pattern = torch.zeros(1, 1, 300, 300, dtype=dtype)
    pattern[..., :150, 0] = 0.5
    pattern[..., 150:, 0] = 1
    found = attention_to(pattern, DETECTORS["first-token"](torch.arange(300))[None])
    assert float(found) == pytest.approx(0.7508361, abs=1e-6)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_scores_of_detectors_are_wide(loud: HookedGPT2, dtype: torch.dtype) -> None:
    half = copy.deepcopy(loud).to(dtype)
    found = detect_head(half, TEXT, "previous_token_head")
    assert found.dtype == torch.float32
    assert torch.allclose(found, detect_head(half.float(), TEXT, "previous_token_head"), atol=0.01)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_parts_sum_to_the_logit(loud: HookedGPT2, dtype: torch.dtype) -> None:
    """With the cached stream and scale, rounding is what the cache has, not what the sum adds."""
    model = copy.deepcopy(loud).to(dtype)
    with torch.no_grad():
        _, cache = model.run_with_cache(TEXT)
        token = int(model.to_tokens(TEXT)[0, -1])
        parts, _ = cache.get_full_resid_decomposition(expand_neurons=False, return_labels=True)
        assert parts.dtype == torch.float32
        whole = cache["resid_post", -1][None]
        sums = [logit_attrs(cache, stack, token).sum(0) for stack in (parts, whole)]
        logits = sums[1] + logit_bias(model, token)
        # The same in float64, from the cached numbers.
        stream, scale = whole[0].double(), cache["ln_final.hook_scale"].double()
        normed = (stream - stream.mean(-1, keepdim=True)) / scale * model.ln_final.w.double()
        exact = (normed + model.ln_final.b.double()) @ model.W_U[:, token].double()
    torch.testing.assert_close(logits.double(), exact, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(sums[0], sums[1], atol=TOLERANCE[dtype] * 2, rtol=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_subspaces_are_orthonormal(loud: HookedGPT2, dtype: torch.dtype) -> None:
    """torch has no QR decomposition in half precision."""
    basis = random_basis(copy.deepcopy(loud).to(dtype), Subspace(parse("m0")), 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3), atol=1e-6, rtol=0)
