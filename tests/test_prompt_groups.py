"""Groups of prompts by a column of their file, and twins of another length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from word_model import word_model

from circuits.alignment import draw, graph_of
from circuits.analyses.ablate import ablate
from circuits.analyses.approximate import approximate
from circuits.analyses.attribute import attribute
from circuits.analyses.diff import diff
from circuits.analyses.interchange import interchange
from circuits.analyses.patch import patch
from circuits.analyses.paths import paths
from circuits.architectures import HookedGPT2
from circuits.cli.views import show
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.metrics import get_metric
from circuits.prompts import PromptFile, from_file, make
from circuits.registry import with_draws
from circuits.result import Result

CITIES = ("Rome", "Oslo", "Rome", "Oslo", "Rome", "Bonn", "Bonn")
STARTS = ("x and", "y the", "z to", "x x", "y y and", "z", "the z")
T = {2: 12.706205, 3: 4.302653}  # Student's t at 97.5 % with n - 1 degrees of freedom

pytestmark = pytest.mark.filterwarnings("ignore:.* has columns that no prompt is made of")


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return word_model(n_ctx=24)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        {
            "prompt": text,
            "corrupted": f"{text[:-1]}w",
            "answer": " Tom",
            "distractor": " Anne",
            "city": city,
            "value": i % 2,
        }
        for i, (text, city) in enumerate(zip(STARTS, CITIES, strict=True))
    ]
    for row in rows:  # a twin of as many tokens
        row["corrupted"] = row["prompt"].replace("x", "q").replace("y", "q").replace("z", "q")
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def effects(model: HookedGPT2, file: Path) -> np.ndarray[Any, Any]:
    """What each prompt loses without m0, by a plain hook."""
    prompts, metric = from_file(model, file), get_metric("logit_diff")

    def cut(written: Tensor, hook: HookPoint) -> Tensor:
        return torch.zeros_like(written)

    with torch.inference_mode():
        clean = model(prompts.tokens, attention_mask=prompts.mask)
        hooks = [("blocks.0.hook_mlp_out", cut)]
        edited = model.run_with_hooks(prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask)
    changes: np.ndarray[Any, Any] = (
        (metric(edited, prompts) - metric(clean, prompts)).double().numpy()
    )
    return changes


def test_each_group_has_its_mean_and_interval(model: HookedGPT2, file: Path) -> None:
    changes = effects(model, file)
    answer = ablate(model, component="m0", file=file, by="city")
    frame = answer.frame
    assert list(frame.columns[:3]) == ["task", "city", "component"]
    assert list(frame["city"]) == ["Rome", "Oslo", "Bonn"]
    means = []
    for _, row in frame.iterrows():
        some = [x for x, city in zip(changes, CITIES, strict=True) if city == row["city"]]
        n, mean = len(some), sum(some) / len(some)
        half = T[n] * (sum((x - mean) ** 2 for x in some) / (n - 1) / n) ** 0.5
        got = [row["value"], row["ci_low"], row["ci_high"], row["n"]]
        assert got == pytest.approx([mean, mean - half, mean + half, n], rel=1e-4, abs=1e-6)
        means.append(mean)
    assert frame["spread"].to_numpy() == pytest.approx(np.std(means, ddof=1), rel=1e-4)
    assert answer.axes == ("city",)
    assert answer.meanings["city"].startswith("the group of prompts")
    assert "groups by city" in answer.meanings["spread"]
    assert answer.provenance.population == "over prompts like these, within each group by city"
    assert "--by city" in answer.provenance.command


def test_an_interval_over_groups(model: HookedGPT2, file: Path) -> None:
    changes = effects(model, file)
    answer = ablate(model, component="m0", file=file, cluster="city")
    row = answer.frame.iloc[0]
    sums = [
        sum(x - changes.mean() for x, city in zip(changes, CITIES, strict=True) if city == name)
        for name in ("Rome", "Oslo", "Bonn")
    ]
    stderr = (3 / 2 * sum(x**2 for x in sums)) ** 0.5 / len(changes)
    assert row["stderr"] == pytest.approx(stderr, rel=1e-4)
    assert "over groups by city like these 3" in str(answer.provenance.population)


@pytest.mark.parametrize(
    "ask", [approximate, attribute, patch, paths], ids=lambda ask: ask.__name__
)
def test_every_analysis_of_effects_tells_groups_apart(
    model: HookedGPT2, file: Path, ask: Any
) -> None:
    more = {"to": "m1"} if ask is paths else {}
    answer = ask(model, file=file, by="city", **more)
    assert answer.frame.columns[1] == "city"
    assert set(answer.frame["city"]) == set(CITIES)
    assert answer.axes[0] == "city"
    assert answer.plot() is not None


def test_estimates_are_checked_within_each_group(model: HookedGPT2, file: Path) -> None:
    asked: dict[str, Any] = {"what": "mlp", "positions": "all", "file": file}
    for how in ({"by": "city"}, {"cluster": "city"}):
        frame = approximate(model, check="all", **how, **asked).frame
        real = patch(model, **how, **asked).frame
        same = [name for name in ("city", "component", "n") if name in frame]
        assert frame[same].equals(real[same])
        for mine, theirs in {"exact": "value", "exact_low": "ci_low", "clean": "clean"}.items():
            np.testing.assert_allclose(frame[mine], real[theirs], rtol=1e-4, atol=1e-6)
    # One prompt at a time: what an estimate is of a group is the mean of those of its prompts.
    single = []
    for line in file.read_text().splitlines():
        alone = file.with_name("alone.jsonl")
        alone.write_text(line)
        single.append(approximate(model, **(asked | {"file": alone})).frame["value"].to_numpy())
    by = approximate(model, by="city", **asked).frame
    for city, rows in by.groupby("city"):
        some = [values for values, name in zip(single, CITIES, strict=True) if name == city]
        np.testing.assert_allclose(rows["value"], np.mean(some, 0), rtol=1e-4, atol=1e-6)
    over = approximate(model, cluster="city", **asked).frame
    assert (over["stderr"] != approximate(model, **asked).frame["stderr"]).all()


def shown(answer: Result) -> str:
    console = Console(width=300)
    with console.capture() as screen:
        show(answer, console)
    return screen.get()


@pytest.mark.slow
def test_swaps_are_told_apart_by_the_base_prompt(mini: HookedGPT2) -> None:
    prompts = make("ioi", mini, 20)
    asked: dict[str, Any] = {"component": "resid_pre.7@END", "variable": "s", "task": prompts}
    whole = with_draws(interchange)(mini, **asked)
    by = interchange(mini, by="template", **asked).frame
    pairs = draw(graph_of("ioi"), prompts, "s")
    assert prompts.templates is not None
    names = [prompts.templates[row] for row in pairs.rows.tolist()]
    moved = [name for name, moves in zip(names, pairs.moved, strict=True) if moves]
    assert whole.draws is not None
    right = whole.draws[0].values
    sums = []
    for _, row in by.iterrows():
        some = [x for x, name in zip(right, moved, strict=True) if name == row["template"]]
        assert (row["n"], row["value"]) == (len(some), pytest.approx(np.mean(some)))
        sums.append(sum(some) - len(some) * right.mean())
    assert by["spread"].to_numpy() == pytest.approx(by["value"].std())
    clustered = interchange(mini, cluster="template", **asked)
    assert "cluster-robust" in clustered.meanings["ci_low"]
    row = clustered.frame.iloc[0]
    k = len(sums)
    stderr = (k / (k - 1) * sum(x**2 for x in sums)) ** 0.5 / len(right)
    assert (row["value"], row["stderr"]) == pytest.approx((right.mean(), stderr))
    for how in ({}, {"rank": 1, "steps": 2}):
        answer = interchange(mini, by="template", **asked, **how)
        assert set(answer.frame["template"]) <= set(prompts.templates)
        assert answer.plot() is not None
        assert "spread: standard deviation of the accuracy" in shown(answer)
    with pytest.raises(CircuitsError, match=r"no such column; choose template"):
        interchange(mini, by="city", **asked)


def test_blocks_and_resumed_runs_tell_the_same_groups(
    model: HookedGPT2, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    whole = ablate(model, component="m0", file=file, by="city").frame
    monkeypatch.setattr(PromptFile.__init__, "__defaults__", (2, None))
    parts: dict[str, Any] = {"component": "m0", "file": file, "parts": tmp_path / "run"}
    ablate(model, **parts)
    monkeypatch.setattr("circuits.sweep.survey.run", lambda *asked, **how: pytest.fail("it ran"))
    again = ablate(model, resume=True, by="city", **parts).frame
    numbers = ["value", "ci_low", "ci_high", "spread"]
    np.testing.assert_allclose(again[numbers], whole[numbers], rtol=1e-4, atol=1e-6)


def test_a_column_of_the_tables_own_name_is_told_apart(model: HookedGPT2, file: Path) -> None:
    frame = ablate(model, component="m0", file=file, by="value").frame
    assert list(frame["prompt_value"]) == ["0", "1"]
    assert frame["value"].dtype == float


def test_models_are_compared_by_group(model: HookedGPT2, file: Path) -> None:
    answer = diff(model, model, analysis="ablate", component="m0", file=file, by="city")
    assert list(answer.frame["city"]) == ["Rome", "Oslo", "Bonn"]


@pytest.mark.parametrize(
    ("rows", "by", "message"),
    [
        (["clean,city", "x,Rome", "y,Oslo"], "town", "no such column; choose city"),
        (["clean,city", "x,Rome", "y,Oslo"], "cit", "did you mean 'city'"),
        (["clean", "x", "y"], "city", "no such column; a file with that column can have it"),
        (["clean,city", "x,Rome", "y,Rome"], "city", "say the same there"),
        (["clean,city", "x,Rome", "y,"], "city", "says nothing of the prompt 'y'"),
        (["clean,template", "x,A", "y,B"], "city", "no such column; choose template"),
    ],
)
def test_columns_that_make_no_groups(
    model: HookedGPT2, tmp_path: Path, rows: list[str], by: str, message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join(rows))
    for option in ("by", "cluster"):
        with pytest.raises(CircuitsError, match=message):
            ablate(model, component="m0", file=path, **{option: by})


UNEQUAL = "clean,corrupted,answer\nx Mary,y Mary, Tom\nx Mary,x, Tom\n"


def test_a_twin_of_another_length_counts_where_it_is_needed(
    model: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(UNEQUAL)
    alone = tmp_path / "b.csv"
    alone.write_text("clean,answer\nx Mary, Tom\nx Mary, Tom\n")
    for method in ("zero", "mean"):
        twice = [ablate(model, component="m0", file=p, method=method) for p in (path, alone)]
        assert twice[0].frame["value"].tolist() == twice[1].frame["value"].tolist()
    attribute(model, file=path)
    needed = r"line 3 of a.csv: the clean prompt has 3 tokens .*x \|  Mary.* the corrupted one 2"
    for ask in (lambda: patch(model, file=path), lambda: paths(model, file=path, to="m1")):
        with pytest.raises(CircuitsError, match=needed):
            ask()
    # Also in a later block, the first of which has twins of its own length.
    monkeypatch.setattr(PromptFile.__init__, "__defaults__", (1, None))
    ablate(model, component="m0", file=path, method="zero")
    with pytest.raises(CircuitsError, match=needed):
        patch(model, file=path)
