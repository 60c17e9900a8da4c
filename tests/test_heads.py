"""The report card names the compiled model's heads, and scores are what their definitions say."""

from __future__ import annotations

import math
from typing import Any

import ground_truth
import pandas as pd
import pytest
import torch
from lens_models import lens_model
from lens_twin import IGNORE_DEPRECATION
from torch import Tensor
from typer.testing import CliRunner
from word_model import word_model

from circuits.analyses.ablate import ablate
from circuits.analyses.heads import heads
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.cli import app
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.head_kinds import KINDS, WRITING, name_of
from circuits.head_kinds import names as names
from circuits.head_kinds import random_tokens as attention
from circuits.prompts import Prompts, make
from circuits.tokenizer import Tokenizer

LN_V = math.log(27)


@pytest.fixture(scope="module")
def small_ioi(compiled: HookedGPT2) -> Prompts:
    return ground_truth.mini_ioi_prompts(compiled)


@pytest.fixture(scope="module")
def card(compiled: HookedGPT2, small_ioi: Prompts) -> pd.DataFrame:
    return heads(compiled, n=3, ioi=small_ioi, costs="all").frame


def of(card: pd.DataFrame, kind: str, column: str = "value") -> dict[str, float]:
    rows = card[card["kind"] == kind]
    return dict(zip(rows["component"], rows[column], strict=True))


def test_the_compiled_models_heads_get_their_names(card: pd.DataFrame) -> None:
    named = dict(zip(card["component"], card["name"], strict=True))
    assert {head: name for head, name in named.items() if name != "none"} == {
        "a0.h0": "previous-token",
        "a0.h1": "duplicate-token",
        "a1.h0": "induction",
        "a1.h1": "s-inhibition",
        "a2.h0": "name-mover",
    }


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("previous-token", "a0.h0"),
        ("duplicate-token", "a0.h1"),
        ("induction", "a1.h0"),
        ("prefix-matching", "a1.h0"),
    ],
)
def test_where_the_compiled_heads_look(card: pd.DataFrame, kind: str, head: str) -> None:
    values, controls = of(card, kind), of(card, kind, "control")
    assert values.pop(head) == pytest.approx(1, abs=1e-4)
    assert max(values.values()) < 0.15  # that of heads that attend evenly
    if kind != "previous-token":
        assert controls[head] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("kind", "nothing"), [("copying", -1), ("ov-copying", 0)])
def test_what_the_compiled_heads_write(card: pd.DataFrame, kind: str, nothing: float) -> None:
    values = of(card, kind)
    copying = [values.pop("a1.h0"), values.pop("a2.h0")]
    assert copying == pytest.approx([1, 1], abs=1e-3)
    assert list(values.values()) == pytest.approx([nothing] * 10, abs=1e-6)
    controls = [*of(card, kind, "control").values()]
    assert controls == pytest.approx([nothing] * 12, abs=0.1)


def test_the_compiled_models_names_move(card: pd.DataFrame) -> None:
    mover, inhibition = of(card, "name-mover"), of(card, "s-inhibition")
    assert mover.pop("a2.h0") == pytest.approx(10, abs=1e-3)
    assert max(map(abs, mover.values())) < 1e-4
    # The inhibited name's key scores 2 beta less.
    assert inhibition.pop("a1.h1") == pytest.approx(60, abs=0.01)
    assert max(map(abs, inhibition.values())) < 1e-4
    assert of(card, "s-inhibition", "control")["a1.h1"] == pytest.approx(0, abs=1e-4)
    assert of(card, "negative")["a2.h0"] == pytest.approx(-10 * (1 - 1 / 27), abs=0.01)
    assert of(card, "name-copying")["a2.h0"] == 1


def test_costs_are_those_of_the_ground_truth(card: pd.DataFrame) -> None:
    induction, ioi = of(card, "induction", "cost"), of(card, "name-mover", "cost")
    # Random tokens may hold the sentence's end, which starts the other circuit: about, not exactly.
    circuit = [induction.pop("a0.h0"), induction.pop("a1.h0")]
    assert circuit == pytest.approx([LN_V, LN_V], abs=0.1)
    assert max(map(abs, induction.values())) < 0.1
    expected = dict.fromkeys(ioi, 0.0) | {"a0.h1": 40 / 3, "a1.h1": 40 / 3, "a2.h0": 10.0}
    assert ioi == pytest.approx(expected, abs=2e-3)
    assert of(card, "name-mover", "cost_n")["a2.h0"] == 4


@pytest.mark.parametrize(("n", "expected"), [(3, 3), (8, 5), (24, 6)])
def test_a_quarter_of_the_random_draws_is_run_without_heads(
    compiled: HookedGPT2, n: int, expected: int
) -> None:
    card = heads(compiled, kind="induction", n=n, costs="all").frame
    few = make("repeated", compiled, n).subset(slice(expected))
    assert set(card["cost_n"]) == {expected}
    by_hand = ablate(compiled, all_heads=True, task=few).frame
    assert card["cost"].tolist() == pytest.approx(by_hand["value"].tolist(), abs=1e-5)
    assert card["cost_high"].tolist() == pytest.approx(by_hand["ci_high"].tolist(), abs=1e-5)


