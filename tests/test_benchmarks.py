"""The benchmarks' machinery: who is believed, who is skipped, what a crash costs, what is shown.

The runs here are rehearsals on a tiny model; no test looks at how long anything takes.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_models import randomized
from torch.utils.flop_counter import FlopCounterMode

from circuits import ModelConfig, load, save
from circuits.circuit import graph
from experiments.benchmarks import __main__ as command
from experiments.benchmarks import checkpoints, limits, report
from experiments.benchmarks.driver import Timing, agree, chosen_items, environment, installed
from experiments.benchmarks.edges import SHARES, Edges
from experiments.benchmarks.items import ITEMS, Given, Item, Shape
from experiments.benchmarks.peers import PEERS, Declined, Peer, picogpt

CFG = ModelConfig(n_layers=2, n_heads=2, d_model=8, n_ctx=48, d_vocab=40)
SHAPE = Shape(layers=2, heads=2, width=8, hidden=32, context=48, vocabulary=40)
BY_NAME = {peer.name: peer for peer in PEERS}
COMPARED = [item for item in ITEMS if item.where == "worker"]
LIAR = '''
"""The NumPy model, but wrong in one task, unsteady in another, and deadly in a third."""

import os
import random

from experiments.benchmarks.peers.picogpt import *
from experiments.benchmarks.peers import picogpt


def forward(model, given):
    return 1.1 * picogpt.forward(model, given)


def logit_lens(model, given):
    return picogpt.logit_lens(model, given) + random.random()


def ablate_heads(model, given):
    os._exit(7)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, as a user's checkpoint."""
    return save(randomized(CFG, dtype=torch.float32), tmp_path_factory.mktemp("model") / "tiny")


def rehearse(folder: Path, peers: list[tuple[Peer, str]], items: list[Item]) -> dict[str, Any]:
    return command.measure([str(folder)], peers, items, replace(command.QUICK, threads=1))


def timings(results: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Item -> peer -> timing."""
    (model,) = results["models"]
    return {item["name"]: item["timings"] for item in model["items"]}


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Our two back ends, NumPy, a library that lies, and two that are not there."""
    own = tmp_path_factory.mktemp("peers")
    (own / "liar.py").write_text(LIAR, encoding="utf-8")
    nobody = ("import liar", "import liar")
    peers = [BY_NAME[name] for name in ("ours", "ours_packed", "ours_plain", "numpy")]
    peers.append(Peer("liar", "a liar", "liar", "liar", nobody))
    peers.append(Peer("absent", "Absent", "absent", "absent", nobody, "no-such-library", "1."))
    peers.append(Peer("broken", "Broken", "no_such_module", "broken", nobody))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(own))
        return rehearse(folder, [(peer, sys.executable) for peer in peers], list(ITEMS))


@pytest.mark.slow
def test_everybody_finds_the_same_numbers(results: dict[str, Any]) -> None:
    found = timings(results)
    assert list(found) == [item.name for item in ITEMS]
    for item in ITEMS:
        for name in ("ours", "ours_packed", "ours_plain"):
            timing = found[item.name][name]
            same = {"process": ("ours_packed", "ours_plain"), "loading": ("ours_packed",)}
            if name in same.get(item.where, ()):
                assert timing["median_seconds"] is None
                continue
            assert timing["word"] == ""
            assert timing["median_seconds"] > 0
    with_numpy = {name for name, by_peer in found.items() if by_peer["numpy"]["median_seconds"]}
    assert {"forward", "forward_long", "last_logits", "ablate_heads", "generate"} < with_numpy
    assert {"patch_residual", "patch_heads", "logit_lens", "first_logits"} < with_numpy
    assert all(found[name]["ours"]["is_compared"] for name in with_numpy)
    assert not found["attribution"]["ours"]["is_compared"]


