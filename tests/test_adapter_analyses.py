"""Every analysis, asked of transformer_lens models of other architectures as they are."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_analysis import IOI, OF_A_MODEL, TEXT, answer, write_files
from lens_models import SHAPES, WORDS, lens_model, state
from lens_twin import IGNORE_DEPRECATION, lens_twin
from numpy.testing import assert_allclose
from quick import only
from word_model import word_model

from circuits.adapter import adapt
from circuits.analyses.ablate import ablate
from circuits.analyses.attribute import attribute
from circuits.analyses.logit_lens import logit_lens
from circuits.analyses.patch import patch
from circuits.analyses.paths import paths
from circuits.errors import CircuitsError
from circuits.prompts import make
from circuits.result import Result

pytest.importorskip("transformer_lens.HookedTransformer")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)

# Where the architecture has no such thing: what the error says.
NO_SUM, NO_PRODUCT = "normalizes what", "more than queries times keys"
REFUSED = {
    **{
        (name, "gemma2"): NO_SUM
        for name in ("attribute", "discover", "evaluate", "neurons", "paths")
    },
    **{(name, "pythia"): "no site blocks.0.hook_mlp_in" for name in ("discover", "evaluate")},
    **{("why", shape): NO_PRODUCT for shape in ("llama", "gemma", "gemma2", "pythia")},
    **{("fine-tune", shape): "no GPT-2 of this package" for shape in SHAPES},
    ("neurons", "attn-only"): "attention layers only",
    **{("walkthrough", shape): "a walkthrough goes" for shape in ("pythia", "attn-only")},
}


@cache
def theirs(shape: str) -> Any:
    return lens_model(shape, dtype=torch.float32)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files are read and written."""
    monkeypatch.chdir(tmp_path)
    write_files()


def ask(name: str, model: Any) -> Result:
    other = None
    if name == "diff":
        other = lens_model(model.cfg.model_name.removeprefix("tiny-"), dtype=torch.float32)
        with torch.no_grad():
            other.blocks[0].attn.W_Q += 0.1
    return answer(name, model, other)


@pytest.mark.parametrize("shape", only(("llama", "gemma2"), SHAPES))
@pytest.mark.parametrize("name", OF_A_MODEL)
@pytest.mark.slow
def test_every_analysis_answers_or_says_why_not(name: str, shape: str) -> None:
    model = theirs(shape)
    before = state(model)
    if (name, shape) in REFUSED:
        with pytest.raises(CircuitsError, match=REFUSED[name, shape]):
            ask(name, model)
    else:
        found = ask(name, model)
        assert len(found.frame)
        assert found.provenance.model == f"tiny-{shape}"
        assert found.provenance.source == "transformer_lens HookedTransformer"
        assert f"--model tiny-{shape}" in found.provenance.command
        numbers = found.frame.select_dtypes(float)
        assert not np.isinf(numbers.to_numpy(float)).any()
        assert found.to_json() == ask(name, model).to_json()
    assert state(model) == before


@pytest.mark.parametrize("shape", SHAPES)
def test_ablation_and_patching_are_what_transformer_lens_computes(shape: str) -> None:
    model = theirs(shape)
    prompts = make("ioi", adapt(model), 4)
    rows, ends = torch.arange(4), prompts.roles["END"]

    def score(tokens: torch.Tensor, site: str = "hook_embed", fn: Any = lambda x, hook: x) -> Any:
        with torch.no_grad():
            given = model.run_with_hooks(
                tokens, fwd_hooks=[(site, fn)], attention_mask=prompts.mask.long()
            )
        end = given[rows, ends]
        return (end[rows, prompts.answers] - end[rows, prompts.distractors]).mean().item()

    def silence(head: int, value: torch.Tensor, hook: Any) -> torch.Tensor:
        value[:, :, head] = 0
        return value

    base = score(prompts.tokens)
    for row in ablate(model, all_heads=True, task=prompts).frame.itertuples():
        silent = partial(silence, row.head)
        expected = score(prompts.tokens, f"blocks.{row.layer}.attn.hook_z", silent) - base
        assert row.value == pytest.approx(expected, abs=2e-5)

    def restore(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value[rows, ends] = clean[hook.name][rows, ends]
        return value

    _, clean = model.run_with_cache(prompts.tokens, attention_mask=prompts.mask.long())
    found = patch(model, component="resid_pre.1@END", task=prompts).frame.iloc[0]
    expected = score(prompts.corrupted, "blocks.1.hook_resid_pre", restore)
    assert found["patched"] == pytest.approx(expected, abs=2e-5)
    assert found["clean"] == pytest.approx(base, abs=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_attributions_sum_to_the_difference_of_logits(shape: str) -> None:
    model = theirs(shape)
    frame = attribute(model, what="layers", **IOI).frame
    assert frame["value"].sum() == pytest.approx(frame["total"].iloc[0], abs=1e-4)
    prompts = make("ioi", adapt(model), 4)
    with torch.no_grad():
        final = model(prompts.tokens, stop_at_layer=2, attention_mask=prompts.mask.long())
        logits = model.unembed(model.ln_final(final))[torch.arange(4), prompts.roles["END"]]
    answers, others = (logits.gather(1, t[:, None]) for t in (prompts.answers, prompts.distractors))
    assert frame["total"].iloc[0] == pytest.approx(float((answers - others).mean()), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_lens_ends_with_their_probabilities(shape: str) -> None:
    model = theirs(shape)
    last = logit_lens(model, TEXT, top=3).frame.iloc[-1]
    with torch.no_grad():
        probabilities = model(adapt(model).to_tokens(TEXT))[0, -1].softmax(-1)
    best = probabilities.topk(3)
    assert last["probability"] == pytest.approx(float(best.values[0]), abs=1e-5)
    assert last["token"] == WORDS[int(best.indices[0])]


def test_a_gpt_2_gives_the_numbers_of_the_native_model() -> None:
    native = word_model()
    adapted = adapt(lens_twin(native))
    adapted.tokenizer = native.tokenizer
    for analysis, options in (
        (ablate, {"all_heads": True, "method": "mean"}),
        (patch, {"what": "q"}),
        (patch, {"what": "resid_mid"}),
        (paths, {"to": "a1.h0<k>"}),
        (attribute, {"what": "heads"}),
    ):
        mine, other = (analysis(m, task="ioi", n=6, **options).frame for m in (adapted, native))
        assert mine.columns.equals(other.columns)
        for column in other:
            if other[column].dtype == float:
                expected = other[column].to_numpy()
                assert_allclose(mine[column], expected, rtol=1e-3, atol=1e-4, err_msg=column)
            else:
                assert mine[column].equals(other[column]), column


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"component": "a0.h9"}, "no head 9: tiny-llama has heads 0 to 3"),
        ({"layer": 99, "head": 0}, "no layer 99"),
        ({"component": "pos"}, "rotary positions"),
        ({"component": "a0.h1@NOWHERE", **IOI}, "no position 'NOWHERE'"),
        ({"component": "a0.h1", "prompt": "Mary " * 60, "answer": "Mary"}, "at most 48"),
        ({"component": "a0.h1", "prompt": "Mary 😀", "answer": "Mary"}, "no token for a part"),
        ({"component": "a0.h1", "prompt": "مرحبا", "answer": "Mary"}, "no token for a part"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_error(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        ablate(theirs("llama"), **asked)
