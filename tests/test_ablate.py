"""Ablation finds the compiled model's circuits, and equals a plain run with a hook."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ground_truth
import pytest
import torch
from torch import Tensor
from word_model import word_model

from circuits.analyses.ablate import ablate
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.checkpoints.compiled import build
from circuits.components import Component, parse
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import Example, Prompts, assemble, from_texts, make
from circuits.result import Result

LN_V = math.log(27)
IOI = {"prompt": "aAbBcdeBfg.", "answer": "A", "distractor": "B"}
TEXTS = ["When Mary gave", "Mary and John", "to the garden and to the", "and"]


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


def effects(result: Result, column: str = "value") -> dict[str, Any]:
    return dict(zip(result.frame["component"], result.frame[column], strict=True))


def test_induction_needs_its_two_heads_and_no_other(compiled: HookedGPT2, copies: Prompts) -> None:
    result = ablate(compiled, all_heads=True, task=copies)
    assert result.frame["clean"].tolist() == pytest.approx([0.0012] * 12, abs=5e-5)
    ablated = effects(result, "ablated")
    circuit = [ablated.pop("a0.h0"), ablated.pop("a1.h0")]
    assert circuit == pytest.approx([LN_V, LN_V], abs=1e-4)
    assert list(ablated.values()) == pytest.approx([0.0012] * 10, abs=1e-4)
    assert result.unit == "nats per token"
    assert set(effects(result, "rank").values()) >= {1, 2}
    assert {effects(result, "rank")[name] for name in ("a0.h0", "a1.h0")} == {1, 2}


def test_small_ioi_is_the_known_circuit(compiled: HookedGPT2) -> None:
    result = ablate(compiled, all_heads=True, **IOI)
    expected = dict.fromkeys(effects(result), 10.0)
    expected |= {"a0.h1": -10 / 3, "a1.h1": -10 / 3, "a2.h0": 0.0}
    assert effects(result, "ablated") == pytest.approx(expected, abs=1e-3)
    assert effects(result, "clean")["a2.h0"] == pytest.approx(10, abs=1e-3)


def test_one_head_has_its_place_among_all(compiled: HookedGPT2) -> None:
    every = ablate(compiled, all_heads=True, **IOI)
    one = ablate(compiled, layer=2, head=0, rank=True, **IOI).frame.iloc[0]
    assert (one["component"], one["layer"], one["head"]) == ("a2.h0", 2, 0)
    assert (one["rank"], one["ranked"]) == (effects(every, "rank")["a2.h0"], 12) == (3, 12)
    assert one["value"] == pytest.approx(effects(every)["a2.h0"], abs=1e-4)


def test_the_prompts_predictions_that_change_are_listed(compiled: HookedGPT2) -> None:
    row = ablate(compiled, layer=2, head=0, **IOI).frame.iloc[0]
    assert (row["token_1"], row["clean_1"]) == ("A", pytest.approx(0.9988, abs=1e-4))
    assert row["ablated_1"] == pytest.approx(1 / 27, abs=1e-5)
    clean, uniform = compiled(IOI["prompt"])[0, -1].detach().log_softmax(-1), -LN_V
    assert row["kl"] == pytest.approx(float((clean.exp() * (clean - uniform)).sum()), abs=1e-4)


def test_several_parts_are_ablated_together(compiled: HookedGPT2) -> None:
    # Without duplicate-token head or S-inhibition the name mover reads all names alike; without
    # the name mover as well there is nothing to read them.
    both = ablate(compiled, component=["a0.h1", "a2.h0"], **IOI).frame.iloc[0]
    assert both["component"] == "a0.h1+a2.h0"
    assert both["ablated"] == pytest.approx(0, abs=1e-3)
    assert both[["layer", "head", "rank"]].isna().all()


def slow_twin(
    model: HookedGPT2, prompts: Prompts, names: list[str], write: Callable[..., Any]
) -> Tensor:
    """The metric [b] of whole runs, full logits, one prompt after another, with plain hooks."""
    scores = []
    for row in range(len(prompts)):
        tokens = prompts.tokens[row][prompts.mask[row]][None]
        one = from_texts(model, prompts.texts[row])
        hooks = [(parse(name).site, write(parse(name), row)) for name in names]
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        scores.append(get_metric("loss")(logits, one)[0])
    return torch.stack(scores)


def zeroing(part: Component, row: int) -> Callable[[Tensor, Any], None]:
    def hook(value: Tensor, hook: Any) -> None:
        where: Any = slice(None) if part.position is None else part.position
        if part.head is None:
            value[:, where] = 0
        else:
            value[:, where, part.head] = 0

    return hook


@pytest.mark.parametrize(
    "names",
    [
        ["a0.h1"],
        ["a1.h0"],
        ["m0"],
        ["a1"],
        ["embed"],
        ["pos"],
        ["resid_mid.1"],
        ["a0.h1<k>"],
        ["a1.h1@0"],
        ["m1@1"],
        ["a0.h0", "a0.h1", "m1"],
        ["embed", "a1.h0"],
    ],
    ids="+".join,
)
def test_ablation_equals_whole_runs_with_a_hook(words: HookedGPT2, names: list[str]) -> None:
    prompts = from_texts(words, TEXTS)
    with torch.no_grad():
        expected = slow_twin(words, prompts, names, zeroing)
        clean = slow_twin(words, prompts, [], zeroing)
    row = ablate(words, component=names, prompt=TEXTS).frame.iloc[0]
    assert row["ablated"] == pytest.approx(float(expected.mean()), abs=1e-9)
    assert row["value"] == pytest.approx(float((expected - clean).mean()), abs=1e-9)
    assert row["stderr"] == pytest.approx(float((expected - clean).std() / 2), abs=1e-9)
    assert row["n"] == 4


def test_mean_ablation_writes_the_mean_over_the_reference(words: HookedGPT2) -> None:
    prompts = from_texts(words, TEXTS)
    zs = [words.run_with_cache(text)[1]["z", 1][0, :, 0] for text in TEXTS]
    mean = torch.cat(zs).mean(0)

    def writing(part: Component, row: int) -> Callable[[Tensor, Any], None]:
        def hook(value: Tensor, hook: Any) -> None:
            value[:, :, 0] = mean

        return hook

    with torch.no_grad():
        expected = slow_twin(words, prompts, ["a1.h0"], writing)
    row = ablate(words, layer=1, head=0, prompt=TEXTS, method="mean").frame.iloc[0]
    assert row["ablated"] == pytest.approx(float(expected.mean()), abs=1e-9)
    n_tokens = int(prompts.mask.sum())
    assert row["reference"] == f"the mean over the {n_tokens} tokens of these 4 prompts"


def test_resampling_takes_the_same_row_of_other_prompts(words: HookedGPT2) -> None:
    prompts, others = make("repeated", words, 3, 5), make("repeated", words, 3, 6)
    z = words.run_with_cache(others.tokens)[1]["z", 0][:, :, 1]

    def hook(value: Tensor, hook: Any) -> None:
        value[:, :, 1] = z

    with torch.no_grad():
        logits = words.run_with_hooks(prompts.tokens, fwd_hooks=[("blocks.0.attn.hook_z", hook)])
    expected = get_metric("loss")(logits, prompts).mean()
    asked = {"layer": 0, "head": 1, "method": "resample", "seed": 5}
    row = ablate(words, task="repeated", n=3, **asked).frame.iloc[0]
    assert row["ablated"] == pytest.approx(float(expected), abs=1e-9)
    assert row["reference"] == "3 other repeated prompts (seed 6)"


def test_own_prompts_are_resampled_among_each_other(words: HookedGPT2) -> None:
    texts = ["When Mary gave", "When John gave"]
    row = ablate(words, layer=0, head=0, prompt=texts, method="resample").frame.iloc[0]
    assert row["reference"] == "another of these 2 prompts (seed 0)"
    swapped = ablate(words, layer=0, head=0, prompt=texts[::-1], method="resample").frame.iloc[0]
    assert row["value"] == pytest.approx(swapped["value"], abs=1e-9)


def test_metrics_that_compare_with_the_clean_run(words: HookedGPT2) -> None:
    row = ablate(words, component="m0", prompt=TEXTS, metric="kl").frame.iloc[0]
    assert row["clean"] == 0
    assert row["ablated"] > 0


def test_little_memory_gives_the_same(words: HookedGPT2) -> None:
    at_once = ablate(words, all_heads=True, prompt=TEXTS)
    piecemeal = ablate(words, all_heads=True, prompt=TEXTS, memory="200K")
    assert piecemeal.frame["value"].tolist() == pytest.approx(at_once.frame["value"].tolist())


def test_without_a_task_all_that_suit_are_asked(words: HookedGPT2) -> None:
    result = ablate(words, layer=0, head=0, n=2)
    assert result.frame["task"].tolist() == ["repeated", "ioi"]
    assert result.frame["metric"].tolist() == ["loss", "logit_diff"]
    assert result.unit == "nats per token (repeated), logits (ioi)"
    assert result.provenance.task == "repeated, ioi"
    assert result.provenance.n_prompts == 4
    sorting = ablate(load("sort-abc"), layer=0, head=0, n=4)
    assert sorting.frame["task"].tolist() == ["sorting"]


def test_ranks_of_layers_and_mlps(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"prompt": TEXTS, "rank": True}
    rows = [ablate(words, component=name, **asked).frame.iloc[0] for name in ("m0", "m1")]
    assert sorted(row["rank"] for row in rows) == [1, 2]
    worst = max(rows, key=lambda row: row["value"])  # the loss rises most
    assert (worst["rank"], worst["ranked"]) == (1, 2)
    assert ablate(words, component="a1", **asked).frame["ranked"].tolist() == [2]
    for part in ("embed", "m0.n1", ["m0", "m1"]):
        with pytest.raises(CircuitsError, match="has no rank: name one head"):
            ablate(words, component=part, **asked)


def test_nobody_pays_for_a_rank_that_was_not_asked_for(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"layer": 1, "head": 0, "task": "ioi", "n": 4}
    row = ablate(words, **asked).frame.iloc[0]
    assert row[["rank", "ranked"]].isna().all()
    ranked = ablate(words, rank=True, **asked).frame.iloc[0]
    assert (ranked["value"], ranked["ranked"]) == (pytest.approx(row["value"], abs=1e-12), 4)
    cells = [ablate(words, plan=True, rank=r, **asked).frame["cells"].item() for r in (False, True)]
    assert cells == [2, 5]  # the base run, and one head or all four


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    ablate(words, all_heads=True, prompt=TEXTS, method="mean")
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]


def test_the_same_question_gives_the_same_bytes(words: HookedGPT2) -> None:
    asked: dict[str, Any] = {"all_heads": True, "method": "resample", "n": 3, "seed": 1}
    assert ablate(words, **asked).to_json() == ablate(words, **asked).to_json()


def test_progress_goes_to_the_end(words: HookedGPT2) -> None:
    seen: list[tuple[int, int]] = []
    ablate(words, layer=0, head=0, n=1, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {1000}  # over two tasks
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert 0 < seen[0][0] < seen[-1][0] == 1000


def test_the_plan_says_what_it_would_cost(words: HookedGPT2) -> None:
    result = ablate(words, all_heads=True, n=4, plan=True)
    frame = result.frame.set_index("task")
    assert frame.loc["ioi", ["cells", "prompts", "forwards"]].tolist() == [5, 4, 20]
    assert (frame["work"] > 0).all()
    assert (frame["work"] < frame["forwards"]).all()
    assert frame["saved"].tolist() == pytest.approx(
        (1 - frame["work"] / frame["forwards"]).tolist()
    )
    assert (frame["value"] > 0).all()
    assert result.unit == "seconds"


def test_a_file_of_several_blocks(words: HookedGPT2, tmp_path: Path) -> None:
    texts = [text for text in TEXTS[:3] for _ in range(300)]
    (tmp_path / "many.txt").write_text("\n".join(texts))
    asked: dict[str, Any] = {"component": "m0", "method": "mean"}
    found = ablate(words, file=tmp_path / "many.txt", **asked)
    assert found.frame["n"].tolist() == [found.provenance.n_prompts] == [900]
    assert "of the first 500 prompts" in found.frame["reference"].iloc[0]
    (tmp_path / "other.txt").write_text("\n".join(texts[:-1]))
    other = ablate(words, file=tmp_path / "other.txt", **asked)
    assert other.provenance.prompts != found.provenance.prompts


def test_a_plan_counts_the_prompts_of_a_file(words: HookedGPT2, tmp_path: Path) -> None:
    """Also when later ones are longer, so that the file's length would tell another number."""
    rows = [f'"{TEXTS[2 * (i > 600)]}", Mary, John' for i in range(10_000)]
    (tmp_path / "many.csv").write_text("clean,answer,distractor\n" + "\n".join(rows))
    asked: dict[str, Any] = {"all_heads": True, "file": tmp_path / "many.csv"}
    result = ablate(words, plan=True, **asked)
    row = result.frame.iloc[0]
    n_cells = row["cells"]
    assert (row["prompts"], row["forwards"]) == (10_000, 10_000 * n_cells)
    assert result.provenance.n_prompts == 10_000
    (tmp_path / "many.csv").write_text("clean,answer,distractor\n" + "\n".join([*rows, "x"]))
    with pytest.raises(CircuitsError, match="line 10002 of many.csv does not have 3 fields"):
        ablate(words, plan=True, **asked)


