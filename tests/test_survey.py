"""A sweep in blocks is the sweep of the whole, whether it was interrupted or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from long_runs import BLOCK, bits, long_run, write_words
from numpy.testing import assert_allclose
from quick import only

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.components import all_heads
from circuits.errors import CircuitsError
from circuits.metrics import get_metric
from circuits.prompts import PromptFile, Prompts, from_file, make
from circuits.sweep import Source, Sweep, cell, plan, run
from circuits.sweep import survey as module
from circuits.sweep.survey import How, survey

N = 4 * BLOCK + 30


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return load("sort-abc")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "words.csv", N)


@pytest.fixture(scope="module")
def expected(words: Path) -> str:
    """What a run gives that nobody disturbs, and that keeps nothing."""
    return bits(long_run(words, How()))


def zero(block: Prompts) -> Sweep:
    cells = ((), cell("a0.h0"), cell("m1", "a2"))
    return Sweep(block, get_metric("logit_diff"), cells, Source("zero", block.tokens, block.mask))


def test_blocks_are_the_sweep_of_the_whole(model: HookedGPT2, words: Path) -> None:
    found = long_run(words, How())
    whole = from_file(model, words)
    first = next(iter(PromptFile(model, words, BLOCK)))
    cells = ((), *map(cell, all_heads(model.cfg)))
    source = Source("mean", first.tokens, first.mask)
    sweep = Sweep(whole, get_metric("logit_diff"), cells, source)
    scores = run(model, plan(model, sweep))
    effects = scores.values - scores.values[0]
    assert found.n == N
    assert_allclose(found.value, scores.values.mean(1), rtol=1e-5)
    assert_allclose(found.effect, effects.mean(1), rtol=1e-5, atol=1e-6)
    stderr = effects.std(1, ddof=1) / np.sqrt(N)
    assert_allclose(found.interval()["stderr"], stderr, rtol=1e-4)
    assert found.changed.tolist() == scores.changed.tolist()


def test_parts_change_nothing(words: Path, tmp_path: Path, expected: str) -> None:
    pytest.importorskip("pyarrow")
    before = checksum(load("sort-abc"))
    assert bits(long_run(words, How(parts=tmp_path / "run"))) == expected
    assert len(list((tmp_path / "run").glob("part-*.parquet"))) == 5
    # A run that is complete answers again.
    assert bits(long_run(words, How(parts=tmp_path / "run", resume=True))) == expected
    assert checksum(load("sort-abc")) == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("n_done", only([2], [0, 2, 4]))
def test_interrupted_is_as_not_interrupted(
    words: Path,
    tmp_path: Path,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    stop: type[BaseException],
    n_done: int,
) -> None:
    pytest.importorskip("pyarrow")
    blocks = 0

    def interrupted(*args: object, **options: object) -> object:
        nonlocal blocks
        if blocks == n_done:
            raise stop
        blocks += 1
        return run(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "run", interrupted)
        with pytest.raises(stop):
            long_run(words, How(parts=tmp_path / "run"))
    assert len(list((tmp_path / "run").glob("part-*"))) == n_done
    assert bits(long_run(words, How(parts=tmp_path / "run", resume=True))) == expected


def test_a_later_line_may_be_mended_and_no_earlier_one(
    words: Path, tmp_path: Path, expected: str
) -> None:
    pytest.importorskip("pyarrow")
    good = words.read_text().splitlines(keepends=True)
    path = tmp_path / "words.csv"
    how = How(parts=tmp_path / "run")
    bad_line = 3 * BLOCK + 7
    path.write_text("".join([*good[: bad_line - 1], "A,B\n", *good[bad_line:]]))
    with pytest.raises(CircuitsError, match=f"line {bad_line} of words.csv does not have 3 fields"):
        long_run(path, how)
    path.write_text("".join([*good[:150], "ABCABC,A,B\n", *good[151:]]))
    again = How(parts=tmp_path / "run", resume=True)
    with pytest.raises(CircuitsError, match=r"first 301 lines has changed"):
        long_run(path, again)
    path.write_text("".join([good[0], "CCCCCC,C,B\n", *good[2:]]))
    with pytest.raises(CircuitsError, match=r"another question: first_block was"):
        long_run(path, again)
    path.write_text("".join(good))
    assert bits(long_run(path, again)) == expected
    path.write_text("".join([*good, good[-1]]))
    with pytest.raises(CircuitsError, match=r"words.csv has grown"):
        long_run(path, again)


def test_a_complete_run_takes_no_more_prompts(model: HookedGPT2, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    blocks = [make("sorting", model, 8, seed) for seed in range(3)]
    survey(model, blocks[:2], zero, How(parts=tmp_path / "run"))
    again = How(parts=tmp_path / "run", resume=True)
    assert survey(model, blocks[:2], zero, again).n == 16
    with pytest.raises(CircuitsError, match="holds a complete run of 16 prompts"):
        survey(model, blocks, zero, again)
    with pytest.raises(CircuitsError, match="first 16 prompts are not those"):
        survey(model, [blocks[0], blocks[2]], zero, again)


def test_another_question_is_refused(model: HookedGPT2, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    blocks = [make("sorting", model, 8)]
    survey(model, blocks, zero, How(parts=tmp_path / "run"), question={"analysis": "one"})
    again = How(parts=tmp_path / "run", resume=True)

    def other_metric(block: Prompts) -> Sweep:
        return Sweep(block, get_metric("prob"), zero(block).cells, zero(block).source)

    def other_source(block: Prompts) -> Sweep:
        assert block.corrupted is not None
        source = Source("resample", block.corrupted, block.mask)
        return Sweep(block, get_metric("logit_diff"), zero(block).cells, source)

    def other_direction(block: Prompts) -> Sweep:
        sweep = zero(block)
        return Sweep(block, sweep.metric, sweep.cells, sweep.source, clean=block.corrupted)

    with pytest.raises(CircuitsError, match="analysis was 'one', now 'two'"):
        survey(model, blocks, zero, again, question={"analysis": "two"})
    for make_sweep, what in [
        (other_metric, "metric was 'logit_diff', now 'prob'"),
        (other_source, "method was 'zero', now 'resample'"),
        (other_direction, "first_block was"),
    ]:
        with pytest.raises(CircuitsError, match=what):
            survey(model, blocks, make_sweep, again, question={"analysis": "one"})
    with torch.no_grad():
        other = load("sort-abc")
        other.blocks[0].mlp.b_out += 1
    with pytest.raises(CircuitsError, match="model was"):
        survey(other, blocks, zero, again, question={"analysis": "one"})


def test_progress_ends_where_it_should(model: HookedGPT2, words: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    long_run(words, How(progress=note, parts=tmp_path / "run"))
    total = words.stat().st_size
    assert {of for _, of in seen} == {total}
    done = [value for value, _ in seen]
    assert done == sorted(done)
    assert done[-1] == total
    assert len(set(done)) >= 5
    seen.clear()
    long_run(words, How(progress=note, parts=tmp_path / "run", resume=True))
    assert seen == [(total, total)]
    seen.clear()
    survey(
        model, [make("sorting", model, 8), make("sorting", model, 4, 1)], zero, How(progress=note)
    )
    assert seen[-1] == (36, 36)
    assert (24, 36) in seen


def test_what_cannot_be_surveyed(model: HookedGPT2) -> None:
    blocks = [make("sorting", model, 4), make("sorting", model, 4, 1)]

    def no_base(block: Prompts) -> Sweep:
        return Sweep(block, get_metric("loss"), (cell("m0"),), zero(block).source)

    def changing(block: Prompts) -> Sweep:
        cells = ((), cell("m0" if block is blocks[0] else "m1"))
        return Sweep(block, get_metric("loss"), cells, zero(block).source)

    with pytest.raises(CircuitsError, match="no prompts to ask"):
        survey(model, [], zero)
    with pytest.raises(CircuitsError, match="lacks the base run"):
        survey(model, blocks, no_base)
    with pytest.raises(CircuitsError, match="cells differ between blocks"):
        survey(model, blocks, changing)
    with pytest.raises(CircuitsError, match=r"no engine 'rai'; choose local, ray, .*did you mean"):
        How(engine="rai")
    with pytest.raises(CircuitsError, match="give the folder as parts"):
        How(resume=True)