def test_only_heads_that_are_clear_on_a_behavior_are_run_without(
    compiled: HookedGPT2, small_ioi: Prompts, card: pd.DataFrame
) -> None:
    usual = heads(compiled, n=3, ioi=small_ioi).frame
    measured = usual[usual["cost"].notna()]
    by_behavior = measured.groupby("behavior")["component"].unique().map(sorted).to_dict()
    assert by_behavior == {
        name: sorted(set(rows.loc[rows["clear"], "component"]))
        for name, rows in usual.groupby("behavior")
        if rows["clear"].any()
    }
    same = card.loc[measured.index, [*usual.columns]]
    pd.testing.assert_frame_equal(measured, same, atol=1e-6)
    assert usual.loc[usual["clear"], "cost"].notna().all()
    named = heads(compiled, n=3, ioi=small_ioi, component="a0.h3").frame
    assert named.loc[named["behavior"].notna(), "cost"].notna().all()


@pytest.mark.slow
def test_mini_has_its_induction_heads(mini: HookedGPT2) -> None:
    card = heads(mini, kind=["induction", "previous-token"], n=4, memory="500M").frame
    induction = of(card, "induction")
    strong = {head for head, value in induction.items() if value > 0.7}
    assert strong == {f"a1.h{i}" for i in (0, 4, 6, 7)} | {"a4.h1", "a5.h3", "a5.h5", "a6.h3"}
    assert max(induction.values()) > 0.95
    assert sum(of(card, "induction", "control").values()) / 64 < 0.05
    assert of(card, "previous-token")["a0.h6"] == pytest.approx(0.55, abs=0.05)
    assert of(card, "previous-token", "cost")["a0.h6"] > 5
    assert set(card.loc[card["component"] == "a0.h6", "name"]) == {"previous-token"}


def eigenvalues_of_the_whole(model: HookedGPT2, layer: int, head: int) -> Tensor:
    """Of the vocabulary by vocabulary matrix, with both LayerNorms' weights and centering."""
    block, d = model.blocks[layer], model.cfg.d_model
    center = torch.eye(d, dtype=torch.float64) - 1 / d
    read = model.W_E @ center @ block.ln1.w.diag() @ block.attn.W_V[head]
    write = block.attn.W_O[head] @ center @ model.ln_final.w.diag() @ model.W_U
    matrix = read @ write
    return torch.linalg.eigvals(matrix - matrix.mean(1, keepdim=True))


def test_eigenvalues_are_those_of_the_whole_matrix(words: HookedGPT2) -> None:
    with torch.inference_mode():
        found = attention.eigenvalue_copying(words, 0).value[..., 0]
        for layer, head in ((0, 1), (1, 0)):
            values = eigenvalues_of_the_whole(words, layer, head)
            expected = float(values.real.sum() / values.abs().sum())
            assert found[layer, head] == pytest.approx(expected, abs=1e-6)


def test_series_are_split_where_the_vocabulary_lacks_a_word() -> None:
    model = word_model(tokens=[f" {w}" for w in "Monday Tuesday Thursday Friday Sunday".split()])
    runs = names.series(model)
    assert [[model.to_single_str_token(t) for t in run] for run in runs[:2]] == [
        [" Monday", " Tuesday"],
        [" Thursday", " Friday"],
    ]
    prompts = names.series_prompts(model, runs, 5, 0)
    assert prompts is not None
    assert len(prompts) == 5
    at = model.tokenizer.decode(prompts.tokens[0].tolist())
    assert prompts.answers is not None
    follows = model.tokenizer.decode([int(prompts.answers[0])])
    assert ord(follows) == ord(at[-1]) + 1


def test_a_head_that_writes_the_next_letter_is_a_successor() -> None:
    letters = Tokenizer.characters("ABCDEFGHIJ")
    sizes = {"n_heads": 2, "d_model": 24, "d_head": 12, "n_ctx": 12, "d_vocab": 10}
    cfg = ModelConfig(n_layers=1, default_prepend_bos=False, **sizes)
    model = HookedGPT2.random(cfg, tokenizer=letters)
    with torch.no_grad():
        model.W_pos.zero_()
        model.W_E.copy_(torch.eye(10, 24))
        attn = model.blocks[0].attn
        attn.W_V[0].copy_(torch.eye(24, 12))
        attn.W_O[0].copy_(torch.eye(12, 24).roll(1, 1))
    with torch.inference_mode():
        found = names.successors(model, names.series(model))
    assert found.value.shape == (1, 2, 9)
    assert found.value[0, 0].tolist() == [1] * 9
    assert found.control[0, 0].tolist() == pytest.approx([1 / 9] * 9)
    assert found.value[0, 1].mean() < 0.5


