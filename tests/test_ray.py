"""On a Ray cluster: the same bits, also when workers are killed, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import long_runs
import numpy as np
import pytest
import torch
from long_runs import bits, environment, long_run, write_words
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.circuit import graph
from circuits.components import all_heads
from circuits.errors import CircuitsError
from circuits.metrics import METRICS
from circuits.prompts import Prompts, make
from circuits.sweep import CircuitSweep, Kept, Plan, Scores, Source, Sweep, cell, plan, run
from circuits.sweep.ray_engine import TRIES, workers
from circuits.sweep.survey import How

pytestmark = pytest.mark.slow
LIMIT = 300.0  # seconds after which a test fails rather than hangs


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two workers on this machine, each in a process of its own."""
    ray = pytest.importorskip("ray")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init("local", num_cpus=2, **options)
    yield ray
    ray.shutdown()
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return load("sort-abc")


@pytest.fixture(scope="module")
def planned(model: HookedGPT2) -> Plan:
    found = plan(model, sweep(model), memory="1M")
    assert len(found.tasks) > 10
    return found


def sweep(model: HookedGPT2, score: Callable[..., Tensor] | None = None) -> Sweep:
    prompts = make("sorting", model, 50)
    cells = ((), *map(cell, all_heads(model.cfg)), cell("m1"))
    metric = METRICS["logit_diff"]
    metric = metric if score is None else replace(metric, score=score)
    assert prompts.corrupted is not None
    return Sweep(prompts, metric, cells, Source("resample", prompts.corrupted, prompts.mask))


def check_same(found: Scores, expected: Scores) -> None:
    assert np.array_equal(found.values, expected.values)  # to the last bit
    assert np.array_equal(found.changed, expected.changed)


