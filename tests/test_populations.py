"""About which prompts is an interval, and does it suit what a metric can be?"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from circuits.analyses.ablate import ablate
from circuits.analyses.attribute import attribute
from circuits.analyses.diff import diff
from circuits.analyses.patch import patch
from circuits.analyses.paths import paths
from circuits.architectures import HookedGPT2
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.metrics import get_metric
from circuits.prompts import PromptFile, Prompts, make
from circuits.result import Result, mean_interval

Z = 1.959964


def without(model: HookedGPT2, prompts: Prompts, part: str, metric: str) -> NDArray[np.float64]:
    """Each prompt's effect of zeroing a head or an MLP, by a plain hook."""
    layer, _, head = part[1:].partition(".h")

    def cut(written: Tensor, hook: HookPoint) -> Tensor:
        written = written.clone()
        written[:, :, int(head) if head else slice(None)] = 0
        return written

    hooks = [(f"blocks.{layer}.{'attn.hook_z' if head else 'hook_mlp_out'}", cut)]
    score = get_metric(metric)
    with torch.inference_mode():
        clean = model(prompts.tokens, attention_mask=prompts.mask)
        edited = model.run_with_hooks(prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask)
        before, after = (score(logits, prompts, clean) for logits in (clean, edited))
    found: NDArray[np.float64] = (after - before).double().numpy()
    return found


def adjusted(effects: NDArray[np.float64]) -> list[float]:
    """Bonett and Price's interval, written out: ups b, downs c."""
    n, b, c = len(effects), int((effects == 1).sum()), int((effects == -1).sum())
    up, down = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = Z * ((up + down - (up - down) ** 2) / (n + 2)) ** 0.5
    return [max(-1, up - down - half), min(1, up - down + half)]


def ends(row: Any) -> list[float]:
    return [row["ci_low"], row["ci_high"]]


@pytest.mark.slow
def test_accuracy_has_an_interval_of_paired_proportions(mini: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "metric": "accuracy", "n": 40, "seed": 3}
    frame = ablate(mini, all_heads=True, **asked).frame.set_index("component")
    assert (frame["ci_high"] - frame["ci_low"] > 0.1).all()
    prompts = make("ioi", mini, 40, 3)
    for head in ("a0.h0", "a0.h6", "a5.h3"):
        effects = without(mini, prompts, head, "accuracy")
        assert frame.loc[head, "value"] == pytest.approx(effects.mean())
        assert ends(frame.loc[head]) == pytest.approx(adjusted(effects)), head
    # Eleven of forty answers are lost without the one head, and none without the other.
    assert ends(frame.loc["a0.h6"]) == pytest.approx([-0.410351, -0.113459], abs=1e-5)
    assert ends(frame.loc["a0.h0"]) == pytest.approx([-0.065995, 0.065995], abs=1e-5)


@pytest.mark.slow
def test_split_effects_on_accuracy_have_widths(mini: HookedGPT2) -> None:
    asked: dict[str, Any] = {"task": "ioi", "metric": "accuracy", "n": 12, "effects": True}
    frame = ablate(mini, all_heads=True, **asked).frame
    for name in ("direct", "indirect", "self_repair"):
        low, high = frame[f"{name}_low"], frame[f"{name}_high"]
        assert (high - low > 0.2).all()
        assert low.min() >= -1
        assert high.max() <= 1


@pytest.mark.slow
def test_differences_of_accuracy_are_paired(mini: HookedGPT2) -> None:
    other = copy.deepcopy(mini)
    with torch.no_grad():
        other.blocks[0].attn.W_O[6].zero_()
    asked: dict[str, Any] = {"all_heads": True, "task": "ioi", "metric": "accuracy", "n": 12}
    found = diff(mini, other, analysis="ablate", **asked).frame.set_index("component")
    assert found["paired"].all()  # also where many heads have the same mean
    assert (found["ci_high"] - found["ci_low"] > 0.2).all()
    prompts = make("ioi", mini, 12)
    changes = [without(model, prompts, "a0.h6", "accuracy") for model in (mini, other)]
    change, n = changes[1] - changes[0], 12
    assert found.loc["a0.h6", "value"] == pytest.approx(change.mean())
    # As if two more prompts had changed by 2 and -2, the most that there is.
    spread = (np.square(change).sum() + 8) / (n + 2) - (change.sum() / (n + 2)) ** 2
    half, middle = Z * (spread / (n + 2)) ** 0.5, change.sum() / (n + 2)
    assert ends(found.loc["a0.h6"]) == pytest.approx([middle - half, middle + half], abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "low", "high"), [("kl", 0, np.inf), ("prob", -1, 1), ("prob_diff", -2, 2)]
)
@pytest.mark.slow
def test_effects_stay_within_the_metrics_range(
    mini: HookedGPT2, metric: str, low: float, high: float
) -> None:
    frame = ablate(mini, all_heads=True, task="ioi", metric=metric, n=2).frame
    assert frame["ci_low"].min() >= low
    assert frame["ci_high"].max() <= high
    prompts = make("ioi", mini, 2)
    effects = without(mini, prompts, "a0.h6", metric)
    half = 12.7062 * abs(effects[0] - effects[1]) / 2  # Student's t with one degree of freedom
    wanted = [max(low, effects.mean() - half), min(high, effects.mean() + half)]
    row = frame.set_index("component").loc["a0.h6"]
    assert ends(row) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_kl_may_fall_where_the_base_is_not_the_clean_run(mini: HookedGPT2) -> None:
    frame = patch(mini, what="head", task="ioi", metric="kl", n=6).frame
    assert (frame["value"] < 0).any()
    assert (frame["ci_low"] < 0).any()
    noise = patch(mini, what="head", task="ioi", metric="kl", n=2, direction="noise").frame
    assert (noise["ci_low"] >= 0).all()


