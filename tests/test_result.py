"""Results: uncertainty that is right, files that are whole and always the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from random_models import TINY, randomized
from word_model import word_model

from circuits.analyses.ablate import ablate
from circuits.analyses.attention import attention
from circuits.analyses.logit_lens import logit_lens
from circuits.analyses.walkthrough import walkthrough
from circuits.analyses.why import why
from circuits.checkpoints import checksum
from circuits.errors import CircuitsError
from circuits.figures import VIEWS, save_figure
from circuits.intervals import student_t
from circuits.pages import page, save_page
from circuits.prompts import make
from circuits.result import Provenance, Result, mean_interval, provenance

ABOUT = Provenance(
    analysis="ablate",
    model="mini",
    checksum="0123456789abcdef",
    source="bundled",
    device="cpu",
    dtype="float32",
    arguments={"layer": 5, "components": ("a5.h3",), "alpha": 0.1234567891},
    command="circuits ablate --layer 5 --head 3 --prompt '<b>'",
    versions={"torch": "2.13.0"},
)


def heads_frame(n: int = 3) -> pd.DataFrame:
    effects = np.random.default_rng(0).normal([[0.0], [-3.0], [1.0], [0.5]], 0.1, (4, n))
    return pd.DataFrame(
        {
            "component": ["a0.h0", "a0.h1", "a1.h0", "a1.h1"],
            "layer": [0, 0, 1, 1],
            "head": [0, 1, 0, 1],
            **mean_interval(effects),
        }
    )


@pytest.fixture
def result() -> Result:
    return Result(
        heads_frame(),
        unit="logits",
        title="Zero ablation <of> heads",
        provenance=ABOUT,
        axes=("layer", "head"),
        view="heatmap",
        meanings={"component": "what was ablated"},
    )


@pytest.mark.parametrize(
    ("confidence", "degrees", "table"),
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.30265),
        (0.95, 5, 2.57058),
        (0.95, 10, 2.22814),
        (0.95, 30, 2.04227),
        (0.95, 120, 1.97993),
        (0.95, 10**7, 1.95996),
        (0.99, 1, 63.6567),
        (0.99, 9, 3.24984),
        (0.5, 3, 0.764892),
    ],
)
def test_quantiles_are_those_of_the_tables(confidence: float, degrees: int, table: float) -> None:
    assert student_t(confidence, degrees) == pytest.approx(table, rel=3e-5)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(2.0, 3.0, (4000, 5))
    found = mean_interval(draws)
    covered = (found["ci_low"] <= 2) & (found["ci_high"] >= 2)
    assert 0.94 < covered.mean() < 0.96
    narrow = mean_interval(draws, confidence=0.5)
    covered = (narrow["ci_low"] <= 2) & (narrow["ci_high"] >= 2)
    assert 0.48 < covered.mean() < 0.52


def test_the_columns_of_a_mean() -> None:
    found = mean_interval(np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]))
    assert list(found) == ["value", "stderr", "ci_low", "ci_high", "n"]
    np.testing.assert_allclose(found["value"], [3, 4])
    np.testing.assert_allclose(found["stderr"], [np.std([1, 2, 6], ddof=1) / 3**0.5, 0])
    np.testing.assert_allclose(found["ci_high"] - found["value"], 4.30265 * found["stderr"], 1e-4)
    assert found["n"].tolist() == [3, 3]
    alone = mean_interval(np.array([5.0]))
    assert (float(alone["value"]), int(alone["n"])) == (5.0, 1)
    assert all(np.isnan(alone[name]) for name in ("stderr", "ci_low", "ci_high"))


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "no values"), ([1.0, np.nan, np.inf], "2 that are not finite")],
)
def test_what_has_no_mean(values: list[float], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        mean_interval(np.array(values))


def test_a_mean_without_its_uncertainty_is_refused(result: Result) -> None:
    with pytest.raises(CircuitsError, match=r"has stderr, n and lacks|has stderr, n and"):
        replace(result, frame=heads_frame().drop(columns=["ci_low", "ci_high"]))
    with pytest.raises(CircuitsError, match=r"no column 'layr'; .* did you mean 'layer'"):
        replace(result, axes=("layr", "head"))


def test_draws_stand_beside_the_table(tmp_path: Path) -> None:
    values = np.array([[1.0, 3.0], [5.0, 9.0], [-9.0, -7.0]])
    about: dict[str, Any] = {"unit": "logits", "title": "", "provenance": ABOUT, "axes": ("layer",)}
    plain, asked = (
        Result(pd.DataFrame({"layer": range(3), **mean_interval(values, draws=draws)}), **about)
        for draws in (False, True)
    )
    assert plain.draws is None
    assert asked.draws is not None
    assert [draws and draws.values.tolist() for draws in asked.draws] == values.tolist()
    pd.testing.assert_frame_equal(asked.frame, plain.frame)
    assert (repr(asked), asked.to_json(), asked.to_csv()) == (
        *(repr(plain), plain.to_json(), plain.to_csv()),
    )
    assert Result.load(asked.save(tmp_path / "saved")).draws is None
    first = asked.top(2).draws
    assert first is not None
    assert [draws and draws.values.tolist() for draws in first] == [[-9, -7], [5, 9]]
    with pytest.raises(CircuitsError, match="draws of 3 means, but 1 rows"):
        replace(asked, frame=asked.frame[:1])


def test_the_table_is_a_copy(result: Result) -> None:
    before = result.to_json()
    table = result.to_pandas()
    table.loc[0, "value"] = 99.0
    assert result.to_json() == before


def test_top_is_by_size_of_either_sign(result: Result) -> None:
    top = result.top(2)
    assert top.to_pandas()["component"].tolist() == ["a0.h1", "a1.h0"]
    assert result.top(1, by="layer").to_pandas()["component"].tolist() == ["a1.h0"]
    assert len(result.top(99).to_pandas()) == 4
    with pytest.raises(CircuitsError, match=r"no column 'velue'; .* did you mean 'value'"):
        result.top(1, by="velue")


def test_every_view_is_drawn(result: Result) -> None:
    assert {result.view, "bars"} < {*VIEWS}
    assert all(callable(draw) for draw in VIEWS.values())
    with pytest.raises(CircuitsError, match="there is no view 'bar'; .* 'bars'"):
        replace(result, view="bar")


def test_the_picture_follows_the_view(result: Result) -> None:
    heat = result.plot().axes[0]
    assert (heat.get_ylabel(), heat.get_xlabel()) == ("layer", "head")
    assert heat.get_title(loc="left") == "Zero ablation <of> heads"
    np.testing.assert_allclose(
        heat.images[0].get_array(), result.to_pandas()["value"].to_numpy().reshape(2, 2)
    )
    bars = result.top(2).plot().axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["a0.h1", "a1.h0"]
    assert bars.get_xlabel() == "logits"
    unnamed = replace(result, frame=heads_frame().drop(columns="component")).top(1).plot()
    assert [t.get_text() for t in unnamed.axes[0].get_yticklabels()] == ["layer 0 head 1"]


def test_a_lens_is_drawn_in_order_of_appearance() -> None:
    frame = pd.DataFrame(
        {
            "site": ["m1", "m1", "a0", "a0"],
            "position": [0, 1, 0, 1],
            "after": ["x", "y", "x", "y"],
            "token": ["A", "B", "C", "D"],
            "probability": [0.1, 0.2, 0.3, 0.4],
        }
    )
    lens = Result(frame, "", "lens", ABOUT, axes=("site", "position"), view="lens")
    axes = lens.plot().axes[0]
    assert [text.get_text() for text in axes.texts] == ["A", "B", "C", "D"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["m1", "a0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"]


def test_json_says_everything(result: Result) -> None:
    content = json.loads(result.to_json())
    assert [row["component"] for row in content["rows"]] == ["a0.h0", "a0.h1", "a1.h0", "a1.h1"]
    assert content["columns"]["component"]["meaning"] == "what was ablated"
    assert "Student's t" in content["columns"]["ci_low"]["meaning"]
    assert content["provenance"]["command"] == ABOUT.command
    assert content["provenance"]["arguments"]["alpha"] == 0.123457
    assert result.to_json() == result.to_json()
    once = replace(result, frame=heads_frame(n=1))
    assert json.loads(once.to_json())["rows"][0]["ci_low"] is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_rounded_once_and_for_all(number: float) -> None:
    frame = pd.DataFrame({"site": ["x"], "value": [number]})
    result = Result(frame, "", "", ABOUT, axes=("site",))
    written = json.loads(result.to_json())["rows"][0]["value"]
    assert written == pytest.approx(number, rel=5e-6, abs=1e-323)
    assert "-0.0" not in (repr(written), "-0.0" if written == 0 and str(written)[0] == "-" else "")
    again = replace(result, frame=pd.DataFrame({"site": ["x"], "value": [written]}))
    assert again.to_json() == result.to_json()


def test_an_infinite_number_is_refused() -> None:
    frame = pd.DataFrame({"site": ["x"], "value": [np.inf]})
    with pytest.raises(CircuitsError, match="infinite number"):
        Result(frame, "", "", ABOUT, axes=("site",)).to_json()


def test_csv_has_the_same_numbers(result: Result) -> None:
    lines = result.to_csv().split("\n")
    assert lines[0] == "component,layer,head,value,stderr,ci_low,ci_high,n"
    first = json.loads(result.to_json())["rows"][0]
    assert lines[1] == ",".join(str(value) for value in first.values())
    assert len(lines) == 6
    assert lines[5] == ""
    once = replace(result, frame=heads_frame(n=1))
    assert once.to_csv().split("\n")[1].endswith(",,,,1")


def test_saved_and_loaded_it_is_the_same(result: Result, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "deep" / "run")
    assert sorted(path.name for path in folder.iterdir()) == ["result.json", "table.csv"]
    loaded = Result.load(folder)
    assert loaded.to_json() == result.to_json()
    pd.testing.assert_frame_equal(loaded.to_pandas(), result.to_pandas(), rtol=1e-5)
    assert loaded.axes == ("layer", "head")
    assert list(folder.parent.iterdir()) == [folder]


def test_missing_values_survive(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "site": ["x", "y"],
            "token": ["a", None],
            "rank": pd.array([1, None], dtype="Int64"),
            "value": [np.nan, 1.0],
            "top": [True, False],
        }
    )
    result = Result(frame, "", "", ABOUT, axes=("site",))
    loaded = Result.load(result.save(tmp_path / "run"))
    assert loaded.to_json() == result.to_json()
    assert loaded.to_pandas().dtypes.to_dict() == frame.dtypes.to_dict()
    assert loaded.to_pandas().isna().to_numpy().tolist() == frame.isna().to_numpy().tolist()


def test_an_earlier_result_is_replaced_and_other_files_are_not(
    result: Result, tmp_path: Path
) -> None:
    folder = result.save(tmp_path / "run")
    result.top(1).save(folder)
    assert len(Result.load(folder).to_pandas()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert sorted(path.name for path in folder.iterdir()) == ["result.json", "table.csv"]
    (folder / "notes.txt").write_text("mine")
    result.save(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("years of work")
    with pytest.raises(CircuitsError, match="already holds other files"):
        result.save(other)
    assert (other / "chapter.tex").read_text() == "years of work"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert Result.load(result.save(empty)).title == result.title


def test_what_cannot_be_written(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CircuitsError, match=r"run cannot be written: (Not a directory|File exists)"
    ):
        result.save(tmp_path / "file" / "run")

    def full(self: Path, target: object) -> None:
        raise OSError(28, "No space left on device")

    result.save(tmp_path / "kept")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CircuitsError, match="kept cannot be written: No space left"):
        result.top(1).save(tmp_path / "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert Result.load(tmp_path / "kept").to_json() == result.to_json()


def test_a_result_in_the_current_folder(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result.save(".")
    Path("notes.txt").write_text("mine")
    result.top(1).save(".")
    assert len(Result.load(".").to_pandas()) == 1
    assert sorted(path.name for path in Path().iterdir()) == [
        "notes.txt",
        "result.json",
        "table.csv",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not a result of this package"),
        ("[]", "is not a result of this package"),
        ('{"rows": []}', "is not a result of this package"),
        ('{"columns": {}, "rows": [], "provenance": {"x": 1}}', "is not a result"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(CircuitsError, match=message):
        Result.load(tmp_path)


def test_notebooks_show_it_escaped(result: Result) -> None:
    page = result._repr_html_()
    assert "Zero ablation &lt;of&gt; heads" in page
    assert "&lt;b&gt;" in page
    assert "<b>'" not in page
    assert "a1.h0" in page
    many = replace(result, frame=pd.concat([heads_frame()] * 6))
    assert "first 20 of 24 rows" in many._repr_html_()


def test_provenance_of_a_run() -> None:
    model = word_model()
    prompts = make("ioi", model, 3, seed=4)
    about = provenance(
        model, "ablate", arguments={"head": 1}, command="circuits ablate", prompts=prompts
    )
    assert (about.model, about.device, about.dtype) == ("tiny", "cpu", "float32")
    assert (about.task, about.n_prompts, about.seed, about.prepend_bos) == ("ioi", 3, 4, True)
    assert about.checksum == checksum(model)
    assert about.prompts == prompts.checksum
    assert set(about.versions) == {"circuits", "torch", "numpy", "python"}
    bare = provenance(randomized(TINY), "ov", arguments={}, command="circuits ov")
    assert (bare.task, bare.prompts, bare.dtype) == (None, None, "float64")
    assert bare.checksum != about.checksum


@pytest.mark.slow
@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDCFF)])  # of an emoji; of a file name's bytes
def test_halves_of_characters_are_written_and_read_back(tmp_path: Path, half: str) -> None:
    """Tokenizers take them, so every writer does; the files are UTF-8 and say what was given."""
    prompt, model = f"A {half} BC", word_model()
    pytest.importorskip("pyarrow")
    made = {
        "lens": logit_lens(model, prompt),
        "attention": attention(model, prompt, component="a1.h0"),
        "why": why(model, "a1.h0", prompt),
        "ablate": ablate(model, prompt=prompt, component="a1.h0", parts=tmp_path / "parts"),
        "walkthrough": walkthrough(model, prompt, steps=1),
    }
    for name, result in made.items():
        back = Result.load(result.save(tmp_path / name))
        assert half in back.provenance.command
        assert half in str(back.provenance.arguments["prompt"])
        assert back.to_json() == result.to_json()
        assert f"\\u{ord(half):04x}" in (tmp_path / name / "result.json").read_text("utf-8")
        assert (tmp_path / name / "table.csv").read_text("utf-8")
        assert result._repr_html_().encode()
        assert save_page(page(result), tmp_path / f"{name}.html").read_text("utf-8")
        assert save_figure(result.plot(), tmp_path / f"{name}.svg").read_text("utf-8")