@pytest.mark.slow
def test_wrong_numbers_are_refused(results: dict[str, Any]) -> None:
    found = timings(results)
    assert found["forward"]["liar"]["word"] == "refused: its numbers are not those of the others"
    assert "differ from run to run" in found["logit_lens"]["liar"]["word"]
    for name in ("forward", "logit_lens"):
        assert found[name]["liar"]["median_seconds"] is None
        assert found[name]["liar"]["peak_bytes"] is None
    assert found["last_logits"]["liar"]["median_seconds"] > 0
    assert "refused" in report.times(results, results["models"][0])


@pytest.mark.slow
def test_a_crash_costs_one_task(results: dict[str, Any]) -> None:
    found = timings(results)
    assert found["ablate_heads"]["liar"]["word"] == "failed: no message (status 7)"
    assert found["patch_heads"]["liar"]["median_seconds"] > 0
    assert "a liar: failed: no message (status 7)." in report.page(results)


@pytest.mark.slow
def test_a_peer_that_is_missing_is_skipped_with_a_word(results: dict[str, Any]) -> None:
    assert results["libraries"]["absent"]["skipped"] == "not installed"
    assert "does not start: ModuleNotFoundError" in results["libraries"]["broken"]["skipped"]
    assert {"absent", "broken"}.isdisjoint(timings(results)["forward"])
    assert "Absent (not installed)" in report.about(results)


@pytest.mark.slow
def test_results_become_tables_a_figure_and_a_part_of_the_readme(
    results: dict[str, Any], tmp_path: Path
) -> None:
    report.write(results, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "tables.md", "times.svg"}
    table = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "| zero-ablate each of 4 heads, 8×32 |" in table
    command.main(["--report", "--out", str(tmp_path)])
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == table

    page = tmp_path / "README.md"
    page.write_text(f"# A\n{report.BEGIN}\nobsolete\n{report.END}\nend\n", encoding="utf-8")
    for _ in range(2):
        report.update_readme([results], page)
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# A\n{report.BEGIN}\n`tiny`:\n\n|")
        assert text.endswith(f"{report.END}\nend\n")
        assert "obsolete" not in text
    page.write_text("# A\n", encoding="utf-8")
    with pytest.raises(ValueError, match="one pair of the markers"):
        report.update_readme([results], page)


@pytest.mark.slow
def test_the_readme_shows_each_machine(results: dict[str, Any], tmp_path: Path) -> None:
    earlier = copy.deepcopy(results)
    earlier["date"], earlier["speed"]["flops"] = "2000-01-01", 5e9
    del earlier["models"][0]["items"][0]
    for each in (results, earlier):
        report.write(each, tmp_path / each["date"])
    newest, oldest = report.kept(tmp_path)
    assert (newest["date"], oldest["date"]) == (results["date"], "2000-01-01")
    shown = report.section([newest, oldest])
    assert "5 GFLOP/s: ours | best peer | limit | lead |" in shown
    first, second = shown.split("\n")[4:6]
    assert first.endswith("| – | – | – | – |")
    assert f"[all tables]({report.FOLDER}/2000-01-01/tables.md)" in shown
    assert second.count("NumPy picoGPT") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hugging_face", "tl3", "tl4", "nnsight"])
def test_a_peer_that_is_installed_agrees(name: str, folder: Path) -> None:
    if (word := installed(BY_NAME[name], sys.executable)) is not None:
        pytest.skip(f"{BY_NAME[name].title}: {word}")
    peers = [(BY_NAME[peer], sys.executable) for peer in ("ours", "numpy", name)]
    items = chosen_items([item.name for item in COMPARED] + ["first_logits"])
    found = timings(rehearse(folder, peers, items))
    done = [item for item, by_peer in found.items() if by_peer[name]["median_seconds"]]
    assert len(done) >= (5 if name == "hugging_face" else 8)
    for by_peer in found.values():
        assert not by_peer[name]["word"].startswith(("failed", "refused"))


def timing(*numbers: float, exact: bool = False) -> Timing:
    return Timing([1.0], [1], [list(numbers)], exact)


def words(**by_name: Timing) -> dict[str, str]:
    """Who is refused? Two names that share their first letter are one family."""
    agree(by_name, {name: name[0] for name in by_name})
    return {name: timing.word.split(":")[0] for name, timing in by_name.items()}


