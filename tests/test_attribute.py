"""Every part's push is what it says, and all of them together are the logit difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_tokens, randomized, seeds, tiny_configs
from typer.testing import CliRunner
from word_model import letter_model, word_model

from circuits.analyses.attribute import attribute
from circuits.architectures import HookedGPT2
from circuits.attribution import direct
from circuits.checkpoints import checksum, load
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, TokenError
from circuits.prompts import Prompts, make
from circuits.result import Result

IOI = {"prompt": "aAbBcdeBfg.", "answer": "A", "distractor": "B"}
KINDS: list[dict[str, Any]] = [
    {"what": "heads"},
    {"what": "layers"},
    {"what": "neurons", "top": 3},
    {"positions": "roles", "top": 3},
]


def asked(cfg: ModelConfig, seed: int, *, paired: bool) -> Prompts:
    """Three random prompts of different lengths; answers at END, or every token is asked for."""
    n_pos = min(cfg.n_ctx, 5)
    tokens = random_tokens(cfg, 3, n_pos, seed)
    lengths = torch.tensor([n_pos, max(n_pos - 1, 1), n_pos])
    mask = torch.arange(n_pos) < lengths[:, None]
    end = lengths - 1
    targets = torch.where(mask, (tokens + 1) % cfg.d_vocab, -1)
    return Prompts(
        task="random",
        texts=("a", "b", "c"),
        tokens=tokens,
        mask=mask,
        targets=targets,
        roles={"FIRST": torch.zeros_like(end), "END": end},
        metric="loss",
        prepend_bos=False,
        answers=tokens[:, 0] if paired else None,
        distractors=(tokens[:, 0] + 1) % cfg.d_vocab if paired else None,
    )


def really(model: HookedGPT2, prompts: Prompts) -> float:
    """What the rows must sum to, from the model's own logits."""
    logits = model(prompts.tokens, attention_mask=prompts.mask).detach()
    if prompts.answers is not None and prompts.distractors is not None:
        at_end = logits[torch.arange(len(prompts)), prompts.roles["END"]]
        pair = torch.stack([prompts.answers, prompts.distractors], 1)
        return float(at_end.gather(1, pair).diff(dim=1).neg().mean())
    found = []
    for row, targets in zip(logits, prompts.targets, strict=True):
        here = targets >= 0
        above = row[here] - row[here].mean(-1, keepdim=True)
        found.append(above.gather(1, targets[here, None]).mean())
    return float(torch.stack(found).mean())


# --- identities -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(cfg=tiny_configs(), seed=seeds, kind=st.sampled_from(KINDS), paired=st.booleans())
def test_all_rows_sum_to_the_logit_difference(
    cfg: ModelConfig, seed: int, kind: dict[str, Any], paired: bool
) -> None:
    model = randomized(cfg, seed=seed % 1000)
    prompts = asked(cfg, seed, paired=paired)
    if kind.get("what") == "neurons":
        kind = kind | {"top": 1}
    frame = attribute(model, task=prompts, **kind).frame
    expected = really(model, prompts)
    assert frame["value"].sum() == pytest.approx(expected, abs=1e-9)
    assert frame["total"].iloc[0] == pytest.approx(expected, abs=1e-9)
    assert (frame["n"] == 3).all()


def test_all_rows_sum_to_it_in_single_precision(mini: HookedGPT2) -> None:
    for kind in KINDS:
        frame = attribute(mini, task="ioi", n=5, **kind).frame
        prompts = make("ioi", mini, 5)
        assert frame["value"].sum() == pytest.approx(really(mini, prompts), abs=1e-4)


