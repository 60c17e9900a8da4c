"""The walkthrough: every number of the forward pass, and the letters in order."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from circuits.analyses import walkthrough as walking
from circuits.analyses.walkthrough import walkthrough
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.pages import page
from circuits.pages.walkthrough import data
from circuits.result import Result


@pytest.fixture(scope="module")
def sorter() -> HookedGPT2:
    return load("sort-abc")


@pytest.fixture(scope="module")
def walk(sorter: HookedGPT2) -> Result:
    return walkthrough(sorter, "CBABBC")


def cell(result: Result, step: int, stage: str, column: str) -> Any:
    frame = result.frame
    [value] = frame.loc[(frame["step"] == step) & (frame["stage"] == stage), column]
    return json.loads(value) if column in ("values", "labels") else value


def values(result: Result, step: int, stage: str) -> torch.Tensor:
    return torch.tensor(np.array(cell(result, step, stage, "values"), dtype=float))


def written(result: Result) -> str:
    steps = range(result.frame["step"].nunique())
    return "".join(cell(result, step, "next", "labels")[0] for step in steps)


@settings(max_examples=5)
@given(st.text("ABC", min_size=6, max_size=6))
def test_letters_end_up_in_order(letters: str) -> None:
    assert written(walkthrough(load("sort-abc"), letters)) == "".join(sorted(letters))


def test_each_pass_has_the_numbers_of_a_run_of_its_own(sorter: HookedGPT2, walk: Result) -> None:
    """What is told about one position is what the whole text up to it gives."""
    tokens = [2, 1, 0, 1, 1, 2, 0, 1]
    logits, cache = sorter.run_with_cache([tokens])
    for name, site in (*walking._START, *walking._BLOCK):
        if "hook" not in site:
            continue
        blocks = range(3) if (name, site) in walking._BLOCK else [None]
        for i in blocks:
            stage, full = (name, site) if i is None else (f"{name}.{i}", f"blocks.{i}.{site}")
            own = cache[full][0]
            own = own[:, -1:] if name in ("scores", "pattern") else own[-1:]
            torch.testing.assert_close(
                values(walk, 2, stage), own.double(), atol=1e-4, rtol=1e-4, equal_nan=True
            )
    best = logits[0, -1].double().sort(descending=True).values
    torch.testing.assert_close(values(walk, 2, "logits"), best, atol=1e-3, rtol=1e-4)


def test_the_numbers_add_up(walk: Result) -> None:
    """The identities that the page tells: sums, softmax, weighted values, LayerNorm."""

    def close(left: torch.Tensor, right: torch.Tensor) -> None:
        torch.testing.assert_close(left, right, atol=2e-4, rtol=2e-4)

    def of(stage: str) -> torch.Tensor:
        return values(walk, 0, stage)

    close(of("embed") + of("pos_embed"), of("resid_pre.0"))
    close(of("resid_pre.0") + of("attn_out.0"), of("resid_mid.0"))
    close(of("resid_mid.0") + of("mlp_out.0"), of("resid_post.0"))
    q, k, v, pattern = of("q.1"), of("k.1"), of("v.1"), of("pattern.1")
    scores = torch.einsum("qhe,khe->hqk", q, k) / 4
    later = torch.ones(6, 6).triu(1).bool()
    assert torch.equal(of("scores.1").isnan(), later.expand(3, 6, 6))
    close(of("scores.1").nan_to_num(), scores.masked_fill(later, 0))
    close(scores.masked_fill(later, -torch.inf).softmax(-1), pattern)
    close(torch.einsum("hqk,khe->qhe", pattern, v), of("z.1"))
    stream = of("resid_post.0")
    scale = (stream.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    close((stream - stream.mean(-1, keepdim=True)) / scale, of("ln1_normalized.1"))
    close(torch.nn.functional.gelu(of("pre.2"), approximate="tanh"), of("post.2"))
    close(of("logits").softmax(-1), of("probabilities"))


def test_the_first_pass_reads_the_prompt_and_each_other_one_token(walk: Result) -> None:
    assert cell(walk, 0, "embed", "shape") == "6 × 48"
    assert cell(walk, 3, "embed", "shape") == "1 × 48"
    assert cell(walk, 3, "pattern.2", "shape") == "3 × 1 × 9"
    assert cell(walk, 3, "tokens", "labels") == ["B"]
    last = walk.frame[walk.frame["step"] == 0].set_index("stage")["value"]
    norms = np.array(cell(walk, 0, "resid_post.1", "values"))[-1]
    assert last["resid_post.1"] == pytest.approx(np.linalg.norm(norms), rel=1e-3)


def test_the_model_stays_and_the_answer_is_always_the_same(sorter: HookedGPT2) -> None:
    before = checksum(sorter)
    first, second = (walkthrough(sorter, "CAB", steps=2).to_json() for _ in range(2))
    assert first == second
    assert checksum(sorter) == before
    assert not [hook for hook in sorter.hook_dict.values() if hook.watched]


def test_a_temperature_draws(sorter: HookedGPT2) -> None:
    draws = {written(walkthrough(sorter, "CB", temperature=50.0, seed=i)) for i in range(4)}
    assert len(draws) > 1
    hot = walkthrough(sorter, "CB", temperature=50.0, seed=1)
    assert written(hot) == written(walkthrough(sorter, "CB", temperature=50.0, seed=1))
    expected = (values(hot, 0, "logits") / 50).softmax(-1)
    torch.testing.assert_close(values(hot, 0, "probabilities"), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("CBABBC", {"steps": 0}, "at least one token"),
        ("CBABBC", {"steps": 7}, "shows at most 12 in all: shorten the prompt, or lower steps"),
        ("CBABBC", {"temperature": -1.0}, "temperature=-1.0"),
        ("", {}, "no tokens"),
        ("🙂", {}, "no token for '🙂'"),
        ("שלום", {}, "no token for"),
    ],
)
def test_bad_questions(
    sorter: HookedGPT2, prompt: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        walkthrough(sorter, prompt, **options)


@pytest.mark.slow
def test_a_large_model_is_cut_and_its_page_stays_small(mini: HookedGPT2) -> None:
    result = walkthrough(mini, "Once upon a time " * 14, steps=3)
    assert cell(result, 0, "pre.0", "shape").endswith(" × 1024")
    kept = sum(np.array(json.loads(text)).size for text in result.frame["values"])
    assert kept <= walking.MOST_NUMBERS
    assert len(cell(result, 0, "pre.0", "values")[0]) < 1024
    assert len(cell(result, 1, "logits", "values")) == walking.TOP
    assert len(page(result)) < 5_000_000
    whole = result.frame.set_index(["step", "stage"]).loc[(0, "ln_final"), "value"]
    assert whole == pytest.approx(_last_norm(mini), rel=1e-3)


def _last_norm(model: HookedGPT2) -> float:
    stream = model("Once upon a time " * 14, stop_at_layer=model.cfg.n_layers)
    return float(model.ln_final(stream)[0, -1].norm().detach())


def test_the_page_gets_every_number(walk: Result) -> None:
    view = data(walk)
    numbers = np.frombuffer(base64.b64decode(view["numbers"]), "<f4")
    for tensor in view["tensors"]:
        told = values(walk, tensor["step"], tensor["stage"]).ravel().numpy()
        part = numbers[tensor["at"] : tensor["at"] + told.size]
        assert np.allclose(part, told, rtol=1e-6, equal_nan=True)
    assert "".join(view["tokens"]) == "CBABBCABBBCC"
    assert view["n_prompt"] == 6
    assert len(view["stages"]) == 4 + 3 * 12 + 4
    assert view["facts"] == {
        "model": "sort-abc",
        "n_layers": 3,
        "n_heads": 3,
        "d_head": 16,
        "d_model": 48,
        "d_mlp": 192,
        "d_vocab": 3,
        "temperature": 0.0,
    }


def test_the_page_survives_saving(walk: Result, tmp_path: Any) -> None:
    assert page(Result.load(walk.save(tmp_path / "walk"))) == page(walk)


def test_the_command_sorts_letters_by_itself() -> None:
    ran = CliRunner().invoke(app, ["walkthrough", "CBABBC"])
    assert ran.exit_code == 0, ran.output
    assert "Every step of sort-abc" in ran.stdout
    assert "CBABBCABBBC → C" in ran.stdout
    other = CliRunner().invoke(app, ["walkthrough", "aA", "--model", "compiled", "--steps", "1"])
    assert "Every step of compiled" in other.stdout
