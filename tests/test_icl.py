"""Learning in context: losses by position, of repeats and of a text that is read piece by piece."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ground_truth import repeated
from typer.testing import CliRunner
from word_model import letter_model, word_model

from circuits.analyses.icl import icl
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.cli import app
from circuits.errors import CircuitsError, TokenError
from circuits.prompts import make
from circuits.result import mean_interval
from circuits.text_windows import losses

CHANCE, KNOWN = math.log(27), 0.0012  # the compiled model's losses, on the first and second copy


@pytest.fixture(scope="module")
def words() -> HookedGPT2:
    return word_model(n_ctx=32)


def write(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_the_compiled_model_learns_in_context(compiled: HookedGPT2) -> None:
    found = losses(compiled, repeated(compiled))[0]
    # The first token of the second copy is announced by nothing.
    np.testing.assert_allclose(found[:16], CHANCE, atol=1e-4)
    np.testing.assert_allclose(found[16:], KNOWN, atol=1e-4)


def test_curves_of_the_compiled_model(compiled: HookedGPT2) -> None:
    """In half of all sequences a token occurs that starts the model's other circuit: not here."""
    seed = next(s for s in range(99) if not (make("repeated", compiled, 1, s).tokens == 1).any())
    frame = icl(compiled, n=1, seed=seed).frame.set_index(["curve", "position"])
    np.testing.assert_allclose(frame.loc["copy 1", "value"], CHANCE, atol=1e-4)
    assert frame.loc[("copy 2", 1), "value"] == pytest.approx(CHANCE, abs=1e-4)
    np.testing.assert_allclose(frame.loc["copy 2", "value"].to_numpy()[1:], KNOWN, atol=1e-4)
    assert frame.loc[("copy 2", 5), "score"] == pytest.approx(KNOWN - CHANCE, abs=2e-4)
    assert frame.loc["control", "value"].min() > CHANCE - 0.1


def test_curves_are_the_losses_of_the_task(words: HookedGPT2) -> None:
    prompts = make("repeated", words, 6, 3, copies=3, length=5)
    frame = icl(words, copies=3, length=5, n=6, seed=3).frame
    assert prompts.corrupted is not None
    with torch.no_grad():
        plain, control = (
            words(tokens, return_type="loss", loss_per_token=True).numpy()
            for tokens in (prompts.tokens, prompts.corrupted)
        )
    expected = {f"copy {k + 1}": plain[:, 5 * k : 5 * k + 5] for k in range(3)}
    expected["control"] = control[:, 10:]
    assert frame["curve"].unique().tolist() == list(expected)
    for curve, rows in frame.groupby("curve"):
        values = expected[str(curve)]
        assert rows["position"].tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(rows["value"], values.mean(0), rtol=1e-5)
        difference = mean_interval((values - expected["copy 1"])[:, 1:].mean(1))
        ends = rows[["score", "score_low", "score_high"]].iloc[0].tolist()
        assert ends == pytest.approx(
            [float(difference[name]) for name in ("value", "ci_low", "ci_high")], abs=1e-5
        )
    assert set(frame["n"]) == {6}


def test_without_a_start_token_nothing_predicts_the_first() -> None:
    frame = icl(letter_model("ABCDEFGHIJ", n_ctx=12), n=3).frame
    firsts = frame.groupby("curve", sort=False)["position"].min()
    assert firsts.to_dict() == {"copy 1": 2, "copy 2": 1, "control": 1}


def test_mini_learns_in_context(mini: HookedGPT2) -> None:
    frame = icl(mini, n=8).frame.drop_duplicates("curve").set_index("curve")
    assert frame.loc["copy 2", "score_high"] < -10
    assert frame.loc["copy 2", "mean"] < 1
    assert frame.loc["control", "mean"] > 10


TEXT = "x and Mary gave the y to John. " * 40