def test_the_parts_are_those_of_the_cache(words: HookedGPT2) -> None:
    prompts = make("ioi", words, 4)
    frame = attribute(words, task=prompts).frame.set_index("component")
    neurons = attribute(words, task=prompts, what="neurons", top=64).frame.set_index("component")
    assert prompts.answers is not None
    with torch.no_grad():
        _, cache = words.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
        rows = torch.arange(4)
        for component, name, index in (
            ("a1.h0", "stack_head_results", 2),
            ("m0", "decompose_resid", 3),
            ("m1.n5", "stack_neuron_results", 32 + 5),
            ("embed", "decompose_resid", 0),
        ):
            stack = getattr(cache, name)()[index][None]
            attrs = cache.logit_attrs(stack, prompts.answers, prompts.distractors)[0]
            expected = float(attrs[rows, prompts.roles["END"]].mean())
            of = neurons if ".n" in component else frame
            assert of.at[component, "value"] == pytest.approx(expected, abs=1e-12)
    # Where every neuron is a row, nothing is left for the others.
    assert neurons.at["other neurons", "value"] == pytest.approx(0, abs=1e-12)


def test_recomputed_is_a_run_without_the_part(words: HookedGPT2) -> None:
    prompts = make("ioi", words, 3)
    frame = attribute(words, task=prompts).frame.set_index("component")
    assert prompts.answers is not None
    assert prompts.distractors is not None
    with torch.no_grad():
        logits, cache = words.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
        end = prompts.roles["END"]
        rows = torch.arange(3)
        stream = cache["resid_post", 1][rows, end]
        part = cache["mlp_out", 0][rows, end]
        without = words.unembed(words.ln_final(stream - part))
        before, after = (
            read.gather(1, torch.stack([prompts.answers, prompts.distractors], 1))
            for read in (logits[rows, end], without)
        )
        lost = (before[:, 0] - before[:, 1]) - (after[:, 0] - after[:, 1])
    assert frame.at["m0", "recomputed"] == pytest.approx(float(lost.mean()), abs=1e-12)
    difference = frame["value"] - frame["recomputed"]
    assert frame["error"].tolist() == pytest.approx(difference.tolist(), abs=1e-12)


def test_sources_sum_to_their_head(words: HookedGPT2) -> None:
    prompts = make("ioi", words, 4)
    whole = attribute(words, task=prompts).frame.set_index("component")["value"]
    split = attribute(words, task=prompts, positions="roles", top=2).frame
    apart = split.dropna(subset=["source"])
    assert apart["writer"].nunique() == 2
    strongest = whole[whole.index.str.contains("h")].abs().sort_values().index[-2:]
    assert set(apart["writer"]) == set(strongest)
    for head, rows in apart.groupby("writer"):
        assert rows["value"].sum() == pytest.approx(whole[head], abs=1e-12)
        assert rows["source"].iloc[-1] == "other"
        assert rows["component"].iloc[0] == f"{head}<v>@{rows['source'].iloc[0]}"


def test_sources_by_index(words: HookedGPT2) -> None:
    text = "When Mary and John"
    options: dict[str, Any] = {"prompt": text, "answer": " the", "positions": "indices"}
    frame = attribute(words, **options).frame.dropna(subset=["source"])
    n = len(words.to_tokens(text)[0])
    assert frame["source"].unique().tolist() == [str(i) for i in range(n)]
    with torch.no_grad():
        _, cache = words.run_with_cache(text)
        head = cache["pattern", 0][0, 1, -1, 2] * cache["v", 0][0, 2, 1] @ words.W_O[0, 1]
        zeros = torch.zeros_like(cache["resid_post", 1])
        zeros[0, -1] = head
        onto = words.W_U[:, words.to_single_token(" the")] - words.W_U.mean(1)
        expected = float(cache.apply_ln_to_stack(zeros[None])[0, 0, -1] @ onto)
    found = frame.set_index("component").at["a0.h1<v>@2", "value"]
    assert found == pytest.approx(expected, abs=1e-12)