def test_models_without_names_and_repetitions_say_so() -> None:
    result = heads(load("sort-abc"), n=3)
    card = result.frame
    assert set(card["kind"]) == set(KINDS)
    lacking = set(card.loc[card["note"].notna(), "kind"])
    assert lacking == {
        *("induction", "duplicate-token", "prefix-matching", "successor"),
        *("name-mover", "name-copier", "s-inhibition", "negative", "name-copying"),
    }
    assert card.loc[card["note"].notna(), "value"].isna().all()
    assert card.loc[card["note"].isna(), "value"].notna().all()
    assert card["cost"].isna().all()
    titles = [ax.get_title(loc="left") for ax in result.plot().axes]
    assert "copying" in titles
    assert "induction" not in titles
    for _, rows in card.groupby("component"):
        looks = rows.set_index("kind")["value"][["previous-token", "first-token"]]
        assert looks.between(0, 1).all()


def test_chosen_heads_and_kinds_are_rows_of_the_whole(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"n": 3, "seed": 4, "method": "mean", "costs": "all"}
    whole = heads(words, **asked).frame.set_index(["kind", "component"])
    some = heads(words, kind="name-mover", component=["a1.h0", "a0.h1"], **asked).frame
    assert some["component"].tolist() == ["a1.h0", "a0.h1"]
    for _, row in some.iterrows():
        same = whole.loc[(row["kind"], row["component"])]
        for column in ("value", "control", "cost", "cost_high"):
            assert row[column] == pytest.approx(same[column], abs=1e-9), column


def test_names_follow_the_rule() -> None:
    assert name_of({}) == "none"
    assert name_of({"induction": 0.24, "first-token": 0.49}) == "none"
    assert name_of({"first-token": 0.6, "copying": 0.9}) == "first-token"
    assert name_of({"first-token": 0.6, "current-token": 0.4}) == "current-token"
    assert name_of({"negative": 9.0, "previous-token": 0.3}) == "previous-token"
    assert name_of({"previous-token": float("nan")}) == "none"
    assert name_of({"name-copier": 9.0, "name-mover": 0.3}) == "name-mover"
    assert name_of({"name-copier": 0.3, "first-token": 0.9}) == "name-copier"


def test_the_same_question_gives_the_same_bytes_and_leaves_the_model(words: HookedGPT2) -> None:
    before = checksum(words)
    first = heads(words, n=2, seed=3)
    assert heads(words, n=2, seed=3).to_json() == first.to_json()
    assert heads(words, n=2, seed=4, kind="induction").to_json() != first.to_json()
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]
    assert first.provenance.task == "repeated, ioi, successor"


def test_progress_goes_to_the_end(words: HookedGPT2) -> None:
    seen: list[int] = []
    heads(words, n=1, costs="all", progress=lambda done, total: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 1000


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "inducton"}, "no kind of head 'inducton'.*did you mean 'induction'"),
        ({"component": "a9.h0"}, "there is no layer 9: tiny has layers 0 to 1"),
        ({"component": "m1"}, "m1 is no head"),
        ({"component": "a1.h0<q>"}, "is no head; name heads, such as a5.h3"),
        ({"n": 0}, "draw at least 1"),
        ({"method": "resample"}, "ablate by zero or mean"),
        ({"costs": "none"}, "costs of clear or all"),
    ],
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        heads(words, **asked)


def test_prompts_of_ones_own_need_the_roles(words: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match="have no IO, S1, S2, answers, distractors"):
        heads(words, ioi=make("repeated", words, 2), kind="name-mover")


@pytest.mark.slow
def test_the_report_card_in_a_terminal() -> None:
    def run(*args: str) -> str:
        return CliRunner().invoke(app, ["heads", "--model", "compiled", "-n", "2", *args]).stdout

    lines = run().splitlines()
    assert lines[0] == "What kind of head is each? (compiled)"
    text = " ".join(" ".join(lines).split())
    assert text.index("induction a1.h0") < text.index("previous-token a0.h0")
    assert "5 of 24 heads are of a kind" in text
    lacking = "no score for name-mover, name-copier, s-inhibition, negative, name-copying: "
    assert f"{lacking}the task 'ioi' does not suit compiled: its vocabulary" in text
    assert max(map(len, lines)) <= 100
    one = run("--component", "a1.h0", "--kind", "induction", "--kind", "copying")
    assert "a1.h0: induction" in one
    assert one.count("clear") == 2


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
@pytest.mark.parametrize(
    ("shape", "lacking"),
    [
        ("gpt2", set()),
        ("llama", set()),
        ("gemma2", {*WRITING}),  # a norm between heads and stream
    ],
)
def test_models_of_transformer_lens(shape: str, lacking: set[str]) -> None:
    pytest.importorskip("transformer_lens.HookedTransformer")
    card = heads(lens_model(shape), n=1, component=["a1.h3", "a0.h0"]).frame
    without = set(card.loc[card["value"].isna(), "kind"])
    # No series of single tokens; and one prompt shows no name movers that could be inhibited.
    assert without == lacking | {"successor", "s-inhibition"}
    assert card.loc[card["value"].isna(), "note"].notna().all()
    assert (card.loc[card["behavior"].notna(), "cost_n"] == 1).all()