@pytest.mark.slow
def test_shares_of_accuracy_have_widths(mini: HookedGPT2) -> None:
    frame = patch(mini, what="head", task="ioi", metric="accuracy", n=12).frame
    assert (frame["share_high"] > frame["share_low"]).all()


WITHIN = "over names and words within these 6 templates, not over other templates"


def by_hand(values: NDArray[np.float64], templates: tuple[str, ...]) -> dict[str, list[float]]:
    """The mean of each template's prompts and its interval, in loops."""
    found = {}
    for template in dict.fromkeys(templates):
        own = [x for x, label in zip(values, templates, strict=True) if label == template]
        n, mean = len(own), sum(own) / len(own)
        stderr = (sum((x - mean) ** 2 for x in own) / (n - 1) / n) ** 0.5
        assert n == 4
        half = 3.182446 * stderr  # Student's t, 3 degrees of freedom
        found[template] = [mean, mean - half, mean + half]
    return found


def test_results_say_which_prompts_their_intervals_are_about(mini: HookedGPT2) -> None:
    found = ablate(mini, component="m0", task="ioi", n=12)
    assert found.provenance.population == WITHIN
    assert json.loads(found.to_json())["provenance"]["population"] == WITHIN
    assert WITHIN in found._repr_html_()
    said = CliRunner().invoke(app, ["ablate", "--component", "m0", "-n", "6"]).stdout
    assert f"ioi: {WITHIN}" in " ".join(said.split())
    assert "95 % intervals: repeated: over prompts drawn as these; ioi: over" in said
    assert make("agreement", mini, 5).population == WITHIN.replace(
        "these 6 templates", "this one template"
    )
    given = ablate(mini, component="m0", prompt=["The cat", "A dog sat"]).provenance
    assert given.population == "over prompts like these, if independent"
    alone = ablate(mini, component="m0", prompt="The cat sat").provenance
    assert alone.population is None


@pytest.fixture(scope="module")
def told(mini: HookedGPT2) -> dict[str, Result]:
    """The same question about all prompts, each template by itself, and over templates."""
    asked: dict[str, Any] = {"all_heads": True, "task": "ioi", "n": 24}
    ways: dict[str, dict[str, Any]] = {"all": {}, "by": {"by": "template"}}
    ways["over"] = {"cluster": "template"}
    return {way: ablate(mini, **asked, **more) for way, more in ways.items()}


@pytest.fixture(scope="module")
def each(mini: HookedGPT2) -> dict[str, list[float]]:
    """What ablating a0.h3 does in each template, by hand."""
    prompts = make("ioi", mini, 24)
    assert prompts.templates is not None
    return by_hand(without(mini, prompts, "a0.h3", "logit_diff"), prompts.templates)


@pytest.mark.slow
def test_by_template_tells_each_ones_effect(
    told: dict[str, Result], each: dict[str, list[float]]
) -> None:
    found = told["by"]
    assert found.axes == ("template", "layer", "head")
    assert found.provenance.population == "over names and words within each template by itself"
    assert "--by template" in found.provenance.command
    frame = found.frame.set_index(["template", "component"])
    assert frame["n"].tolist() == [4] * 384
    for template, numbers in each.items():
        row = frame.loc[(template, "a0.h3")]
        assert [row["value"], *ends(row)] == pytest.approx(numbers, rel=1e-3, abs=1e-4)
    means = [numbers[0] for numbers in each.values()]
    spread = frame.xs("a0.h3", level="component")["spread"].tolist()
    assert spread == pytest.approx([np.std(means, ddof=1)] * 6, rel=1e-4)
    whole = told["all"].frame.set_index("component")
    assert whole.loc["a0.h3", "value"] == pytest.approx(np.mean(means), rel=1e-4)
    # Which is what the spread is for: in one template of six the head matters most.
    assert means == pytest.approx([1.185, 1.551, 0.477, -0.044, 1.874, 4.722], abs=0.005)