def test_in_blocks_as_at_once(words: HookedGPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = make("ioi", words, 7)
    for kind in KINDS:
        whole = attribute(words, task=prompts, **kind).frame
        monkeypatch.setattr(direct, "MOST_FLOATS", 1)
        parts = attribute(words, task=prompts, **kind).frame
        monkeypatch.undo()
        assert parts["component"].tolist() == whole["component"].tolist()
        for column in ("value", "stderr", "ci_low", "recomputed", "error"):
            assert parts[column].tolist() == pytest.approx(whole[column].tolist(), abs=1e-10)


# --- known answers --------------------------------------------------------------------------------


def test_the_compiled_name_mover_carries_everything() -> None:
    model = build()
    frame = attribute(model, **IOI).frame.set_index("component")
    assert frame["total"].iloc[0] == pytest.approx(9.99989, abs=1e-4)
    assert frame.at["a2.h0", "value"] == pytest.approx(9.99989, abs=1e-4)
    assert frame.at["a2.h0", "share"] == pytest.approx(1, abs=1e-5)
    assert frame.at["a2.h0", "recomputed"] == pytest.approx(9.99989, abs=1e-4)
    assert frame["value"].drop("a2.h0").abs().max() < 1e-4
    split = attribute(model, **IOI, positions="indices", top=1).frame.set_index("component")
    assert split.at["a2.h0<v>@2", "value"] == pytest.approx(10, abs=1e-3)  # from IO


def test_compiled_induction_carries_the_second_copy() -> None:
    frame = attribute(build(), task="repeated").top(1).frame
    assert frame["component"].tolist() == ["a1.h0"]
    # Its token's logit is 10, and the mean over the 27 tokens 10 / 27.
    assert frame["value"].iloc[0] == pytest.approx(10 - 10 / 27, abs=1e-3)
    assert frame["unit"].iloc[0] == "logits above the mean token"


def test_mini_reads_the_indirect_object(mini: HookedGPT2) -> None:
    frame = attribute(mini, task="ioi", n=30, positions="roles", top=5).frame
    by_source = frame.groupby("source")["value"].sum()
    assert by_source["IO"] > 2
    assert by_source["IO"] > 5 * abs(by_source["S1"])
    assert (frame["ci_low"] < frame["value"]).all()


# --- what can be asked ----------------------------------------------------------------------------


def test_an_answer_without_a_distractor_is_above_the_mean(words: HookedGPT2) -> None:
    text = "When Mary and John"
    found = attribute(words, prompt=[text, text + " gave"], answer=" the")
    logits = [words(one).detach()[0, -1] for one in (text, text + " gave")]
    token = words.to_single_token(" the")
    expected = sum(float(row[token] - row.mean()) for row in logits) / 2
    assert found.unit == "logits above the mean token"
    assert found.frame["value"].sum() == pytest.approx(expected, abs=1e-9)


def test_a_file_is_read_block_by_block(words: HookedGPT2, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    rows = ["When Mary and John", "When John and Mary gave", "Mary and"]
    lines = [f"{text}, the, Mary" for text in rows]
    file.write_text("\n".join(["clean,answer,distractor", *lines]) + "\n")
    from_file = attribute(words, file=file)
    given = attribute(words, prompt=rows, answer=" the", distractor=" Mary")
    assert from_file.frame["value"].tolist() == pytest.approx(given.frame["value"].tolist())
    assert from_file.provenance.n_prompts == 3


def test_without_a_task_all_that_ask_for_tokens() -> None:
    frame = attribute(build(), n=3).frame
    assert {"repeated"} <= set(frame["task"])
    assert frame.groupby("task")["value"].sum().tolist() == pytest.approx(
        frame.groupby("task")["total"].first().tolist(), abs=1e-4
    )


def test_half_precision_sums_too() -> None:
    frame = attribute(word_model().to(torch.bfloat16), task="ioi", n=3, what="neurons").frame
    assert frame["value"].sum() == pytest.approx(frame["total"].iloc[0], abs=0.1)


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    first = attribute(words, task="ioi", n=3, positions="roles").to_json()
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]
    assert attribute(words, task="ioi", n=3, positions="roles").to_json() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "head"}, "what='head': choose heads, layers, neurons; did you mean"),
        ({"what": "layers", "positions": "roles"}, "what='layers' has no heads"),
        ({"positions": "role"}, "positions='role'"),
        ({"what": "neurons", "top": 0}, "top=0: take at least 1"),
        ({"what": "layers", "top": 3}, "top is of neurons"),
        ({"what": "neurons", "top": 65}, "at most all 64"),
        ({"task": "ioi", "answer": " the"}, "answer belongs to a prompt"),
        ({"prompt": "When", "answer": " Mary", "distractor": " Mary"}, "are both ' Mary'"),
        (
            {"prompt": ["When", "When Mary"], "answer": " the", "positions": "indices"},
            "5 to 6 tokens",
        ),
    ],
)
def test_what_cannot_be_asked(words: HookedGPT2, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        attribute(words, **options)


def test_prompts_that_cannot_be_read(words: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match="asks for no token"):
        attribute(words, prompt="")
    with pytest.raises(TokenError, match="reads at most 128"):
        attribute(words, prompt=" and" * 128, answer=" the")
    with pytest.raises(TokenError, match="one token is needed"):
        attribute(words, prompt="When", answer=" \N{OWL}")
    for text in ("\N{OWL}\N{OWL}", "\u05e9\u05dc\u05d5\u05dd"):
        frame = attribute(words, prompt=text, answer=" the").frame
        assert frame["value"].sum() == pytest.approx(frame["total"].iloc[0], abs=1e-9)


def test_a_model_without_a_start_token() -> None:
    frame = attribute(letter_model(), task="sorting", n=4).frame
    assert frame["value"].sum() == pytest.approx(frame["total"].iloc[0], abs=1e-4)


# --- figures and the command line -----------------------------------------------------------------


def labels(result: Result) -> tuple[list[str], list[str]]:
    axes = result.plot().axes[0]
    ticks = axes.get_xticklabels(), axes.get_yticklabels()
    return tuple([label.get_text() for label in side] for side in ticks)  # type: ignore[return-value]


def test_figures(words: HookedGPT2) -> None:
    across, down = labels(attribute(words, task="ioi", n=3))
    assert (across, down) == (["h0", "h1", "mlp"], ["0", "1"])
    across, down = labels(attribute(words, task="ioi", n=3, positions="roles", top=2))
    assert across[0] == "IO"
    assert len(down) == 2
    _, down = labels(attribute(words, task="ioi", n=3, what="layers"))
    assert down == ["embed", "pos", "a0", "m0", "a1", "m1", "bias"]
    both = attribute(words, what="layers", n=3)
    assert both.view == "curves"
    assert both.plot().axes[0].get_legend() is not None


def test_a_grid_tells_what_is_beside_it(words: HookedGPT2) -> None:
    figure = attribute(words, task="ioi", n=3).plot()
    below = figure.get_supxlabel()
    assert "beside the grid: " in below
    assert all(name in below for name in ("embed", "pos", "bias"))


def test_on_the_command_line() -> None:
    args = ["attribute", "--model", "compiled", "--prompt", IOI["prompt"], "--answer", "A"]
    done = CliRunner().invoke(app, [*args, "--distractor", "B"], prog_name="circuits")
    assert "prompt: 10.000 logits" in done.stdout
    line = next(line for line in done.stdout.splitlines() if "a2.h0" in line)
    assert line.split()[:2] == ["a2.h0", "+10.000"]
    assert "100.0%" in line
    table = CliRunner().invoke(app, [*args, "--json"], prog_name="circuits").stdout
    assert "--answer A" in json.loads(table)["provenance"]["command"]


def test_neurons_of_one_layer_are_those_of_all_layers_that_are_in_it() -> None:
    model = load("mini")
    asked = {"prompt": "The keys to the", "answer": " king", "what": "neurons"}
    every = attribute(model, top=8 * 1024, **asked).frame.set_index("component")["value"]
    some = attribute(model, layer=3, top=5, **asked).frame.set_index("component")["value"]
    mine = every[every.index.str.startswith("m3.n")]
    largest = mine.abs().nlargest(5).index
    chosen = some[some.index.str.contains(r"\.n")]
    assert {*chosen.index} == {*largest}
    assert chosen.to_numpy() == pytest.approx(mine[chosen.index].to_numpy(), abs=1e-5)
    assert some.sum() == pytest.approx(every.sum(), abs=1e-4)


@pytest.mark.parametrize("options", [{"layer": 8}, {"layer": 0, "what": "heads"}, {"top": 2000}])
def test_a_layer_is_of_neurons_and_exists(options: dict[str, Any]) -> None:
    asked = {"prompt": "The keys to the", "answer": " king", "what": "neurons", "layer": 0}
    with pytest.raises(CircuitsError, match="neurons|at most"):
        attribute(load("mini"), **asked | options)
