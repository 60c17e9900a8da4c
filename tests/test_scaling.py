"""How cost grows: exponents that are known come out, and nothing that is measured gets lost.

Times here are made up, but in one rehearsal, whose times nobody looks at.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.config import GPT2_SIZES
from circuits.memory import peak_bytes
from experiments.benchmarks import __main__ as command
from experiments.benchmarks.driver import Effort
from experiments.benchmarks.limits import Count
from experiments.benchmarks.scaling import report, runs
from experiments.benchmarks.scaling.command import Asked, scaling
from experiments.benchmarks.scaling.counting import operations
from experiments.benchmarks.scaling.fits import fit, reaches
from experiments.benchmarks.scaling.lines import lines
from experiments.benchmarks.scaling.plan import n_edges
from experiments.benchmarks.scaling.points import AXES, SIZES, Point, points
from experiments.benchmarks.scaling.runs import Results, Row
from experiments.benchmarks.scaling.tasks import Measured, random_model, spread

EFFORT = Effort(threads=1, clock="processor")
MACHINE = {"cpu": "a processor", "cores": 2, "threads": 1, "system": "Linux", "torch": "2"}
SPEED = {dtype: {"flops": 1e11, "by": "addmm"} for dtype in ("float32", "bfloat16")}
CLUSTER = {
    "tasks": 16.0,
    "cluster_seconds": 5.0,
    "first_seconds": 3.0,
    "here_seconds": 4.0,
    "here_processor": 4.0,
    "there_processor": 4.4,
    "worker_bytes": 8e8,
    "model_bytes": 5e8,
    "plan_bytes": 4e4,
    "scores_bytes": 600.0,
}


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_a_known_exponent_comes_out(exponent: float) -> None:
    sizes = [64, 128, 256, 512, 1024]
    exact = fit(sizes, [3e-3 * size**exponent for size in sizes])
    assert exact is not None
    assert exact.exponent == pytest.approx(exponent)
    assert exact.last == pytest.approx(exponent)
    assert exact.factor == pytest.approx(3e-3)
    assert exact.at(2048) == pytest.approx(3e-3 * 2048**exponent)
    assert exact.stderr == pytest.approx(0, abs=1e-9)
    assert exact.off == pytest.approx(1)


def test_the_error_is_that_of_repeated_draws() -> None:
    draw = np.random.default_rng(0)
    sizes = np.geomspace(10, 1e4, 6)
    fits = [fit(sizes, sizes**1.5 * np.exp(0.1 * draw.standard_normal(6))) for _ in range(400)]
    slopes = np.array([line.exponent for line in fits if line])
    errors = np.array([line.stderr for line in fits if line and line.stderr])
    assert len(slopes) == len(errors) == 400
    assert slopes.mean() == pytest.approx(1.5, abs=0.01)
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(slopes.std(), rel=0.1)


def test_too_little_gives_no_line_and_two_points_no_error() -> None:
    assert fit([5], [1]) is None
    assert fit([5, 5], [1, 2]) is None
    assert fit([1, 2], [0, 1]) is None
    two = fit([1, 2], [1, 4])
    assert two is not None
    assert (two.exponent, two.stderr) == (pytest.approx(2), None)


def test_a_line_is_carried_on_from_its_two_largest_sizes() -> None:
    constant = [10 + size**2 for size in (1, 100, 200)]  # the smallest would mislead
    at = reaches([1, 100, 200], constant, 10 + 400**2)
    assert at == pytest.approx(400, rel=0.01)
    assert reaches([1, 2, 3], [5, 50, 500], 40) == 2
    assert reaches([1, 2, 4], [7, 7, 7], 100) is None
    assert reaches([1, 2, 4], [7, 7, 7.001], 100) is None  # beyond any size


def test_every_point_has_its_place() -> None:
    some = points()
    assert {point.axis for point in some} == set(AXES)
    assert len({point.key for point in some}) == len(some)
    for series in {(point.axis, point.series) for point in some}:
        sizes = [point.x for point in some if (point.axis, point.series) == series]
        assert sizes == sorted(set(sizes))
    assert {point.model for point in some if point.axis == "model"} == set(GPT2_SIZES)
    parameters = Point("model", "", "", "gpt2-xl").x
    assert parameters == 1_557_611_200


def test_all_cells_cost_what_the_limit_counts() -> None:
    point = Point("cells", "heads", "ablate_heads", batch=2, n=144)
    count = Count(point.shape, 2, 16)
    assert operations(point) == count.ablate_heads()
    none, half = (operations(replace(point, n=n)) or 0 for n in (0, 72))
    assert none == 2 * count.body()
    assert half - none == pytest.approx((count.ablate_heads() - none) / 2, abs=1)
    every = replace(point, task="patch_residual", n=12 * 16)
    assert operations(every) == count.patch_residual()
    assert operations(Point("prompts", "", "ablate_file", "sort-abc")) is None


def test_some_cells_are_spread_evenly() -> None:
    cells = tuple((i,) for i in range(144))
    assert spread(cells, 144) == cells
    assert [i for (i,) in spread(cells, 4)] == [18, 54, 90, 126]


def test_a_model_that_does_not_fit_is_skipped_with_a_word() -> None:
    large = Point("model", "forward", "forward", "gpt2-xl")
    half = replace(large, dtype="bfloat16")
    word = runs.unfit(large, 7 * 10**9)
    assert word == (
        "skipped: it needs 7.8 GB (weights 6.2, work 1.1, program 0.5), and 7.0 GB are free"
    )
    assert runs.unfit(large, 8 * 10**9) == ""
    assert runs.unfit(half, 7 * 10**9) == ""
    assert runs.unfit(replace(large, model="mini"), 1) == ""
    assert runs.available() > 0


def test_weights_are_never_there_twice() -> None:
    cfg = SIZES["tiny-4"]
    made = random_model(cfg, torch.bfloat16)
    weights = sum(w.numel() for w in made.parameters()) * 2
    largest = max(w.numel() for w in made.parameters()) * 4
    empty = 2 * weights  # in float32, of the model without numbers that they are put into
    peak = peak_bytes(lambda: random_model(cfg, torch.bfloat16))
    assert made.W_E.dtype == torch.bfloat16
    assert peak <= empty + weights + 2 * largest < empty + 3 * weights
    assert made.blocks[0].ln1.w.float().mean().item() == pytest.approx(1, abs=0.2)


def made_up(point: Point, code: str = "now") -> Row:
    """Times as at 1e11 operations a second, or ten milliseconds a prompt."""
    count = operations(point)
    took = count / 1e11 if count else 0.01 * point.batch
    more = CLUSTER if point.axis == "workers" else {}
    peak = 400_000_000 + (4 * point.x if point.axis == "model" else 1000 * point.length**2)
    return Row(point, Measured((took, took, took), peak, 400_000_000, more), "", code)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The points that are measured; nothing runs, and the machine is always the same."""
    some: list[Point] = []

    def alone(point: Point, effort: Effort, code: str) -> Row:
        some.append(point)
        return made_up(point, code)

    monkeypatch.setattr(runs, "alone", alone)
    monkeypatch.setattr(runs, "machine", lambda threads: MACHINE | {"threads": threads})
    monkeypatch.setattr(runs, "speed", lambda size, effort, dtype: SPEED[dtype])
    monkeypatch.setattr(runs, "code_now", lambda: "now")
    monkeypatch.setattr(runs, "available", lambda: 10**12)
    return some