@pytest.mark.slow
def test_clusters_are_templates(told: dict[str, Result], each: dict[str, list[float]]) -> None:
    over, within = (told[way].frame.set_index("component") for way in ("over", "all"))
    assert over["value"].tolist() == within["value"].tolist()
    assert over["n"].tolist() == [24] * 64
    means = [numbers[0] for numbers in each.values()]
    half = 2.570582 * np.std(means, ddof=1) / 6**0.5  # Student's t, 5 degrees of freedom
    wanted = [np.mean(means) - half, np.mean(means) + half]
    assert ends(over.loc["a0.h3"]) == pytest.approx(wanted, rel=1e-3)
    assert ends(over.loc["a0.h3"]) == pytest.approx([-0.126, 3.380], abs=0.005)
    assert ends(within.loc["a0.h3"]) == pytest.approx([0.513, 2.741], abs=0.005)


@pytest.mark.slow
def test_shares_over_templates_are_those_of_ratios(mini: HookedGPT2) -> None:
    asked: dict[str, Any] = {"what": "attn", "positions": "all", "task": "ioi", "n": 24}
    frame = patch(mini, cluster="template", **asked).frame.set_index("component")
    each = patch(mini, by="template", **asked).frame.set_index("component").loc["a5"]
    full, effect = each["clean"] - each["corrupted"], each["value"]
    share = effect.mean() / full.mean()
    left = (effect - share * full) / full.mean()
    half = 2.570582 * (left**2).sum() ** 0.5 / 30**0.5  # 6 templates: k (k - 1) = 30
    row = frame.loc["a5"]
    assert row["share"] == pytest.approx(share)
    assert [row["share_low"], row["share_high"]] == pytest.approx(
        [share - half, share + half], rel=1e-4
    )


@pytest.mark.parametrize(
    ("ask", "axes"),
    [
        pytest.param(
            lambda model, **asked: paths(model, to="logits", **asked),
            ("template", "stage", "part"),
            marks=pytest.mark.slow,
        ),
        (lambda model, **asked: attribute(model, **asked), ("template", "layer", "part")),
        (
            lambda model, **asked: patch(model, component="a5.h3", **asked),
            ("template",),
        ),
    ],
)
@pytest.mark.slow
def test_every_analysis_of_effects_tells_templates_apart(
    mini: HookedGPT2, ask: Callable[..., Result], axes: tuple[str, ...]
) -> None:
    asked: dict[str, Any] = {"task": "ioi", "n": 12}
    each, over, whole = (
        ask(mini, **asked, **more) for more in ({"by": "template"}, {"cluster": "template"}, {})
    )
    assert each.axes == axes
    assert list(each.frame)[:2] == ["task", "template"]
    means = each.frame["value"].to_numpy().reshape(6, -1)
    expected = mean_interval(means.T)
    assert len(over.frame) == len(whole.frame) == means.shape[1]
    for name in ("value", "stderr", "ci_low", "ci_high"):
        np.testing.assert_allclose(over.frame[name], expected[name], rtol=1e-6, atol=1e-9)
    assert over.frame["value"].tolist() == whole.frame["value"].tolist()
    assert over.provenance.population == (
        "over templates like these 6, not only over names and words within them"
    )
    assert each.plot().axes


@pytest.mark.slow
def test_differences_between_models_are_over_templates_too(mini: HookedGPT2) -> None:
    other = copy.deepcopy(mini)
    with torch.no_grad():
        other.blocks[0].attn.W_O[6].zero_()
    asked: dict[str, Any] = {"component": "m1", "task": "ioi", "n": 12}
    row = diff(mini, other, analysis="ablate", cluster="template", **asked).frame.iloc[0]
    prompts = make("ioi", mini, 12)
    change, own = (without(model, prompts, "m1", "logit_diff") for model in (other, mini))
    means = (change - own).reshape(2, 6).mean(0)  # templates take turns
    expected = mean_interval(means)
    assert row["paired"]
    for name in ("value", "stderr", "ci_low", "ci_high"):
        assert row[name] == pytest.approx(float(expected[name]), rel=1e-4), name
    each = diff(mini, other, analysis="ablate", by="template", **asked).frame
    assert each["value"].tolist() == pytest.approx(means.tolist(), rel=1e-3)


