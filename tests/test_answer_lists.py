"""A prompt may have several right answers, and several wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from word_model import word_model

from circuits.analyses.ablate import ablate
from circuits.analyses.approximate import approximate
from circuits.analyses.attribute import attribute
from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import from_file


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return word_model(n_ctx=24)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_list_of_answers_is_a_set(model: HookedGPT2, tmp_path: Path) -> None:
    lines = [
        {"clean": "x", "answer": [" Tom", " Anne"], "distractor": " Mary"},
        {"clean": "y and", "answer": " Tom", "distractor": [" Mary", " Anne"]},
    ]
    path = written(tmp_path, *map(json.dumps, lines))
    prompts = from_file(model, path)
    assert prompts.metric == "prob_diff"
    assert prompts.answers is None
    ids = {word: model.to_single_token(f" {word}") for word in ("Tom", "Anne", "Mary")}
    assert prompts.answer_sets is not None
    assert prompts.answer_sets.tolist() == [[ids["Tom"], ids["Anne"]], [ids["Tom"], -1]]
    with torch.inference_mode():
        logits = model(prompts.tokens, attention_mask=prompts.mask)
    for row, (right, wrong) in enumerate([("Tom Anne", "Mary"), ("Tom", "Mary Anne")]):
        probs = logits[row, int(prompts.roles["END"][row])].softmax(-1)
        sums = [sum(float(probs[ids[w]]) for w in words.split()) for words in (right, wrong)]
        given = get_metric("prob_diff")(logits, prompts)[row].item()
        assert given == pytest.approx(sums[0] - sums[1], abs=1e-6)
        assert get_metric("prob")(logits, prompts)[row].item() == pytest.approx(sums[0], abs=1e-6)


def test_a_list_alone_is_measured_by_its_probability(model: HookedGPT2, tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "x", "answer": [" Tom", " Anne"]}')
    prompts = from_file(model, path)
    assert (prompts.metric, prompts.distractor_sets) == ("prob", None)
    with pytest.raises(CircuitsError, match="metrics that fit: kl, loss, prob$"):
        get_metric("logit_diff").check(prompts)
    with torch.inference_mode():
        logits = model(prompts.tokens, attention_mask=prompts.mask)
    prob = get_metric("prob")(logits, prompts)
    torch.testing.assert_close(get_metric("loss")(logits, prompts), -prob.log())
    with pytest.raises(CircuitsError, match=r"has a list of answers.*give a single answer, or abl"):
        attribute(model, file=path)


@pytest.mark.parametrize("name", ["logit_diff", "accuracy", "loss", "prob", "prob_diff"])
def test_a_sweep_measures_lists_as_plain_passes_do(
    model: HookedGPT2, tmp_path: Path, name: str
) -> None:
    lines = [
        {"clean": "x and", "corrupted": "y and", "answer": [" Tom", " Anne"], "distractor": "b"},
        {"clean": "y", "corrupted": "z", "answer": "a", "distractor": [" Mary", " Anne", "c"]},
    ]
    path = written(tmp_path, *map(json.dumps, lines))
    prompts, metric = from_file(model, path), get_metric(name)
    with torch.inference_mode():
        logits = model(prompts.tokens, attention_mask=prompts.mask)
        edited = model.run_with_hooks(
            prompts.tokens,
            fwd_hooks=[("blocks.1.hook_mlp_out", lambda out, hook: torch.zeros_like(out))],
            attention_mask=prompts.mask,
        )
    row = ablate(model, component="m1", file=path, metric=name).frame.iloc[0]
    assert row["clean"] == pytest.approx(metric(logits, prompts).mean().item(), abs=1e-5)
    assert row["ablated"] == pytest.approx(metric(edited, prompts).mean().item(), abs=1e-5)
    if name != "accuracy":  # which has no gradient; behind the last MLP only the norm is not linear
        answer = approximate(model, what="mlp", file=path, metric=name, check="all").frame
        assert answer["pearson"].iloc[0] > 0.9