def pids(ray: Any, execute: Any) -> list[int]:
    """The processes of the workers."""
    actors = execute.__self__.workers
    return ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in actors])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def started_with(variable: str) -> list[int]:
    """The processes with this variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


# Before the cluster of the other tests is there: two at once are much for a small machine.
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at the processes in /proc")
@pytest.mark.parametrize("what", ["nothing", "a worker is killed", "interrupt"])
def test_a_cluster_that_was_started_is_stopped(tmp_path: Path, what: str) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    words, folder = write_words(tmp_path / "words.csv", 3_030), tmp_path / "run"
    mark = f"CIRCUITS_TEST={folder}"
    process = subprocess.Popen(
        [sys.executable, long_runs.__file__, str(words), str(folder), "--ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | dict([mark.split("=")]),
        start_new_session=True,
    )
    if what != "nothing":
        wait_until(lambda: len(list(folder.glob("part-*"))) > 2 or process.poll() is not None)
        started = started_with(mark)
        assert len(started) > 3  # a cluster is several processes
    if what == "interrupt":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    if what == "a worker is killed":
        command = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started}
        os.kill(next(pid for pid in started if b"ray::Worker" in command[pid]), signal.SIGKILL)
    out, err = process.communicate(timeout=LIMIT)
    wait_until(lambda: not started_with(mark))
    if what == "interrupt":
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert 2 < len(list(folder.glob("part-*.parquet"))) < 31
    else:
        assert process.returncode == 0, err
        assert out == bits(long_run(words, How()))  # and nothing that Ray says
        assert ("A worker died" in err) == (what == "a worker is killed")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_no_cluster_is(model: HookedGPT2, address: str) -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(CircuitsError, match=f"no Ray cluster answers at {address}: .*refused"),
        workers(model, address),
    ):
        pass


def test_same_bits_as_here(cluster: Any, model: HookedGPT2, planned: Plan) -> None:
    before = checksum(model)
    expected = run(model, planned)
    calls: list[tuple[int, int]] = []
    with workers(model) as execute:
        check_same(execute(planned, progress=lambda *done: calls.append(done)), expected)
        at_work = pids(cluster, execute)
        smaller = plan(model, sweep(model), memory="300K")
        check_same(execute(smaller), run(model, smaller))
        assert pids(cluster, execute) == at_work  # and each has loaded the model once
    assert len(set(at_work)) == 2
    assert os.getpid() not in at_work
    assert len(calls) == len(planned.tasks)
    assert calls[-1][0] == calls[-1][1]
    assert checksum(model) == before
    wait_until(lambda: all(map(is_gone, at_work)))
    assert cluster.is_initialized()  # it was there before, and is left alone


def test_circuits_alone_are_the_same_on_a_cluster(cluster: Any, model: HookedGPT2) -> None:
    prompts, whole = make("sorting", model, 20), graph(model.cfg)
    assert prompts.corrupted is not None
    rng = np.random.default_rng(0)
    masks = [whole.exists & (rng.random(whole.exists.shape) < share) for share in (0.2, 0.5, 0.8)]
    cells = ((), *((Kept.only(whole, mask, f"random {i}"),) for i, mask in enumerate(masks)))
    source = Source("resample", prompts.corrupted, prompts.mask)
    asked = CircuitSweep(prompts, METRICS["logit_diff"], cells, source)
    work = plan(model, asked, memory="2M")
    assert len(work.tasks) > 3
    with workers(model) as execute:
        check_same(execute(work), run(model, work))


@pytest.mark.parametrize("n_killed", [1, 2])
def test_a_killed_workers_tasks_are_done_again(
    cluster: Any, model: HookedGPT2, planned: Plan, n_killed: int
) -> None:
    calls = 0
    with workers(model) as execute:
        execute(planned)
        at_work = pids(cluster, execute)

        def kill(done: int, total: int) -> None:
            nonlocal calls
            calls += 1
            if calls == 5:
                for pid in at_work[:n_killed]:
                    os.kill(pid, signal.SIGKILL)

        check_same(execute(planned, progress=kill), run(model, planned))
        assert calls == len(planned.tasks)  # nothing lost, nothing twice
        assert len(set(pids(cluster, execute)) & set(at_work)) == 2 - n_killed


def test_a_task_that_kills_its_workers_is_given_up(cluster: Any, model: HookedGPT2) -> None:
    def kill(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return logits

    deadly = plan(model, sweep(model, kill))
    with (
        workers(model) as execute,
        pytest.raises(CircuitsError, match=f"was tried on {TRIES} workers, and all of them died"),
    ):
        execute(deadly)


def test_what_a_worker_says_is_heard(cluster: Any, model: HookedGPT2) -> None:
    def refuse(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
        raise CircuitsError("these logits are not for me")

    with workers(model) as execute:
        with pytest.raises(CircuitsError) as caught:
            execute(plan(model, sweep(model, refuse)))
        good = plan(model, sweep(model))
        check_same(execute(good), run(model, good))
    assert str(caught.value) == "these logits are not for me"


def test_an_interrupt_stops_the_workers(cluster: Any, model: HookedGPT2, planned: Plan) -> None:
    at_work: list[int] = []

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        with workers(model) as execute:
            execute(planned)
            at_work.extend(pids(cluster, execute))
            execute(planned, progress=interrupt)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(at_work) == 2
    wait_until(lambda: all(map(is_gone, at_work)))


def test_a_survey_is_the_same(cluster: Any, tmp_path: Path) -> None:
    words = write_words(tmp_path / "words.csv", 230)
    assert bits(long_run(words, How(engine="ray"))) == bits(long_run(words, How()))


def test_an_address_when_connected_already(cluster: Any, model: HookedGPT2) -> None:
    with (
        pytest.raises(CircuitsError, match=r"leave out '127.0.0.1:6379', or call ray.shutdown"),
        workers(model, "127.0.0.1:6379"),
    ):
        pass


def test_without_ray_it_says_how_to_get_it(
    model: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(CircuitsError, match=r'pip install "gpt2-circuits\[ray\]"'),
        workers(model),
    ):
        pass
