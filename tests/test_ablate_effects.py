"""Direct, indirect and total effects, held patterns, and what else can be written than zeros."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import ground_truth
import pytest
import slow_sweep
from numpy.testing import assert_allclose
from typer.testing import CliRunner
from word_model import word_model

from circuits.analyses.ablate import ablate
from circuits.analyses.attribute import attribute
from circuits.architectures import HookedGPT2
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.metrics import METRICS
from circuits.prompts import Example, Prompts, assemble, from_texts
from circuits.result import AVERAGED, Result
from circuits.sweep import Source, Sweep, cell, plan, run

LN_V = math.log(27)
IOI: dict[str, Any] = {"prompt": "aAbBcdeBfg.", "answer": "A", "distractor": "B"}
TEXTS = ["When Mary gave", "to John and to", "Mary and John to", "and the to"]


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    return build(n_layers=3)


@pytest.fixture(scope="module")
def words() -> HookedGPT2:
    return word_model().double()


@pytest.fixture(scope="module")
def copies(compiled: HookedGPT2) -> Prompts:
    """BOS, 15 random tokens but END, and the same again: the second copy is scored."""
    rows = [ground_truth.repeated(compiled, seed=seed)[0].tolist() for seed in range(3)]
    examples = [Example("", row, targets={i: row[i + 1] for i in range(16, 30)}) for row in rows]
    return assemble(compiled, examples, task="copies", metric="loss", prepend_bos=True)


def column(result: Result, name: str) -> dict[str, float]:
    return dict(zip(result.frame["component"], result.frame[name], strict=True))


def test_only_the_name_mover_acts_directly(compiled: HookedGPT2) -> None:
    found = ablate(compiled, all_heads=True, effects=True, **IOI)
    nothing = dict.fromkeys(column(found, "value"), 0.0)
    early = {"a0.h1": -40 / 3, "a1.h1": -40 / 3}
    late = {"a2.h0": -10.0}
    assert column(found, "direct") == pytest.approx(nothing | late, abs=2e-3)
    assert column(found, "indirect") == pytest.approx(nothing | early, abs=2e-3)
    assert column(found, "self_repair") == pytest.approx(nothing | early, abs=2e-3)
    assert column(found, "value") == pytest.approx(nothing | early | late, abs=2e-3)


def test_induction_is_direct_in_its_second_head_alone(
    compiled: HookedGPT2, copies: Prompts
) -> None:
    found = ablate(compiled, all_heads=True, effects=True, task=copies)
    direct, indirect = column(found, "direct"), column(found, "indirect")
    assert direct["a1.h0"] == pytest.approx(LN_V, abs=2e-3)
    assert indirect["a0.h0"] == pytest.approx(LN_V, abs=2e-3)
    assert indirect["a1.h0"] == pytest.approx(0, abs=2e-3)
    assert direct["a0.h0"] == pytest.approx(0, abs=2e-3)
    # More loss is worse: what later parts make of it is the contrary of a repair.
    assert column(found, "self_repair")["a0.h0"] == pytest.approx(-LN_V, abs=2e-3)


def test_with_patterns_held_a_head_counts_for_what_it_moves(
    compiled: HookedGPT2, copies: Prompts
) -> None:
    # Olsson et al. 2022: previous-token heads act on the patterns of later heads alone.
    held = ablate(compiled, all_heads=True, freeze="patterns", task=copies)
    expected = dict.fromkeys(column(held, "value"), 0.0012) | {"a1.h0": LN_V}
    assert column(held, "ablated") == pytest.approx(expected, abs=2e-4)
    small = ablate(compiled, all_heads=True, freeze="patterns", **IOI)
    expected = dict.fromkeys(column(small, "value"), 10.0) | {"a2.h0": 0.0}
    assert column(small, "ablated") == pytest.approx(expected, abs=1e-3)
    assert "patterns held" in small.title
    assert small.provenance.arguments["freeze"] == "patterns"


def test_with_the_final_scale_held_the_direct_effect_is_the_attribution(words: HookedGPT2) -> None:
    """Logits are linear in the stream then: without a head, its push is gone and no more."""
    asked: dict[str, Any] = {"task": "ioi", "n": 6}
    pushes = column(attribute(words, **asked), "value")
    found = ablate(words, all_heads=True, effects=True, **asked)
    for head, held in column(found, "direct_held").items():
        assert held == pytest.approx(-pushes[head], abs=1e-9)
    removed = column(attribute(words, **asked), "recomputed")
    for head, direct in column(found, "direct").items():
        assert direct == pytest.approx(-removed[head], abs=1e-9)


def test_the_scale_that_is_held_is_the_base_runs(words: HookedGPT2) -> None:
    """By plain hooks on the metric's own logits, which need not be linear; with both intervals."""
    prompts = from_texts(words, TEXTS)
    source = Source("zero", prompts.tokens, prompts.mask)
    (write,) = cell("m0->logits")
    cells = (cell(), cell("m0"), (replace(write, scale_held=True),))
    sweep = Sweep(prompts, METRICS["loss"], cells, source)
    base, total, direct = slow_sweep.scores(words, sweep).numpy()
    row = ablate(words, component="m0", prompt=TEXTS, effects=True).frame.iloc[0]
    half = 3.182446 / 2  # Student's t with 3 degrees of freedom, over the root of 4
    by = {"direct": direct - base, "indirect": total - direct, "self_repair": direct - total}
    for name, values in by.items():
        mean, width = values.mean(), half * values.std(ddof=1)
        numbers = [row[f"{name}_held{end}"] for end in ("", "_low", "_high")]
        assert_allclose(numbers, [mean, mean - width, mean + width], rtol=1e-5, atol=1e-12)
    assert abs(row["direct_held"] - row["direct"]) > 1e-3


