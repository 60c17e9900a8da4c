"""Neurons: their keys and values against formulas, and their activations against the whole text."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ground_truth import SMALL
from typer.testing import CliRunner
from word_model import word_model

from circuits.analyses.neurons import neurons
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.components import parse
from circuits.errors import CircuitsError
from circuits.mlp_neurons import CLASSES, classes_of, on_text
from circuits.text_windows import TextFile

TEXT = "x and Mary gave 17 the y to John, Tom!\n" * 30 + "the end é"
NEURON = "m1.n5"


@pytest.fixture(scope="module")
def words() -> HookedGPT2:
    return word_model(n_ctx=16).double()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def everywhere(
    model: HookedGPT2, path: Path, layer: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each window's tokens [p] and activations [p-1 m], by plain runs."""
    found = []
    for rows, _ in TextFile(model, path):
        for row in rows:
            _, cache = model.run_with_cache(row[None])
            found.append((row, cache["post", layer][0, 1:].detach()))
    return found


def test_values_are_what_the_neuron_adds_to_the_logits(words: HookedGPT2) -> None:
    frame = neurons(words, NEURON, top=words.cfg.d_vocab).frame
    text = "x and Mary gave"
    _, cache = words.run_with_cache(text)
    stack, labels = cache.stack_neuron_results(return_labels=True)
    row = labels.index("L1N5")
    tokens = torch.arange(words.cfg.d_vocab)
    each = torch.stack([cache.logit_attrs(stack[row : row + 1], t)[0, 0, -1] for t in tokens])
    factor = cache["post", 1][0, -1, 5] / cache["ln_final.hook_scale"][0, -1, 0]
    expected = (each - each.mean()) / factor
    for side in ("promoted", "suppressed"):
        rows = frame[frame["side"] == side]
        order = expected.argsort(descending=side == "promoted", stable=True)
        np.testing.assert_allclose(rows["value"], expected[order].detach(), atol=1e-9)
        assert rows["token"].iloc[0] == words.to_single_str_token(int(order[0]))


@pytest.mark.parametrize("name", ["m0.n3", NEURON])
def test_triggers_match_the_key(words: HookedGPT2, name: str) -> None:
    frame = neurons(words, name, show="triggers", top=7).frame
    part = parse(name)
    block, first = words.blocks[part.layer or 0], words.blocks[0]
    with torch.no_grad():
        reads = words.W_E
        if part.layer:
            reads = reads + first.mlp(first.ln2(words.W_E[None]))[0]
        pre = (block.ln2(reads[None])[0] @ block.mlp.W_in + block.mlp.b_in)[:, part.neuron]
        plain = (block.ln2(words.W_E[None])[0] @ block.mlp.W_in + block.mlp.b_in)[:, part.neuron]
    best = pre.topk(7)
    np.testing.assert_allclose(frame["value"], best.values, atol=1e-9)
    np.testing.assert_allclose(frame["alone"], plain[best.indices], atol=1e-9)
    assert frame["token"].tolist() == [words.to_single_str_token(int(i)) for i in best.indices]


def test_contexts_are_the_most_active_places(words: HookedGPT2, path: Path) -> None:
    frame = neurons(words, NEURON, file=path, top=6).frame
    windows = everywhere(words, path, 1)
    best = [(float(acts[:, 5].max()), number) for number, (_, acts) in enumerate(windows)]
    best = sorted(best, key=lambda pair: -pair[0])[:6]
    top = frame[frame["group"] == "top"]
    np.testing.assert_allclose(top["value"], [value for value, _ in best], rtol=1e-6)
    for row in frame.to_dict("records"):
        tokens, acts = windows[row["window"]]
        at = row["position"]
        assert row["value"] == pytest.approx(float(acts[at - 1, 5]), rel=1e-6)
        assert row["token"] == words.to_single_str_token(int(tokens[at]))
        before = words.to_string(tokens[max(1, at - 12) : at])
        assert row["before"] == before
        if at + 1 < len(tokens):
            assert row["next_token"] == words.to_single_str_token(int(tokens[at + 1]))
        else:
            assert row["next_token"] == ""
            assert pd.isna(row["effect_next"])


def test_effects_are_direct_logit_attributions(words: HookedGPT2, path: Path) -> None:
    frame = neurons(words, NEURON, file=path, top=3).frame
    windows = everywhere(words, path, 1)
    row = next(row for row in frame.to_dict("records") if row["next_token"])
    tokens, at = windows[row["window"]][0], row["position"]
    _, cache = words.run_with_cache(tokens[None])
    stack, labels = cache.stack_neuron_results(return_labels=True)
    part = stack[[labels.index("L1N5")]]
    ids = range(words.cfg.d_vocab)
    each = torch.stack([cache.logit_attrs(part, torch.tensor(t))[0, 0, at] for t in ids]).detach()
    each -= each.mean()
    assert row["effect_next"] == pytest.approx(float(each[tokens[at + 1]]), rel=1e-6)
    value = int(words.to_single_token(row["value_token"]))
    assert row["effect_value"] == pytest.approx(float(each[value]), rel=1e-6)
    assert abs(row["effect_value"]) == pytest.approx(float(each.abs().max()), rel=0.9)