def test_losses_of_a_text(words: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    frame = icl(words, file=path, context=12).frame
    ids = words.require_tokenizer().encode(TEXT)
    n = len(ids) // 11  # of which the last, shorter window is left out
    start = words.to_tokens("")[0].tolist()
    rows = torch.tensor([start + ids[11 * i : 11 * i + 11] for i in range(n)])
    with torch.no_grad():
        expected = words(rows, return_type="loss", loss_per_token=True).double().numpy()
    np.testing.assert_allclose(frame["value"], expected.mean(0), rtol=1e-5)
    np.testing.assert_allclose(frame["stderr"], mean_interval(expected.T)["stderr"], rtol=1e-4)
    assert set(frame["n"]) == {n}
    assert frame["mean"].iloc[0] == pytest.approx(expected.mean(), rel=1e-5)
    assert frame["score_of"].iloc[0] == "tokens 10-12 minus tokens 2-3"


def test_a_short_context_names_its_stretches(words: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    row = icl(words, file=path).frame.iloc[0]
    assert row["score_of"] == "tokens 26-31 minus tokens 3-9"
    rows = icl(words, file=path, n=2).frame
    score = rows.loc[rows["position"].between(26, 31), "value"].mean()
    score -= rows.loc[rows["position"].between(3, 9), "value"].mean()
    assert rows["score"].iloc[0] == pytest.approx(score)
    assert set(rows["n"]) == {2}


def test_a_long_context_compares_two_tokens(tmp_path: Path) -> None:
    long = word_model(n_ctx=512)
    frame = icl(long, file=write(tmp_path, TEXT * 3), n=2).frame.set_index("position")
    assert frame["score_of"].iloc[0] == "token 500 minus token 50"
    score = frame.loc[500, "value"] - frame.loc[50, "value"]
    assert frame["score"].iloc[0] == pytest.approx(score)


def test_the_model_is_left_as_it_was(words: HookedGPT2, tmp_path: Path) -> None:
    before, path = checksum(words), write(tmp_path, TEXT)
    for options in ({"n": 3}, {"file": path}):
        first = icl(words, **options).to_json()
        assert icl(words, **options).to_json() == first
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]


def test_the_text_is_known_again(words: HookedGPT2, tmp_path: Path) -> None:
    first, other = (icl(words, file=write(tmp_path, TEXT + end)).provenance for end in "xy")
    assert first.prompts != other.prompts
    assert (first.task, first.n_prompts, first.prepend_bos) == ("text.txt", 14, True)


def test_progress_is_told_in_bytes(words: HookedGPT2, tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    told: list[tuple[int, int]] = []
    icl(words, file=path, progress=lambda done, size: told.append((done, size)))
    assert told[-1] == (path.stat().st_size, path.stat().st_size)


def test_figures(words: HookedGPT2, tmp_path: Path) -> None:
    legend = icl(words, copies=3, n=2).plot().axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "copy 1",
        "copy 2",
        "copy 3",
        "control",
    ]
    figure = icl(words, file=write(tmp_path, TEXT), n=1).plot()
    assert len(figure.axes[0].lines) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 1}, "copies=1: compare 2 to 6"),
        ({"copies": 7}, "copies=7: compare 2 to 6"),
        ({"length": 99}, "99 different tokens.* context of 32 positions; choose .* at most 15"),
        ({"length": 1}, "length=1: one copy needs at least 2"),
        ({"context": 9}, "context is of a text file's windows"),
        ({"n": 0}, "n=0 prompts"),
        ({"file": "text.txt", "copies": 3}, "leave out the file"),
        ({"file": "text.txt", "n": 0}, "n=0 windows"),
        ({"file": "text.txt", "context": 33}, "context=33: a window of tiny has 3 to 32 tokens"),
        ({"file": "text.txt", "context": 7}, "context of 7 tokens has no early and late ones"),
        ({"file": "none.txt"}, "none.txt cannot be read: No such file"),
        ({"file": "."}, "cannot be read: Is a directory"),
        ({"file": "short.txt"}, "short.txt has 4 tokens .* a window 32; .* at most 4"),
        ({"file": "empty.txt"}, "empty.txt has no text"),
        ({"file": "bytes.txt"}, "bytes.txt is not UTF-8"),
        ({"file": "wide.txt"}, "wide.txt has NUL characters, as UTF-16 text does"),
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
    write(tmp_path, TEXT)
    Path("short.txt").write_text("abc")
    Path("empty.txt").write_text("")
    Path("bytes.txt").write_bytes(b"ab\xff")
    Path("wide.txt").write_bytes(TEXT.encode("utf-16-le"))
    with pytest.raises(CircuitsError, match=message):
        icl(words, **options)


def test_characters_without_a_token(tmp_path: Path) -> None:
    path = write(tmp_path, "ABCABCABCABCABCABC\n")
    with pytest.raises(TokenError, match=r"text\.txt: the vocabulary 'characters' has no token"):
        icl(letter_model(), file=path)


def test_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "CBABBC" * 30)
    done = CliRunner().invoke(app, ["icl", "--file", str(path), "--model", "sort-abc", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["provenance"]["command"] == f"circuits icl --file {path} --model sort-abc"
    assert found["rows"][0]["curve"] == "text"
    shown = CliRunner().invoke(app, ["icl", "--model", "compiled", "-n", "4"])
    assert shown.exit_code == 0, shown.output
    assert "copy 2" in shown.output
    assert "difference: loss minus copy 1's" in shown.output
