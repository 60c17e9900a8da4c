"""Figures: what is drawn, that any token can be drawn, and that files are whole and stable."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from quick import only

from circuits.errors import CircuitsError
from circuits.figures import FORMATS, bars, heatmap, heatmaps, lens_grid, save_figure, visible
from circuits.figures.charts import scatter

VALUES = np.array([[0.5, -2.0, 0.0], [1.25, np.nan, 0.1]])


def labels(ticks: list[object]) -> list[str]:
    return [tick.get_text() for tick in ticks]  # type: ignore[attr-defined]


def test_heatmap_is_centered_at_zero() -> None:
    figure = heatmap(VALUES, title="Effects", unit="logits", axes=("layer", "position"))
    axes, bar = figure.axes
    image = axes.images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-2, 2)
    assert image.cmap(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.02)
    red, _, blue = image.cmap(1.0)[:3]
    assert blue > red
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("layer", "position")
    assert bar.get_ylabel() == "logits"
    assert labels(axes.get_yticklabels()) == ["0", "1"]
    assert [text.get_text() for text in axes.texts] == ["0.5", "−2.0", "0", "1.2", "0.1"]


def test_heatmap_shows_the_sides_that_occur() -> None:
    for values, ends in ((VALUES, (-2, 2)), (abs(VALUES), (0, 2)), (-abs(VALUES), (-2, 0))):
        bar = heatmap(values).axes[1]
        assert bar.get_ylim() == ends
    assert heatmap(np.zeros((2, 2))).axes[1].get_ylim() == (0, 1)


@pytest.mark.parametrize(
    ("largest", "number", "note"),
    [
        (0.0091, "9.1", "numbers in 10⁻³ nats"),
        (91_000, "91", "numbers in 10³ nats"),
        (91, "91", ""),
    ],
)
def test_small_and_large_numbers_stay_short(largest: float, number: str, note: str) -> None:
    figure = heatmap(np.array([[0.0, largest]]), unit="nats")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", number]
    assert figure.get_supxlabel() == note


def test_a_long_title_takes_several_lines() -> None:
    title = "What restores it? Patching the residual stream before each layer"
    shown = heatmap(np.ones((2, 3)), title=title).axes[0].get_title(loc="left")
    assert shown.replace("\n", " ") == title
    assert max(map(len, shown.split("\n"))) < 40


def test_names_of_points_do_not_cover_each_other() -> None:
    x = np.array([1.0, 1.01, 0.0, 0.5])
    figure = scatter(x, x, labels=["a0.h0", "a0.h1", "a0.h2", "a0.h3"], axes=("x", "y"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["a0.h1", "a0.h3", "a0.h2"]


def test_heatmap_hatches_what_may_be_nothing() -> None:
    low, high = VALUES - 0.2, VALUES + 0.2
    figure = heatmap(VALUES, interval=(low, high), rows=["a", "b"], columns=["x", "y", "z"])
    axes = figure.axes[0]
    hatched = {
        (round(patch.get_y() + 0.5), round(patch.get_x() + 0.5))
        for patch in axes.patches
        if isinstance(patch, Rectangle) and patch.get_hatch()
    }
    assert hatched == {(0, 2), (1, 2)}
    assert figure.get_supxlabel() == "hatched: the interval contains 0 · gray: no value"
    assert labels(axes.get_xticklabels()) == ["x", "y", "z"]
    sure = heatmap(VALUES[:, :1], interval=(low[:, :1], high[:, :1]))
    assert not sure.axes[0].patches
    assert sure.get_supxlabel() == ""


def test_large_heatmaps_have_no_numbers_and_few_labels() -> None:
    axes = heatmap(np.ones((48, 25))).axes[0]
    assert not axes.texts
    assert labels(axes.get_yticklabels()) == [str(i) for i in range(0, 48, 2)]


def test_a_heatmap_of_zeros_is_white() -> None:
    image = heatmap(np.zeros((2, 2))).axes[0].images[0]
    assert image.cmap(image.norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.02)


@pytest.mark.parametrize(
    ("values", "interval", "message"),
    [
        (np.ones(3), None, "grids of one shape"),
        (np.ones((2, 2)), (np.ones((2, 2)), np.ones((2, 3))), "grids of one shape"),
        (np.full((2, 2), np.nan), None, "these are all NaN"),
    ],
)
def test_heatmaps_that_cannot_be_drawn(values: object, interval: object, message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        heatmap(values, interval=interval)  # type: ignore[arg-type]


def test_bars_show_values_and_intervals() -> None:
    values = np.array([1.5, -0.5, 0.2])
    low, high = np.array([1.0, -0.7, np.nan]), np.array([2.0, -0.3, np.nan])
    axes = bars(["a5.h3", "$m_7$", "x"], values, interval=(low, high), unit="nats").axes[0]
    assert [patch.get_width() for patch in axes.patches] == values.tolist()
    assert labels(axes.get_yticklabels()) == ["a5.h3", "$m_7$", "x"]
    (spans,) = axes.collections
    assert [path.vertices[:, 0].tolist() for path in spans.get_paths()] == [[1, 2], [-0.7, -0.3]]
    assert axes.yaxis_inverted()
    colors = {patch.get_facecolor() for patch in axes.patches}
    assert len(colors) == 2


@pytest.mark.parametrize("n", [0, 61])
def test_bars_that_cannot_be_read(n: int) -> None:
    with pytest.raises(CircuitsError, match=r"1 to 60 values with a label each"):
        bars(["x"] * n, np.ones(n))
    with pytest.raises(CircuitsError, match="2 values and 1 labels"):
        bars(["x"], np.ones(2))


def test_lens_grid_reads_from_the_bottom() -> None:
    tokens = [[" to", "\n"], [" Mary", "<|endoftext|>"]]
    probabilities = np.array([[0.1, 0.2], [0.9, 0.4]])
    figure = lens_grid(tokens, probabilities, rows=["embed", "m0"], columns=["When", " Mary"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["·to", "\\n", "·Mary", "<|endofte…"]
    assert axes.texts[2].get_position() == (0, 1)
    assert not axes.yaxis_inverted()
    assert labels(axes.get_xticklabels()) == ["When", "·Mary"]
    assert axes.texts[2].get_color() == "white" != axes.texts[0].get_color()
    assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0, 1)


@pytest.mark.parametrize(
    ("tokens", "n_columns", "message"),
    [
        ([["a"]], 2, "2 column labels need as many tokens"),
        ([["a", "b"], ["c"]], 2, "need as many tokens"),
        ([["a"] * 81] * 2, 81, "choose at most 80"),
    ],
)
def test_lenses_that_cannot_be_drawn(tokens: list[list[str]], n_columns: int, message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        lens_grid(tokens, np.ones((2, n_columns)), rows=["a", "b"], columns=["x"] * n_columns)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("", "∅"),
        ("  ", "··"),
        ("\t\r\n", "\\t\\r\\n"),
        ("你", "U+4F60"),
        ("\x00", "U+0000"),
        ("\u202e", "U+202E"),
        ("e\u0301", "é"),
        ("\ud800", "U+D800"),
        ("internationalization", "internation…"),
    ],
)
def test_what_a_token_looks_like(token: str, shown: str) -> None:
    assert visible(token) == shown


@pytest.mark.slow
@hypothesis_settings(max_examples=10)
@given(st.lists(st.text(max_size=14), min_size=4, max_size=4), st.text(max_size=30))
def test_any_text_can_be_drawn(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], title: str
) -> None:
    """A character without a glyph would be a warning, and warnings are errors here."""
    tokens, prompt = [texts[:2], ["שלום", "مرحبا"]], texts[2:]
    figure = lens_grid(tokens, np.eye(2), rows=["$a$", "😀"], columns=prompt, title=title)
    path = tmp_path_factory.mktemp("figures") / "lens.png"
    assert save_figure(figure, path).stat().st_size > 1000


@pytest.mark.parametrize("suffix", only([".svg"], FORMATS))
def test_files_are_stable_and_of_their_kind(suffix: str, tmp_path: Path) -> None:
    def draw() -> Figure:
        return heatmap(VALUES, interval=(VALUES - 1, VALUES + 1), title="Effects")

    one = save_figure(draw(), tmp_path / f"one{suffix}").read_bytes()
    other = save_figure(draw(), str(tmp_path / f"other{suffix.upper()}")).read_bytes()
    assert one == other
    assert one.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"one{suffix}",
        f"other{suffix.upper()}",
    ]


def test_figures_that_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = bars(["x"], np.ones(1))
    with pytest.raises(CircuitsError, match=r"a\.jpeg is no kind of .* \.png, \.svg, \.pdf"):
        save_figure(figure, tmp_path / "a.jpeg")
    with pytest.raises(CircuitsError, match="cannot be written: No such file"):
        save_figure(figure, tmp_path / "none" / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(CircuitsError, match="cannot be written: Not a directory"):
        save_figure(figure, tmp_path / "file" / "a.png")
    (tmp_path / "file").unlink()
    kept = save_figure(figure, tmp_path / "kept.png")
    before = kept.read_bytes()

    def full(self: Figure, path: str, **options: object) -> None:
        Path(path).write_bytes(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(CircuitsError, match=r"kept\.png cannot be written: No space left"):
        save_figure(figure, kept)
    assert kept.read_bytes() == before
    assert list(tmp_path.iterdir()) == [kept]


def test_the_file_has_the_users_own_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    saved = save_figure(bars(["x"], np.ones(1)), tmp_path / "a.svg")
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.slow
def test_pyplot_is_not_used() -> None:
    import subprocess
    import sys

    code = "import sys, circuits.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_heatmaps_may_have_rows_and_columns_of_their_own() -> None:
    small, wide = np.array([[1.0, -1.0]]), np.ones((2, 5))
    figure = heatmaps(
        {"a": (small, None, "logits"), "b": (wide, None, "nats")},
        rows={"a": ["0"], "b": ["0", "1"]},
        columns={"a": ["S2", "END"], "b": list("vwxyz")},
    )
    labels = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in figure.axes[::2]]
    assert labels == [["S2", "END"], list("vwxyz")]
    sizes = [axes.get_position().width for axes in figure.axes[::2]]
    assert sizes[1] > sizes[0]


def test_heatmaps_of_one_unit_have_one_scale() -> None:
    sizes = {"a": 1, "b": 2, "c": 4, "d": 3}
    grids = {name: np.array([[size, -size / 2]]) for name, size in sizes.items()}
    units = dict.fromkeys("abc", "logits") | {"d": "nats"}
    figure = heatmaps({name: (grid, None, units[name]) for name, grid in grids.items()})
    scales = [axes.images[0].get_clim() for axes in figure.axes if axes.images]
    assert scales == [(-4, 4)] * 3 + [(-3, 3)]
    tops = [axes.get_position().y1 for axes in figure.axes if axes.images]
    assert tops[3] < tops[2]  # four in a row would be too many


def test_points_in_a_plane_have_no_diagonal() -> None:
    x = np.array([1.0, -2.0])
    lines = [
        len(scatter(x, -x, labels=["a", "b"], axes=("x", "y"), diagonal=diagonal).axes[0].lines)
        for diagonal in (False, True)
    ]
    assert lines == [2, 3]  # both axes, and the diagonal


def test_labels_that_do_not_fit_side_by_side_are_turned() -> None:
    for label, angle in {"a1.h0": 0, "a1.h0<k>@END": 90}.items():
        (axes, _) = heatmap(np.ones((2, 9)), columns=[label] * 9).axes
        assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {angle}