def test_a_file_of_one_block_is_what_its_texts_are(words: HookedGPT2, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(TEXTS))
    of_file = ablate(words, component="m0", file=tmp_path / "few.txt", method="mean")
    of_texts = ablate(words, component="m0", prompt=TEXTS, method="mean")
    assert of_file.provenance.prompts == of_texts.provenance.prompts
    assert of_file.frame["value"].tolist() == of_texts.frame["value"].tolist()
    assert of_file.frame["reference"].tolist() == of_texts.frame["reference"].tolist()


def test_parts_are_kept_and_the_run_goes_on(words: HookedGPT2, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"all_heads": True, "n": 3, "parts": tmp_path / "parts"}
    first = ablate(words, **asked)
    again = ablate(words, **asked, resume=True)
    assert again.to_json() == first.to_json()
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"repeated", "ioi"}
    with pytest.raises(CircuitsError, match="another question: .*method"):
        ablate(words, **asked, resume=True, method="mean")


def test_a_run_that_ended_between_two_tasks_goes_on(words: HookedGPT2, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"all_heads": True, "n": 3, "parts": tmp_path / "parts"}
    first = ablate(words, **asked)
    shutil.rmtree(tmp_path / "parts" / "ioi")
    assert ablate(words, **asked, resume=True).to_json() == first.to_json()
    shutil.rmtree(tmp_path / "parts")
    with pytest.raises(CircuitsError, match="no run"):
        ablate(words, **asked, resume=True)