def test_what_is_known_is_not_measured_again(
    asked: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, few = tmp_path / "scaling.json", points(quick=True)[:4]

    def ask(**options: bool) -> int:
        asked.clear()
        runs.measure(few, path, EFFORT, say=lambda text: None, **options)
        return len(asked)

    assert (ask(), ask(), ask(again=True)) == (4, 0, 4)
    monkeypatch.setattr(runs, "code_now", lambda: "changed")
    assert (ask(), ask()) == (4, 0)
    monkeypatch.setattr(runs, "machine", lambda threads: MACHINE | {"cpu": "another"})
    assert ask() == 4
    results = runs.read(path)
    assert results is not None
    assert [row.point for row in results.rows] == few
    assert results.rows[0] == made_up(few[0], "changed")


@pytest.mark.slow
def test_an_interruption_keeps_what_was_measured(
    asked: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, alone = points(quick=True), runs.alone

    def interrupted(point: Point, effort: Effort, code: str) -> Row:
        if len(asked) == 3:
            raise KeyboardInterrupt
        return alone(point, effort, code)

    monkeypatch.setattr(runs, "alone", interrupted)
    said: list[str] = []
    assert not scaling(tmp_path, Asked(quick=True), said.append)
    assert said[-2:] == [
        "interrupted; the same command goes on from here",
        f"written to {tmp_path}",
    ]
    assert asked == every[:3]
    assert {path.name for path in tmp_path.iterdir()} == {
        "scaling.json",
        "scaling.md",
        "scaling.svg",
    }
    monkeypatch.setattr(runs, "alone", alone)
    assert scaling(tmp_path, Asked(quick=True), said.append)
    assert asked == every
    assert sum(text.endswith(": known") for text in said) == 3


def test_after_a_point_that_took_too_long_larger_ones_are_skipped(
    asked: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [point for point in points() if point.axis == "context"]

    def slow(point: Point, effort: Effort, code: str) -> Row:
        word = f"stopped after {point.limit} s" if point.length == 256 else ""
        return Row(point, None, word, code) if word else made_up(point, code)

    monkeypatch.setattr(runs, "alone", slow)
    results = runs.measure(some, tmp_path / "scaling.json", EFFORT, say=lambda text: None)
    words = [row.word for row in results.rows if row.point.series == "forward"]
    assert words[:3] == ["", "", "stopped after 300 s"]
    assert words[3:] == ["skipped: 256 were stopped after 300 s already"] * 2


@pytest.mark.slow
def test_a_page_says_the_exponents_and_plans(asked: list[Point], tmp_path: Path) -> None:
    path = tmp_path / "scaling.json"
    results = runs.measure(points(), path, EFFORT, say=lambda text: None)
    for line in lines(results):
        if line.counted and line.time:
            assert line.time.exponent == pytest.approx(line.counted.exponent)
    text = report.page(results)
    assert "| context | all sites cached | 64 – 1,024 | 1.02 ± 0.01 |" in text
    assert "| 2.00 ± 0.00 |" in text  # the memory that was made up
    assert re.search("prompts[*][*]: the time of “[^”]+”, at 360,000 prompts[.]", text)
    assert "2,235,025 edges" in text
    assert "Not measured" not in text
    assert scaling(tmp_path, Asked(only_report=True), lambda text: None)
    assert (tmp_path / "scaling.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "scaling.svg").stat().st_size > 10_000
    assert runs.read(path) == results


def test_a_plan_says_what_it_lacks() -> None:
    row = made_up(points()[0])
    older = replace(made_up(points()[1]), code="before")
    text = report.page(Results("2026-01-01", MACHINE, SPEED, "processor", (row, older)))
    assert "Of another state of the code than the rest: 1 points." in text
    assert "Needs “edges, one by one, gpt2”, which is not measured yet." in text
    assert n_edges() == 2_235_025


@pytest.mark.slow
def test_a_failure_is_told(tmp_path: Path) -> None:
    wrong = Point("model", "forward", "no_such_task", "tiny-2")
    row = runs.alone(wrong, EFFORT, "now")
    assert row.measured is None
    assert row.word == "failed: KeyError: 'no_such_task' (status 1)"
    late = runs.alone(replace(wrong, limit=0), EFFORT, "now")
    assert late.word == "stopped after 0 s"


@pytest.mark.slow
def test_a_rehearsal_measures_every_axis_but_workers(tmp_path: Path) -> None:
    axes = [axis for axis in AXES if axis != "workers"]
    told = ["--scaling", "--quick", "--out", str(tmp_path), *(f"--axis={axis}" for axis in axes)]
    with pytest.raises(SystemExit) as ended:
        command.main(told)
    assert ended.value.code == 0
    results = runs.read(tmp_path / "scaling.json")
    assert results is not None
    assert [row.word for row in results.rows] == [""] * 8
    for row in results.rows:
        assert row.measured is not None
        assert row.measured.peak > row.measured.before > 10**8
        assert all(took > 0 for took in row.measured.seconds)
    assert "| all sites cached | 64 |" in (tmp_path / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_rehearsal_on_a_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SystemExit) as ended:
        command.main(["--scaling", "--quick", "--out", str(tmp_path), "--axis=workers"])
    assert ended.value.code == 0
    results = runs.read(tmp_path / "scaling.json")
    assert results is not None
    for row in results.rows:
        assert row.measured is not None, row.word
        assert row.measured.more["tasks"] > 10
        assert row.measured.more["worker_bytes"] > row.measured.more["model_bytes"]


@pytest.mark.parametrize(
    ("told", "word"),
    [
        (["--scaling", "--axis", "width"], "choose from"),
        (["--axis", "model"], "--axis and --again are for --scaling"),
        (["--scaling", "--report", "--out", "nowhere"], "nowhere has no scaling.json"),
    ],
)
def test_what_cannot_be_done_is_refused(
    told: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(told)
    assert ended.value.code == 2
    assert word in capsys.readouterr().err
