"""Two answers are matched row by row, and their means draw by draw where the draws are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from every_analysis import OF_A_GPT2, OF_A_MODEL, OF_CIRCUITS, question, write_files

from circuits.analyses.ablate import ablate
from circuits.architectures import HookedGPT2
from circuits.comparison import answers_compared, weights_compared
from circuits.errors import CircuitsError
from circuits.registry import find, with_draws
from circuits.result import Provenance, Result, mean_interval

NAMES = ("a", "b")
ABOUT = Provenance("ablate", "mini", "", "bundled", "cpu", "float32", {}, "", {})


def answer(values: dict[str, list[float]], *, draws: bool) -> Result:
    """A row for each name: the mean of its values."""
    columns = mean_interval(np.array(list(values.values())), draws=draws)
    frame = pd.DataFrame({"component": list(values), **columns})
    return Result(frame, unit="logits", title="", provenance=ABOUT, axes=("component",))


def test_means_are_compared_draw_by_draw() -> None:
    first = answer({"m0": [1.0, 2.0, 6.0], "m1": [1.0, 1.0, 4.0]}, draws=True)
    second = answer({"m1": [2.0, 3.0, 1.0], "m0": [1.0, 4.0, 7.0]}, draws=True)
    frame, _ = answers_compared(first, second, "value", NAMES)
    expected = mean_interval(np.array([[0.0, 2.0, 1.0], [1.0, 2.0, -3.0]]))
    assert frame["component"].tolist() == ["m0", "m1"]
    assert frame["paired"].all()
    for name, column in expected.items():
        assert frame[name].tolist() == pytest.approx(column.tolist()), name


def test_means_that_look_alike_have_draws_of_their_own() -> None:
    first = answer({"m0": [1.0, 3.0, 2.0], "m1": [3.0, 2.0, 1.0]}, draws=True)
    second = answer({"m0": [2.0, 4.0, 3.0], "m1": [2.0, 4.0, 3.0]}, draws=True)
    frame, _ = answers_compared(first, second, "value", NAMES)
    assert frame["value"].tolist() == [1, 1]
    spread = np.std([-1.0, 2.0, 2.0], ddof=1) / 3**0.5
    assert frame["stderr"].tolist() == [0, pytest.approx(spread)]


@pytest.mark.parametrize("known", [(False, False), (True, False), (False, True)])
def test_unknown_draws_are_taken_as_independent(known: tuple[bool, bool]) -> None:
    values = {"m0": [1.0, 2.0, 6.0]}, {"m0": [2.0, 2.0, 3.0]}
    first, second = (answer(v, draws=draws) for v, draws in zip(values, known, strict=True))
    row = answers_compared(first, second, "value", NAMES)[0].iloc[0]
    a, b = first.frame.iloc[0], second.frame.iloc[0]
    assert not row["paired"]
    assert row["stderr"] == pytest.approx(np.hypot(a["stderr"], b["stderr"]))
    half = np.hypot(a["ci_high"] - a["value"], b["ci_high"] - b["value"])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        (row["value"] - half, row["value"] + half)
    )
    assert row["n"] == 3


def test_another_number_of_draws_cannot_be_paired() -> None:
    first, second = answer({"m0": [1.0, 2.0]}, draws=True), answer({"m0": [1.0] * 3}, draws=True)
    row = answers_compared(first, second, "value", NAMES)[0].iloc[0]
    assert (row["paired"], row["n"]) == (False, 2)


def test_rows_are_matched_by_what_tells_them_apart(words: HookedGPT2) -> None:
    result = ablate(words, all_heads=True, task="ioi", n=2)
    shuffled = replace(result, frame=result.frame[::-1])
    frame, axes = answers_compared(result, shuffled, "value", NAMES)
    assert set(frame["value"]) == {0.0}
    assert axes == ("layer", "head")
    twice = replace(result, frame=pd.concat([result.frame, result.frame]))
    with pytest.raises(CircuitsError, match="cannot be told apart"):
        answers_compared(twice, twice, "value", NAMES)
    renamed = result.frame.assign(component="x", layer=9, head=range(4))
    with pytest.raises(CircuitsError, match="have no row in common"):
        answers_compared(result, replace(result, frame=renamed), "value", NAMES)
    with pytest.raises(CircuitsError, match="different units, logits and nats"):
        answers_compared(result, replace(result, unit="nats"), "value", NAMES)


def test_an_answer_has_draws_only_if_asked_for_them(words: HookedGPT2) -> None:
    plain = ablate(words, all_heads=True, task="ioi", n=5)
    assert plain.draws is None
    asked = with_draws(ablate)(words, all_heads=True, task="ioi", n=5)
    assert asked.to_json() == plain.to_json()
    assert list(asked.frame) == list(plain.frame)
    for value, draws in zip(asked.frame["value"], asked.draws, strict=True):
        assert draws.values.shape == (5,)
        assert draws.values.mean() == pytest.approx(value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'draws'"):
        ablate(words, all_heads=True, draws=True)  # type: ignore[call-arg]


MORE: dict[str, dict[str, Any]] = {
    "composition": {"check": 2, "task": "repeated", "n": 3},
    "neurons": {"file": "text.txt", "show": "classes", "context": 8},
}


@pytest.mark.parametrize("name", sorted({*OF_A_MODEL} - {"diff"} - OF_CIRCUITS - OF_A_GPT2))
@pytest.mark.slow
def test_every_mean_has_its_draws(
    name: str, mini: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An analysis that takes means also passes on whether their numbers are asked for."""
    monkeypatch.chdir(tmp_path)
    write_files()
    given, options = question(name)
    result = with_draws(find(name).load())(mini, *given, **{**options, **MORE.get(name, {})})
    if "n" not in result.frame:
        assert result.draws is None
        return
    assert result.draws is not None
    for row, draws in zip(result.frame.to_dict("records"), result.draws, strict=True):
        if draws is None:  # there was nothing to take the mean of
            assert np.isnan(row["value"])
            continue
        assert draws.values.shape == (row["n"],)
        assert draws.values.mean() == pytest.approx(row["value"], abs=1e-12)


def test_weights_are_compared_part_by_part(words: HookedGPT2) -> None:
    other = HookedGPT2(words.cfg).double()
    other.load_state_dict(words.state_dict())
    with torch.no_grad():
        other.blocks[0].mlp.W_in.mul_(2)
    frame = weights_compared(words, other, NAMES).set_index("component")
    assert frame.index[frame["norm"] > 0].tolist() == ["m0"]
    assert frame.loc["m0", "norm"] == pytest.approx(float(words.W_in[0].detach().norm()))