def test_part_of_minis_repair_is_the_final_layernorms(mini: HookedGPT2) -> None:
    asked: dict[str, Any] = {"component": "a6.h3", "task": "ioi", "n": 40, "effects": True}
    found = ablate(mini, **asked)
    row = found.frame.iloc[0]
    # The scale shrinks without the head, so that what is left weighs more.
    assert row["direct_held"] < row["direct"] < 0
    assert row["self_repair_held"] - row["self_repair"] == pytest.approx(
        row["direct"] - row["direct_held"], abs=1e-6
    )
    assert set(found.frame.columns) <= {*found.meanings, "layer", "head", *AVERAGED}


def test_only_logits_are_read_by_the_final_norm(words: HookedGPT2) -> None:
    prompts = from_texts(words, TEXTS)
    source = Source("zero", prompts.tokens, prompts.mask)
    for part in ("m0->m1", "m1"):
        cells = (tuple(replace(write, scale_held=True) for write in cell(part)),)
        with pytest.raises(CircuitsError, match="m1 does not read by the final norm"):
            plan(words, Sweep(prompts, METRICS["loss"], cells, source))


def test_effects_add_up_prompt_by_prompt(words: HookedGPT2) -> None:
    prompts = from_texts(words, TEXTS)
    parts = ["a0.h1", "m0", "m1.n3"]
    whole, straight = cell(*parts), cell(*(f"{part}->logits" for part in parts))
    source = Source("mean", prompts.tokens, prompts.mask)
    sweep = Sweep(prompts, METRICS["loss"], (cell(), whole, straight), source)
    base, total, direct = run(words, plan(words, sweep)).values
    row = ablate(words, component=parts, prompt=TEXTS, method="mean", effects=True).frame.iloc[0]
    half = 3.182446 / 2  # Student's t with 3 degrees of freedom, over the root of 4
    by = {"direct": direct - base, "indirect": total - direct, "self_repair": direct - total}
    for name, values in by.items():
        mean, width = values.mean(), half * values.std(ddof=1)
        found = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
        assert_allclose(found, [mean, mean - width, mean + width], rtol=1e-5, atol=1e-12)
    assert row["value"] == pytest.approx(row["direct"] + row["indirect"], abs=1e-12)


def test_the_last_layer_has_nothing_after_it(words: HookedGPT2) -> None:
    for part in ("m1", "m1.n2"):
        row = ablate(words, component=part, prompt=TEXTS, effects=True).frame.iloc[0]
        assert row["indirect"] == pytest.approx(0, abs=1e-12)
        assert row["direct"] != 0