def in_file(path: Path, prompts: Prompts, model: HookedGPT2) -> Path:
    """The prompts as a file with a column for their template."""
    tokenizer = model.require_tokenizer()
    rows = zip(prompts.texts, prompts.answers, prompts.distractors, prompts.templates, strict=True)  # type: ignore[arg-type]
    lines = [
        {
            "clean": text,
            "answer": tokenizer.decode([int(answer)]),
            "distractor": tokenizer.decode([int(distractor)]),
            "template": template,
        }
        for text, answer, distractor, template in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_files_say_their_templates_block_by_block(
    mini: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptFile, "block", 7)
    monkeypatch.setattr(PromptFile.__init__, "__defaults__", (7, None))
    file = in_file(tmp_path / "gifts.jsonl", make("ioi", mini, 24), mini)
    wanted = ablate(mini, component="m0", task="ioi", n=24, cluster="template").frame
    parts: dict[str, Any] = {"component": "m0", "file": file, "parts": tmp_path / "run"}
    columns = ["value", "stderr", "ci_low", "ci_high"]
    plain = ablate(mini, **parts)
    assert plain.provenance.n_prompts == 24
    assert plain.provenance.population == (
        "over names and words within the templates of gifts.jsonl, not over others"
    )
    # The run on disk answers the other question, too, without a pass through the model.
    monkeypatch.setattr("circuits.sweep.survey.run", lambda *asked, **how: pytest.fail("it ran"))
    again = ablate(mini, resume=True, cluster="template", **parts)
    np.testing.assert_allclose(again.frame[columns], wanted[columns], rtol=1e-4, atol=1e-5)
    assert "over templates like those of gifts.jsonl" in str(again.provenance.population)
    each = ablate(mini, resume=True, by="template", **parts).frame
    assert each["template"].nunique() == 6


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"task": "ioi", "by": "template", "cluster": "template"}, "give one of the two"),
        ({"task": "repeated", "by": "template"}, "not known to be made of templates"),
        ({"task": "agreement", "cluster": "template"}, "all of one template"),
        ({"task": "ioi", "n": 1, "cluster": "template"}, "all of one template"),
        (
            {"task": "ioi", "cluster": "head"},
            "cluster='head': .* no such column; choose template",
        ),
    ],
)
def test_what_has_no_spread_over_templates(
    mini: HookedGPT2, asked: dict[str, Any], says: str
) -> None:
    for plan in (False, True):
        with pytest.raises(CircuitsError, match=says):
            ablate(mini, component="m0", plan=plan, **asked)
    with pytest.raises(CircuitsError, match=says):
        attribute(mini, **asked)


@pytest.mark.slow
def test_a_mean_by_position_is_of_one_template(mini: HookedGPT2) -> None:
    # Two of the six templates have 19 tokens, and at the same place other words.
    prompts = make("ioi", mini, 24)
    assert prompts.templates is not None
    row = ablate(mini, component="m0", task="ioi", n=24, method="position-mean").frame.iloc[0]
    assert "as long and of the same template" in row["reference"]
    _, cache = mini.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
    own = cache["blocks.0.hook_mlp_out"]

    def means(alike: Callable[[int, int], bool]) -> Tensor:
        rows = range(24)
        return torch.stack([own[[j for j in rows if alike(i, j)]].mean(0) for i in rows])

    lengths, templates = prompts.mask.sum(1).tolist(), prompts.templates

    def effect(written: Tensor) -> float:
        def write(value: Tensor, hook: HookPoint) -> Tensor:
            return torch.where(prompts.mask[..., None], written, value)

        hooks = [("blocks.0.hook_mlp_out", write)]
        metric = get_metric("logit_diff")
        with torch.inference_mode():
            edited = mini.run_with_hooks(
                prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask
            )
            clean = mini(prompts.tokens, attention_mask=prompts.mask)
            return float((metric(edited, prompts) - metric(clean, prompts)).mean())

    within = effect(means(lambda i, j: templates[i] == templates[j]))
    mixed = effect(means(lambda i, j: lengths[i] == lengths[j]))
    assert row["value"] == pytest.approx(within, abs=1e-4)
    assert abs(within - mixed) > 0.01


def test_a_template_by_itself_has_no_mean_by_position(mini: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match="of one length and template.*has 1 prompts"):
        ablate(mini, component="m0", task="ioi", n=7, method="position-mean")