def test_quantiles_and_control_come_from_places_drawn_evenly(words: HookedGPT2, path: Path) -> None:
    """The text has fewer tokens than are sampled, so the sample is all of it."""
    frame = neurons(words, NEURON, file=path, top=5).frame
    levels = np.sort(torch.cat([acts[:, 5] for _, acts in everywhere(words, path, 1)]).numpy())
    assert len(levels) < on_text.SAMPLED
    for row in frame.to_dict("records"):
        below = np.searchsorted(levels, row["value"] - 1e-9) / len(levels)
        assert row["share_below"] == pytest.approx(below, abs=0.05)
    quantiles = frame[frame["group"] == "quantile"]
    np.testing.assert_allclose(
        quantiles["value"], [levels[int(q * len(levels))] for q in (0.99, 0.9, 0.5, 0.1)], atol=1e-6
    )
    random = frame[frame["group"] == "random"]
    assert len(random) == len(random.drop_duplicates(["window", "position"])) == 5
    other = neurons(words, NEURON, file=path, top=5, seed=1).frame
    assert other[other["group"] == "random"]["window"].tolist() != random["window"].tolist()


def test_classes_are_means_over_windows(words: HookedGPT2, path: Path) -> None:
    kinds = classes_of(words)
    windows = everywhere(words, path, 1)
    frame = neurons(words, NEURON, file=path, show="classes").frame.set_index("class")
    layers = neurons(words, file=path, show="classes").frame.set_index(["layer", "class"])
    assert {"word", "inside", "digits", "marks", "space", "part", "all"} == {*frame.index}
    for name in frame.index:
        means, every, n_tokens = [], [], 0
        for tokens, acts in windows:
            own = kinds[tokens[1:]] == (CLASSES.index(name) if name != "all" else -1)
            own |= torch.tensor(name == "all")
            n_tokens += int(own.sum())
            if own.any():
                means.append(float(acts[own, 5].mean()))
                every.append(float(acts[own].mean()))
        row = frame.loc[name]
        assert row["value"] == pytest.approx(np.mean(means), abs=1e-6)
        assert (row["n"], row["tokens"]) == (len(means), n_tokens)
        assert layers.loc[(1, name), "value"] == pytest.approx(np.mean(every), abs=1e-6)
    acts = torch.cat([acts[:, 5] for _, acts in windows])
    assert frame.loc["all", "active"] == pytest.approx(float((acts > 0).double().mean()))


def test_the_overview_is_of_all_neurons(words: HookedGPT2, path: Path) -> None:
    n = 2 * words.cfg.d_mlp
    frame = neurons(words, file=path, top=n).frame
    assert frame["peaked"].is_monotonic_decreasing
    assert frame["rank"].tolist() == list(range(1, n + 1))
    frame = frame.set_index("component").sort_index()
    for layer in (0, 1):
        windows = everywhere(words, path, layer)
        acts = torch.cat([one for _, one in windows]).numpy()
        tokens = torch.cat([row[1:] for row, _ in windows])
        shares = np.array([(one > 0).double().mean(0).numpy() for _, one in windows])
        deviations = acts - acts.mean(0)
        for i in range(words.cfg.d_mlp):
            row = frame.loc[f"m{layer}.n{i}"]
            assert row["value"] == pytest.approx(shares[:, i].mean())
            assert row["n"] == len(windows)
            assert row["mean"] == pytest.approx(acts[:, i].mean(), abs=1e-6)
            assert row["std"] == pytest.approx(acts[:, i].std(), rel=1e-4)
            assert row["maximum"] == pytest.approx(acts[:, i].max(), rel=1e-6)
            moment = (deviations[:, i] ** 4).mean() / (deviations[:, i] ** 2).mean() ** 2 - 3
            assert row["peaked"] == pytest.approx(moment, rel=1e-2, abs=1e-2)
            assert row["token"] in {
                words.to_single_str_token(int(tokens[k]))
                for k in np.flatnonzero(acts[:, i] > acts[:, i].max() - 1e-6)
            }
            own = (classes_of(words)[tokens] == CLASSES.index(row["class"])).numpy()
            difference = acts[own, i].mean() - acts[~own, i].mean()
            assert row["contrast"] == pytest.approx(difference / acts[:, i].std(), rel=1e-3)


def test_one_layer_and_other_orders(words: HookedGPT2, path: Path) -> None:
    one = neurons(words, file=path, layer=1, order="contrast", top=4).frame
    assert set(one["layer"]) == {1}
    assert one["contrast"].is_monotonic_decreasing
    active = neurons(words, file=path, order="active", top=4).frame
    assert active["value"].is_monotonic_decreasing