def test_the_most_families_are_believed() -> None:
    good, near, bad = (1.0, 2.0, 3.0), (1.0, 2.001, 3.0), (1.0, 2.1, 3.0)
    believed = words(a=timing(*good), b=timing(*near), c=timing(*bad))
    assert believed == {"a": "", "b": "", "c": "refused"}
    assert set(words(a=timing(*good), b=timing(*bad)).values()) == {"refused"}
    family = words(a=timing(*good), a2=timing(*good), b=timing(*bad), c=timing(*bad))
    assert family == {"a": "refused", "a2": "refused", "b": "", "c": ""}
    own = words(a=timing(*good), a2=timing(*bad), b=timing(*good))
    assert own == {"a": "", "a2": "refused", "b": ""}
    assert words(a=timing(*good), b=timing(*good), c=timing(1.0, float("nan"), 3.0))["c"]
    assert words(a=timing(*good), b=timing(*good), c=timing(1.0, 2.0))["c"]


def test_whole_numbers_agree_exactly_or_not() -> None:
    a, b = timing(1, 900, exact=True), timing(1, 901, exact=True)
    assert set(words(a=a, b=b).values()) == {"refused"}


def test_numbers_of_one_family_are_compared_with_nothing() -> None:
    alone = {"a": timing(1.0, 2.0), "a2": timing(1.0, 2.0), "b": Timing(word="is not made for it")}
    agree(alone, {"a": "a", "a2": "a", "b": "b"})
    assert [t.word for t in alone.values()] == ["", "", "is not made for it"]
    assert not alone["a"].is_compared
    assert alone["a"].median == 1.0
    assert alone["b"].median is alone["b"].peak is None


