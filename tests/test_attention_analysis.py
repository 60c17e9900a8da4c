"""The patterns of any prompt: every visible pair has its row, and what is left out is said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from word_model import letter_model

from circuits.analyses import attention as analysis
from circuits.analyses.attention import attention
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.errors import CircuitsError, TokenError
from circuits.figures import pattern_grid
from circuits.result import Result

PROMPT = "When Mary and John gave the"
IOI = "aAbBcdeBfg."


@pytest.fixture(scope="module")
def whole(words: HookedGPT2) -> Result:
    return attention(words, PROMPT)


def pattern(model: HookedGPT2, layer: int, head: int, text: str = PROMPT) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.run_with_cache(text)[1]["pattern", layer][0, head]
    return found


def square(result: Result, head: str, column: str = "value") -> np.ndarray[Any, Any]:
    rows = result.frame[result.frame["component"] == head]
    table: np.ndarray[Any, Any] = rows.pivot(index="query", columns="key", values=column).to_numpy()
    return table


def test_every_visible_pair_has_its_row(words: HookedGPT2, whole: Result) -> None:
    n = len(words.to_tokens(PROMPT)[0])
    assert len(whole.frame) == 4 * n * (n + 1) // 2
    assert (whole.frame["key"] <= whole.frame["query"]).all()
    for layer, head in ((0, 1), (1, 0)):
        found = np.nan_to_num(square(whole, f"a{layer}.h{head}"))
        assert found == pytest.approx(pattern(words, layer, head).numpy(), abs=1e-12)
    sums = whole.frame.groupby(["component", "query"])["value"].sum()
    assert sums.to_numpy() == pytest.approx(np.ones(4 * n), abs=1e-9)
    assert (whole.frame["left_out"].abs() < 1e-9).all()


def test_tokens_are_named(words: HookedGPT2, whole: Result) -> None:
    strings = words.to_str_tokens(PROMPT)
    for place in ("query", "key"):
        rows = whole.frame.drop_duplicates(place).sort_values(place)
        assert rows[f"{place}_token"].tolist() == strings


def test_entropy_is_that_of_each_query(words: HookedGPT2, whole: Result) -> None:
    A = pattern(words, 1, 1)
    rows = whole.frame[whole.frame["component"] == "a1.h1"].drop_duplicates("query")
    for query, entropy, share in rows[["query", "entropy", "entropy_share"]].to_numpy():
        expected = -sum(float(p * p.log()) for p in A[int(query), : int(query) + 1])
        assert entropy == pytest.approx(expected, abs=1e-9)
        if query:
            assert share == pytest.approx(expected / math.log(query + 1), abs=1e-9)
        else:
            assert math.isnan(share)


def test_correction_shares_out_what_the_first_token_does_not_have(
    words: HookedGPT2, whole: Result
) -> None:
    A = pattern(words, 0, 1).numpy().copy()
    expected = A[1:, 1:] / (1 - A[1:, :1])
    corrected = np.nan_to_num(square(whole, "a0.h1", "corrected"))
    assert corrected[1:, 1:] == pytest.approx(expected, abs=1e-9)
    dropped = attention(words, PROMPT, sink="drop", component="a0.h1")
    assert np.nan_to_num(square(dropped, "a0.h1")) == pytest.approx(expected, abs=1e-9)
    assert dropped.frame["key"].min() == 1
    assert "without the first token" in dropped.title
    assert dropped.frame["entropy"].iloc[-1] == pytest.approx(
        float(-(expected[-1] * np.log(expected[-1])).sum()), abs=1e-9
    )


def test_what_is_left_of_a_head_that_rests_is_not_blown_up() -> None:
    result = attention(build(n_layers=3), IOI, component="a1.h0")
    # In a text without repetitions of pairs head 1.0 looks at the start token alone.
    assert result.frame.loc[result.frame["query"] == 3, "corrected"].isna().all()
    dropped = attention(build(n_layers=3), IOI, component="a1.h0", sink="drop").frame
    assert 3 not in set(dropped["query"])
    assert dropped["value"].notna().all()


def test_the_compiled_circuit_is_seen() -> None:
    frame = attention(build(n_layers=3), IOI, top=1).frame
    looks = frame.set_index(["component", "query"])[["key", "key_token", "value"]]
    assert looks.loc[("a0.h1", 8)].tolist() == [4, "B", pytest.approx(1, abs=1e-5)]
    assert looks.loc[("a1.h1", 11)].tolist() == [8, "B", pytest.approx(1, abs=1e-5)]
    assert looks.loc[("a2.h0", 11)].tolist() == [2, "A", pytest.approx(1, abs=1e-5)]


def test_only_the_largest_weights(words: HookedGPT2, whole: Result) -> None:
    for options in ({"top": 2}, {"least": 0.2}, {"top": 3, "least": 0.1}):
        some = attention(words, PROMPT, **options)
        for (head, query), rows in whole.frame.groupby(["component", "query"]):
            best = rows.sort_values("value", ascending=False, kind="stable")
            rank = np.arange(len(best))
            wanted = (rank < options.get("top", 99)) & (best["value"] >= options.get("least", 0))
            keys = sorted(best.loc[wanted | (rank == 0), "key"])
            own = some.frame[(some.frame["component"] == head) & (some.frame["query"] == query)]
            assert own["key"].tolist() == keys
            assert own["left_out"].iloc[0] == pytest.approx(1 - own["value"].sum(), abs=1e-9)
        assert "the largest weights" in some.title


def test_long_prompts_keep_their_largest_weights(
    words: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis, "MOST_ROWS", 200)
    text = "and " * 20
    n = len(words.to_tokens(text)[0])
    result = attention(words, text)
    keys = result.frame.groupby(["component", "query"]).size()
    assert keys.max() == max(analysis.FEWEST_KEYS, 200 // (4 * n))
    assert "of all attention" in result.title
    assert attention(words, text, top=n).frame["left_out"].max() < 1e-9


def test_layers_and_heads_in_the_order_of_computation(words: HookedGPT2) -> None:
    frame = attention(words, PROMPT, component=["a1", "a0.h1", "a1.h0"]).frame
    assert frame["component"].unique().tolist() == ["a0.h1", "a1.h0", "a1.h1"]
    assert frame["layer"].unique().tolist() == [0, 1]


def test_figures_of_one_head_of_many_and_of_what_is_left(words: HookedGPT2, whole: Result) -> None:
    titles = [axes.get_title(loc="left") for axes in whole.plot().axes]
    assert titles == ["a0.h0", "a0.h1", "a1.h0", "a1.h1", ""]  # and a color bar
    one = attention(words, PROMPT, component="a1.h1", sink="drop", top=1).plot().axes[0]
    labels = [label.get_text() for label in one.get_xticklabels()]
    assert labels == [token.replace(" ", "·") for token in words.to_str_tokens(PROMPT)[1:]]
    image = one.images[0].get_array()
    assert (np.ma.filled(image, 0) > 0).sum() == len(labels)  # one key a query
    long = pattern_grid({f"a0.h{i}": np.eye(200) for i in range(6)}, ["x"] * 200)
    assert "200 tokens" in long.get_supxlabel()
    assert "the largest weight of 4 x 4" in long.get_supxlabel()
    cells = long.axes[0].images[0].get_array()
    assert np.ma.filled(cells, 0).tolist() == np.eye(50).tolist()
    with pytest.raises(CircuitsError, match="at most 1024 tokens"):
        pattern_grid({"a0.h0": np.eye(1025)}, ["x"] * 1025)


@pytest.mark.parametrize("text", ["", "😀", "שלום עולם", "a\u202eb", "\n\n"])
def test_any_text(words: HookedGPT2, text: str) -> None:
    result = attention(words, text)
    n = len(words.to_tokens(text)[0])
    assert len(result.frame) == 4 * n * (n + 1) // 2
    assert result.plot().axes


def test_the_same_question_gives_the_same_bytes(words: HookedGPT2) -> None:
    before = checksum(words)
    assert attention(words, PROMPT).to_json() == attention(words, PROMPT).to_json()
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"component": "a9"}, "there is no layer 9: tiny has layers 0 to 1"),
        ({"component": "a0.h7"}, "there is no head 7"),
        ({"component": "m0"}, "m0 has no pattern; name heads"),
        ({"component": "a0.h0@3"}, "has no pattern"),
        ({"sink": "hide"}, "choose keep or drop"),
        ({"top": 0}, "at least 1 key"),
        ({"least": 2.0}, "a weight from 0 to 1"),
        ({"prompt": "", "sink": "drop"}, "nothing is left to look at"),
        ({"prompt": "x" * 200}, "reads at most 128"),
    ],
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        attention(words, **({"prompt": PROMPT} | asked))


def test_without_a_start_token_an_empty_prompt_is_nothing() -> None:
    with pytest.raises(TokenError, match="no tokens"):
        attention(letter_model(), "")


def test_patterns_in_a_terminal() -> None:
    def run(*args: str) -> str:
        return CliRunner().invoke(app, ["attention", IOI, "--model", "compiled", *args]).stdout

    one = run("--component", "a2.h0")
    assert "A 2 >99.9%" in one
    assert "entropy in nats" in one
    many = run()
    assert "the 24 of" not in many
    assert max(map(len, many.splitlines())) <= 100
    lines = [line.split() for line in many.splitlines() if line.startswith(" a0.h0")]
    assert lines[0][4:6] == ["-1", "90.9%"]
    few = run("--component", "a2.h0", "--top", "1", "--least", "0.5", "--component", "a3.h0")
    assert "left out: " in few