def test_mini_has_a_neuron_for_times_of_day(mini: HookedGPT2) -> None:
    frame = neurons(mini, "m5.n290", top=4).frame
    promoted = frame.loc[frame["side"] == "promoted", "token"].tolist()
    assert promoted == [" evening", " while", " minute", " night"]
    assert frame["value"].abs().min() > 0.5


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    model = word_model(n_ctx=16)
    file = tmp_path / "long.txt"

    def peak(n: int) -> int:
        file.write_text("Mary gave the y " * n)
        tracemalloc.start()
        neurons(model, NEURON, file=file)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    small = peak(6_000)
    assert peak(36_000) < 1.5 * small


def test_the_model_is_left_as_it_was(words: HookedGPT2, path: Path) -> None:
    before = checksum(words)
    asked: list[dict[str, Any]] = [
        {"neuron": NEURON},
        {"neuron": NEURON, "show": "triggers"},
        {"neuron": NEURON, "file": path, "n": 3},
        {"neuron": NEURON, "file": path, "show": "classes"},
        {"file": path},
    ]
    for options in asked:
        result = neurons(words, **options)
        assert neurons(words, **options).to_json() == result.to_json()
        assert len(result.plot().axes) >= 1
        assert {*result.frame.columns} <= {*result.meanings, "stderr", "ci_low", "ci_high"}
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "m9.n1"}, "no layer 9: tiny has layers 0 to 1"),
        ({"neuron": "m1.n99"}, "no neuron 99: tiny has neurons 0 to 31 in each layer"),
        ({"neuron": "a1.h0"}, "a1.h0 is no neuron; name one such as m5.n12"),
        ({"neuron": "m1"}, "m1 is no neuron; name one such as m1.n0"),
        ({"neuron": "m1.n2@END"}, "is no neuron"),
        ({"neuron": "neuron 5"}, "'neuron 5' names no component"),
        ({"neuron": NEURON, "layer": 1}, "m1.n5 says its layer; leave out layer=1"),
        ({"neuron": NEURON, "show": "contexts"}, "contexts needs a text.*--file.*need none"),
        ({"neuron": NEURON, "show": "overview"}, "show='overview': choose contexts, values"),
        ({"neuron": NEURON, "show": "valus"}, "did you mean 'values'"),
        ({"neuron": NEURON, "n": 3}, "values are read from the weights; leave out n"),
        ({"neuron": NEURON, "show": "values", "file": "text.txt"}, "leave out file"),
        ({"neuron": NEURON, "top": 0}, "top=0: list 1 to 278"),
        ({"neuron": NEURON, "top": 10**6}, "top=1000000: list 1 to 278"),
        ({"top": 0, "file": "text.txt"}, "top=0: list 1 to any number of rows"),
        ({}, "overview needs a text on which neurons can be watched"),
        ({"show": "values"}, "show='values': choose overview, classes without a neuron"),
        ({"layer": 7, "file": "text.txt"}, "no layer 7"),
        ({"order": "peeked", "file": "text.txt"}, "did you mean 'peaked'"),
        ({"file": "none.txt"}, "none.txt cannot be read"),
        ({"file": "text.txt", "context": 99}, "context=99: a window of tiny has 3 to 16"),
        ({"file": "text.txt", "n": 0}, "n=0 windows"),
        ({"file": "empty.txt"}, "empty.txt has no text"),
    ],
)
def test_what_cannot_be_asked(
    words: HookedGPT2,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    Path("empty.txt").write_text("")
    with pytest.raises(CircuitsError, match=message):
        neurons(words, **options)


def test_a_neuron_that_does_nothing() -> None:
    compiled = build(n_layers=3, **SMALL)
    with pytest.raises(CircuitsError, match="m0.n0 writes nothing"):
        neurons(compiled, "m0.n0")
    with pytest.raises(CircuitsError, match="m0.n0 reads nothing"):
        neurons(compiled, "m0.n0", show="triggers")


@pytest.mark.parametrize(
    ("words_", "shown"),
    [
        (["m5.n290", "--top", "3"], ["promoted", "·evening", "suppressed"]),
        (["m5.n290", "--show", "triggers"], ["embedding alone"]),
        (["m5.n290", "--file", "text.txt"], ["top contexts", "random contexts", "·evening:"]),
        pytest.param(
            ["m5.n290", "--file", "text.txt", "--show", "classes"],
            ["windows", "digits"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--file", "text.txt", "--layer", "5"],
            ["stands out on", "m5.n"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--file", "text.txt", "--show", "classes"], ["layer", "inside"], marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.slow
def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words_: list[str], shown: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("One evening, in 1850, it rained for an hour. " * 20)
    done = CliRunner().invoke(app, ["neurons", *words_])
    assert done.exit_code == 0, done.output
    for word in shown:
        assert word in done.output


@pytest.mark.slow
def test_as_json(path: Path) -> None:
    words_ = ["neurons", "m1.n5", "--file", str(path), "-n", "2", "--json", "--quiet"]
    done = CliRunner().invoke(app, words_)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["provenance"]["command"] == (
        f"circuits neurons m1.n5 --file {path} -n 2 --model mini"
    )
    assert {row["group"] for row in found["rows"]} == {"top", "quantile", "random"}