def test_prompts_fit_into_the_context_and_travel_as_json() -> None:
    for item in ITEMS:
        given = item.given(SHAPE)
        again = Given.from_json(given.to_json())
        assert given.tokens.shape[1] + given.new <= SHAPE.context
        assert given.tokens.shape == (item.batch, min(item.length, given.tokens.shape[1]))
        assert given.tokens.max() < SHAPE.vocabulary
        assert (given.tokens != given.corrupted).all()
        assert (given.answers != given.distractors).all()
        assert all(np.array_equal(getattr(again, n), v) for n, v in vars(given).items())
    assert chosen_items(["generate"])[0].given(SHAPE).new > 0
    small = Shape.of(
        {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_inner": None} | LONG
    )
    assert small.parameters == 124_439_808
    assert ITEMS[1].label(small) == "forward 1×1024, all logits"


LONG = {"n_positions": 1024, "vocab_size": 50257}


def test_the_limit_counts_the_products_that_are_done() -> None:
    model, tokens = randomized(CFG), torch.zeros(3, 7, dtype=torch.long)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.run_with_cache(tokens, names_filter=lambda name: name.endswith("pattern"))
    count = limits.Count(SHAPE, 3, 7)
    masked = sum(4 * SHAPE.width * (7 - 1 - i) for i in range(7))  # done, and not needed
    assert counter.get_total_flops() == count.forward() + 3 * SHAPE.layers * masked


@pytest.mark.parametrize("name", ["ablate_heads", "patch_heads", "patch_residual"])
def test_the_limit_of_a_sweep_is_below_a_loop(name: str) -> None:
    shape = Shape(layers=12, heads=12, width=768, hidden=3072, context=1024, vocabulary=50257)
    count = limits.Count(shape, 2, 16)
    cells = shape.layers * (16 if name == "patch_residual" else shape.heads)
    assert count.last_logits() < getattr(count, name)() < cells * count.forward() / 3


@pytest.mark.parametrize("name", ["edges_eap", "edges_eap_ig", "circuit_alone", "circuit_curve"])
def test_the_limit_of_circuits_is_some_passes(name: str) -> None:
    shape = Shape(layers=12, heads=12, width=768, hidden=3072, context=1024, vocabulary=50257)
    count = limits.Count(shape, 8, 32)
    passes = {"edges_eap": 3, "edges_eap_ig": 11, "circuit_alone": 2, "circuit_curve": 11}[name]
    assert count.body() < getattr(count, name)() / 8 < 1.5 * passes * count.body()
    every = Edges(12, 12).exist
    products = 2 * shape.width * int(every[:-41].sum()) * 32  # all layers but the last
    assert count.circuit(every & False) == 0
    assert products < count.circuit(every) - count.body() < 1.2 * products


def test_edges_are_those_of_the_graph() -> None:
    edges, whole = Edges(CFG.n_layers, CFG.n_heads), graph(CFG)
    assert np.array_equal(edges.exist, whole.exists)
    assert tuple(edges.writer_of) == whole.writer_of[:-1]
    assert len(Edges(12, 12)) == 32_491
    masks = [edges.largest(share) for share in SHARES]
    assert [int(mask.sum()) for mask in masks] == [edges.count(share) for share in SHARES]
    assert np.array_equal(masks[-1], edges.exist)
    assert all((large | small == large).all() for small, large in pairwise(masks))


def test_limits_have_the_unit_of_seconds() -> None:
    for item in ITEMS:
        least = limits.seconds(item, SHAPE, 1e9, 1e9)
        assert (least is None) == (item.where != "worker")
        if least is not None and item.name != "generate":
            assert least == pytest.approx(2 * limits.seconds(item, SHAPE, 2e9, 1e9))


def test_numpy_declines_sweeps_of_large_models(folder: Path) -> None:
    model, given = picogpt.load(folder), Given.draw(SHAPE, 1, 4)
    assert picogpt.ablate_heads(model, given).shape == (2, 2)
    model.n_embd = 1024
    with pytest.raises(Declined, match="NumPy"):
        picogpt.ablate_heads(model, given)


def test_models_are_written_without_a_vocabulary(tmp_path: Path) -> None:
    folder = checkpoints.write("sort-abc", tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    tokens = torch.tensor([[0, 1, 2]])
    assert torch.equal(load(folder)(tokens), load("sort-abc")(tokens))
    assert checkpoints.title("mini") == "the bundled `mini`"


def test_peers_are_found(tmp_path: Path) -> None:
    python = tmp_path / "nnsight" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    found = {
        peer.name: path
        for peer, path in command.find_peers(tmp_path, ["tl4=/somewhere/python"], ["tl3"])
    }
    assert found["ours"] == found["hugging_face"] == sys.executable
    assert found["nnsight"] == str(python)
    assert found["tl4"] == "/somewhere/python"
    assert "tl3" not in found
    assert "does not exist" in str(installed(BY_NAME["tl4"], "/somewhere/python"))
    assert installed(BY_NAME["numpy"], sys.executable) is None
    if find_spec("transformer_lens") is not None:
        assert None in (installed(BY_NAME[name], sys.executable) for name in ("tl3", "tl4"))
    for wrong in ({"given": ["tl9=python"], "without": []}, {"given": [], "without": ["tl9"]}):
        with pytest.raises(SystemExit, match="no peer 'tl9'"):
            command.find_peers(tmp_path, **wrong)
    with pytest.raises(SystemExit, match="no item 'nothing'"):
        chosen_items(["nothing"])


def test_peers_are_installed_each_in_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda line, check: commands.append(line))
    command.main(["--install", "--peers", str(tmp_path)])
    made = [Path(line[-1]).name for line in commands if "venv" in line]
    assert made == ["tl4", "tl3", "nnsight"]
    pips = [line for line in commands if "pip" in line]
    assert all(f"torch=={torch.__version__.split('+')[0]}" in line for line in pips)
    assert any("transformers" in part for part in pips[1])


def test_workers_have_their_threads_and_no_network() -> None:
    own = environment(3)
    assert own["OMP_NUM_THREADS"] == own["OPENBLAS_NUM_THREADS"] == "3"
    assert own["HF_HUB_OFFLINE"] == "1"
