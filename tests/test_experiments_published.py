"""The experiment published: is each fact of GPT-2 small measured as it is meant?"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from random_models import TINY, randomized

from circuits.analyses.attribute import attribute
from circuits.architectures import HookedGPT2
from circuits.checkpoints import load, save
from circuits.circuit import Circuit
from circuits.components import all_heads
from circuits.config import GPT2_SIZES
from circuits.errors import CircuitsError
from circuits.experiment import Bundle, conduct, script
from circuits.prompts import make


@pytest.fixture(scope="module")
def published() -> ModuleType:
    return script("published")


@pytest.fixture(scope="module")
def measures(published: ModuleType) -> ModuleType:
    import published_measures

    return published_measures


@pytest.fixture(scope="module")
def mini() -> HookedGPT2:
    return load("mini")


@pytest.fixture(scope="module")
def known(measures: ModuleType) -> Any:
    """A model whose heads were built by hand, asked its own form of the task."""
    model = load("compiled")
    subject = measures.Subject(model, 40, 0)
    subject.__dict__["ioi"] = make("compiled-ioi", model, 40, 0)
    return subject


def test_every_fact_has_a_measure_and_bounds(published: ModuleType, measures: ModuleType) -> None:
    facts = published.FACTS
    assert sorted(fact.name for fact in facts) == sorted(measures.MEASURES)
    assert {fact.control for fact in facts} == {True, False}
    for fact in facts:
        low = -math.inf if fact.low is None else fact.low
        high = math.inf if fact.high is None else fact.high
        assert low < high
        assert fact.paper
        assert (low, high) != (-math.inf, math.inf)
        assert fact.paper_value is None or low <= fact.paper_value <= high


def test_heads_look_where_they_were_built_to_look(measures: ModuleType, known: Any) -> None:
    assert measures.looks(known, ["a2.h0"], "END", "IO")["value"] > 0.9
    assert measures.looks(known, ["a2.h0"], "END", "S2")["value"] < 0.1
    both = measures.looks(known, ["a2.h0", "a2.h1"], "END", "IO")["value"]
    halves = [measures.looks(known, [h], "END", "IO")["value"] for h in ("a2.h0", "a2.h1")]
    assert both == pytest.approx(sum(halves) / 2)


def test_the_name_mover_is_all_that_a_built_model_has(measures: ModuleType, known: Any) -> None:
    assert measures.without(known, ["a2.h0"])["value"] == pytest.approx(1, abs=0.05)
    assert measures.without(known, ["a1.h0"])["value"] == pytest.approx(0, abs=0.05)


def test_the_built_induction_head_leads(measures: ModuleType, known: Any) -> None:
    assert measures.leading(known, ["a1.h0"])["value"] == 1
    assert measures.leading(known, ["a1.h0", "a0.h1"])["value"] == 0.5
    assert measures.without_repetition(known, ["a1.h0"])["value"] < 0.1


def test_a_copier_copies_and_does_not_take_away(measures: ModuleType, mini: HookedGPT2) -> None:
    subject = measures.Subject(mini, 12, 0)
    for head in ("a5.h1", "a3.h0"):
        some = measures.copies(subject, [head], opposite=False)["value"]
        taken = measures.copies(subject, [head], opposite=True)["value"]
        with torch.no_grad():
            mini.blocks[5].attn.W_O_flat.neg_()
            mini.blocks[3].attn.W_O_flat.neg_()
        turned = measures.copies(subject, [head], opposite=True)["value"]
        with torch.no_grad():
            mini.blocks[5].attn.W_O_flat.neg_()
            mini.blocks[3].attn.W_O_flat.neg_()
        assert some + taken <= 1
        assert turned == pytest.approx(some, abs=0.1)  # but for the bias of the final norm


def test_pushes_are_direct_attributions(measures: ModuleType, mini: HookedGPT2) -> None:
    subject = measures.Subject(mini, 6, 0)
    frame = attribute(mini, task=subject.ioi).frame.set_index("component")
    for head in all_heads(mini.cfg)[::13]:
        with torch.inference_mode():
            pushes = measures._pushes(subject, [head]).mean()
        assert float(pushes) == pytest.approx(frame.loc[str(head), "value"], abs=1e-3)


def test_what_is_not_knocked_out_is_not_repaired(measures: ModuleType, known: Any) -> None:
    """Earlier heads cannot know what a later one does."""
    repair = measures.self_repair(known, ["a2.h0"], ["a0.h0", "a1.h0"])
    whole = measures.self_repair(known, ["a2.h0"], ["a2.h0"])
    assert abs(repair["value"]) < 0.05 * abs(whole["value"])


def test_all_heads_alone_are_the_model(measures: ModuleType, mini: HookedGPT2) -> None:
    subject = measures.Subject(mini, 30, 0)
    every = Circuit.of(mini, all_heads(mini.cfg), level="heads")
    whole, alone = measures.circuit_share(subject, every, subject.ioi)
    assert alone == pytest.approx(whole, abs=1e-3)


def test_lowered_tokens_are_counted_one_by_one(
    measures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomized(TINY)
    monkeypatch.setattr(measures, "LOWEST", 3)
    found = measures.suppression(measures.Subject(model, 1, 0), ["a1.h0"])
    hits = []
    block = model.blocks[1]
    for token in range(model.cfg.d_vocab):
        with torch.inference_mode():
            read = model.blocks[0].mlp.plain(model.blocks[0].ln2.plain(model.W_E[token]))
            wrote = block.attn.W_O[0].T @ (block.attn.W_V[0].T @ block.ln1.plain(read))
            logits = model.W_U.T @ model.ln_final.plain(wrote)
        hits.append(token in logits.argsort()[:3].tolist())
    assert found["value"] == pytest.approx(sum(hits) / len(hits))
    assert found["n"] == len(hits)


def test_weights_and_files_are_told_apart(
    measures: ModuleType, mini: HookedGPT2, tmp_path: Path
) -> None:
    import published_facts

    count = sum(weight.numel() for weight in mini.parameters())
    subject = measures.Subject(mini, 1, 0)
    assert measures.parameters(subject)["value"] == count - published_facts.PARAMETERS
    assert measures.tokens(subject)["value"] == 0
    save(mini, tmp_path / "saved")
    saved = measures.Subject(load(str(tmp_path / "saved")), 1, 0)
    digest = hashlib.sha256((tmp_path / "saved" / "model.safetensors").read_bytes()).hexdigest()
    assert measures.checksum(saved, digest)["value"] == 1
    assert measures.checksum(saved)["value"] == 0
    with pytest.raises(CircuitsError, match=r"model\.safetensors"):
        measures.checksum(measures.Subject(randomized(TINY), 1, 0))


def test_another_model_has_not_its_heads(published: ModuleType, tmp_path: Path) -> None:
    bundle = conduct("published", model="mini", quick=True, out=tmp_path)
    outcomes = {check.says: check.outcome for check in bundle.finding.checks}
    asked = {fact.says for fact in published.FACTS if not (fact.heads or fact.released)}
    assert {says for says, outcome in outcomes.items() if outcome != "not here"} == asked
    assert not bundle.finding.holds
    again = Bundle.load(tmp_path / "published")
    assert [check.outcome for check in again.finding.checks] == list(outcomes.values())
    frame = again.finding.tables["facts"].frame.set_index("fact")
    assert frame["outcome"].to_dict() == outcomes
    assert frame["value"].isna().sum() == list(outcomes.values()).count("not here")


def test_gpt2_small_is_known_by_its_shape(published: ModuleType) -> None:
    heads = next(fact for fact in published.FACTS if fact.heads)
    small = SimpleNamespace(cfg=GPT2_SIZES["gpt2"])
    assert published.why_not(small, heads) == ""
    assert "a9.h9" in published.why_not(SimpleNamespace(cfg=GPT2_SIZES["gpt2-medium"]), heads)


def test_nothing_has_no_share(measures: ModuleType, mini: HookedGPT2) -> None:
    """An untrained model has no difference that a few heads could have a share of."""
    untrained = HookedGPT2.random(mini.cfg, seed=1, tokenizer=mini.tokenizer)
    subject = measures.Subject(untrained, 30, 0)
    assert measures.ioi_difference(subject)["ci_low"] < 0
    with pytest.raises(CircuitsError, match="no such difference"):
        measures.without(subject, ["a5.h1"])


def test_a_model_without_words_has_none_of_it(published: ModuleType) -> None:
    finding = published.run(load("sort-abc"), quick=True)
    assert {check.outcome for check in finding.checks} == {"not here"}