@pytest.mark.parametrize("method", ["zero", "mean", "position-mean", "resample", "noise"])
def test_every_method_ranks_all_heads(words: HookedGPT2, method: str) -> None:
    asked: dict[str, Any] = {"all_heads": True, "task": "ioi", "n": 12, "method": method}
    found = ablate(words, effects=True, **asked)
    assert sorted(found.frame["rank"]) == [1, 2, 3, 4]
    assert found.to_json() == ablate(words, effects=True, **asked).to_json()
    total = found.frame["direct"] + found.frame["indirect"]
    assert_allclose(found.frame["value"], total, atol=1e-12)


def test_means_by_position_are_over_prompts_of_the_same_length(words: HookedGPT2) -> None:
    texts = [" When Mary gave", " and John the", " to the"]
    with pytest.raises(CircuitsError, match="reference set has 1 prompts; give two or more"):
        ablate(words, component="m0", prompt=texts, method="position-mean")
    row = ablate(words, component="m0", prompt=texts[:2], method="position-mean").frame.iloc[0]
    assert (
        row["reference"]
        == "the mean at each position, over those of these 2 prompts that are as long"
    )
    # Two prompts that share their mean lose what tells them apart, and nothing else.
    prompts = from_texts(words, texts[:2])
    values = words.run_with_cache(prompts.tokens)[1]["mlp_out", 0].mean(0, keepdim=True)
    hook = ("blocks.0.hook_mlp_out", lambda value, hook: values.expand_as(value).clone())
    logits = words.run_with_hooks(prompts.tokens, fwd_hooks=[hook])
    expected = METRICS["loss"](logits, prompts).mean().item()
    assert row["ablated"] == pytest.approx(expected, abs=1e-9)


def test_a_constant_batch_has_nothing_to_ablate(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"component": "m0", "prompt": [" When Mary gave"] * 3}
    row = ablate(words, method="position-mean", **asked).frame.iloc[0]
    assert row["value"] == pytest.approx(0, abs=1e-12)


def test_noise_depends_on_the_seed(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"component": "a0.h0", "prompt": TEXTS, "method": "noise"}
    one, other = (ablate(words, seed=seed, **asked).frame.iloc[0] for seed in (0, 1))
    assert one["value"] != other["value"]
    assert one["reference"].startswith("noise with the mean and spread of the ")
    little = ablate(words, memory="200K", **asked).frame.iloc[0]
    assert little["value"] == pytest.approx(one["value"], abs=1e-12)


def test_later_blocks_need_lengths_that_the_first_has(words: HookedGPT2, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text(
        "\n".join([*[" When Mary", " to John"] * 300, " and Mary gave"])
    )
    with pytest.raises(CircuitsError, match="of 4 tokens the reference set has 0 prompts"):
        ablate(words, component="m0", file=tmp_path / "many.txt", method="position-mean")


def test_neurons_have_no_rank(words: HookedGPT2) -> None:
    row = ablate(words, component="m0.n3", prompt=TEXTS, effects=True).frame.iloc[0]
    assert (row["component"], row["layer"]) == ("m0.n3", 0)
    assert row[["head", "rank"]].isna().all()
    assert row["value"] != 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"component": "a0.h1<q>", "effects": True}, "is an input and sends nothing"),
        ({"component": "a0.h1<q>", "freeze": "patterns"}, "acts through the head's pattern"),
        ({"component": "a0.h1<pattern>"}, "a pattern can come from another run"),
        ({"component": "m0", "freeze": "attention"}, "only patterns can be held"),
        ({"component": "m0.n99"}, "there is no neuron 99: tiny has neurons 0 to 31"),
        ({"component": "m0", "method": "positional"}, "did you mean 'position-mean'"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        ablate(words, prompt=TEXTS, **asked)


def test_the_command_line_shows_both_parts_of_an_effect() -> None:
    args = ["ablate", "--all-heads", "--effects", "--prompt", IOI["prompt"], "--answer", "A"]
    args += ["--distractor", "B", "--model", "compiled"]
    out = CliRunner().invoke(app, args, prog_name="circuits").stdout
    (line,) = (line for line in out.splitlines() if "a2.h0" in line)
    assert line.split()[:5] == ["prompt", "a2.h0", "10.000", "-10.000", "-10.000"]
    assert "indirect = effect - direct" in out
    assert "held: direct if the final LayerNorm kept its scale" in " ".join(out.split())
    assert " held " in out