def test_a_last_block_of_one_prompt_is_resampled_from_the_first(
    words: HookedGPT2, tmp_path: Path
) -> None:
    (tmp_path / "many.txt").write_text("\n".join([*TEXTS[:2] * 250, TEXTS[0]]))
    found = ablate(words, component="m0", file=tmp_path / "many.txt", method="resample").frame
    assert found["n"].tolist() == [501]
    assert "or of the first" in found["reference"].iloc[0]


def test_figures(words: HookedGPT2) -> None:
    titles = [axes.get_title(loc="left") for axes in ablate(words, all_heads=True, n=2).plot().axes]
    assert [title for title in titles if title] == ["repeated", "ioi"]
    figure = ablate(words, layer=0, head=1, n=2).plot()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["repeated", "ioi"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing to ablate: give layer and head"),
        ({"layer": 99, "head": 3}, "there is no layer 99: tiny has layers 0 to 1"),
        ({"layer": 0, "head": 9}, "there is no head 9: tiny has heads 0 to 1"),
        ({"layer": 1}, "layer 1 alone names no head: give a head, too"),
        ({"head": 1}, "head 1 alone names no head: give a layer, too"),
        ({"component": "L0H1"}, "did you mean 'a0.h1'"),
        ({"component": "logits"}, "the logits are what is measured"),
        ({"component": "m0", "all_heads": True}, "all_heads takes every head in turn"),
        ({"component": "m0", "method": "zeros"}, "no ablation method 'zeros'.*did you mean 'zero'"),
        ({"component": "m0", "task": "io"}, "there is no task 'io'.*did you mean 'ioi'"),
        ({"component": "m0", "metric": "los"}, "there is no metric 'los'.*did you mean 'loss'"),
        ({"component": "m0", "task": "ioi", "prompt": "a"}, "task and prompt name different"),
        ({"component": "m0", "answer": " Mary"}, "answer belongs to a prompt of your own"),
        ({"component": "m0", "prompt": "and", "n": 3}, "n=3: only a task's prompts are drawn"),
        ({"component": "m0", "task": "ioi", "n": 0}, "n=0 prompts: ask for at least 1"),
        ({"component": "m0", "prompt": "a", "metric": "logit_diff"}, "an answer and a distractor"),
        ({"component": "m0", "prompt": "and and", "method": "resample"}, "is the only one of"),
        ({"component": "m0@S2", "task": "repeated"}, "no position 'S2'"),
        ({"component": "m0", "file": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"component": "m0->m1"}, "'m0->m1' is an edge.*'paths'"),
        ({"component": "m1@-1", "prompt": "and and"}, "nothing that is measured can see it"),
        ({"component": "m0", "memory": "much"}, "memory='much' is no amount of memory"),
        ({"component": "m0", "engine": "rya"}, "no engine 'rya'.*did you mean 'ray'"),
        ({"component": "m0", "resume": True}, "give the folder as parts"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        ablate(words, **asked)


def test_an_ablation_that_changes_nothing_is_no_finding(compiled: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match=r"zero ablation of a2\.h3 changed nothing"):
        ablate(compiled, layer=2, head=3, **IOI)


def test_a_model_that_no_task_suits() -> None:
    cfg = ModelConfig(n_layers=1, n_heads=1, d_model=8, n_ctx=3, d_vocab=9, model_name="short")
    with pytest.raises(CircuitsError, match="no task suits short"):
        ablate(HookedGPT2.random(cfg), layer=0, head=0)
