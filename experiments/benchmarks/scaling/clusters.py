"""Several processes of one thread each: what a task costs there beyond what it costs here."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from circuits.metrics import get_metric
from circuits.prompts import make
from circuits.sweep import Executor, Plan, Source, Sweep, plan, run
from circuits.sweep.ray_engine import workers
from experiments.benchmarks.items import Given, Shape
from experiments.benchmarks.peers import ours
from experiments.benchmarks.scaling.points import Point

if TYPE_CHECKING:
    from circuits.architectures import HookedGPT2

SMALL = "1M"  # of memory, so that there are many tasks


def on_workers(
    model: HookedGPT2, point: Point, repeats: int
) -> tuple[tuple[float, ...], dict[str, float]]:
    """Seconds that pass for a sweep on `point.n` workers, and what else is known of it.

    Here and on the cluster in turn, so that whatever else the machine does meets both alike.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    torch.set_num_threads(1)
    planned = plan(model, sweep(model, point), memory=SMALL if point.model == "sort-abc" else None)
    began = time.perf_counter()
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init("local", num_cpus=point.n, **options)
    started = time.perf_counter() - began
    there, here = [], []
    try:
        with workers(model) as execute:
            first = spent(lambda: execute(planned))
            for _ in range(repeats):
                there.append(spent(lambda: execute(planned)))
                here.append(spent(lambda: run(model, planned)))
            worker = worker_bytes()
    finally:
        ray.shutdown()
    passed = tuple(wall for wall, _ in there)
    return passed, {
        "tasks": len(planned.tasks),
        "cluster_seconds": started,
        "first_seconds": first[0],
        "here_seconds": statistics.median(wall for wall, _ in here),
        "here_processor": statistics.median(processor for _, processor in here),
        "there_processor": statistics.median(processor for _, processor in there),
        "worker_bytes": worker,
    } | sent(model, planned)


def sweep(model: HookedGPT2, point: Point) -> Sweep:
    """Every head, set to zero; `sort-abc` has prompts of its own, the others random tokens."""
    if point.model == "sort-abc":
        prompts = make("sorting", model, point.batch)
    else:
        cfg = model.cfg
        shape = Shape(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_mlp, cfg.n_ctx, cfg.d_vocab)
        given = Given.draw(shape, point.batch, point.length)
        prompts = ours.about(torch.from_numpy(given.tokens), given)
    source = Source("zero", prompts.tokens, prompts.mask)
    return Sweep(prompts, get_metric("logit_diff"), ours.heads(model), source)


def sent(model: HookedGPT2, planned: Plan) -> dict[str, float]:
    """Bytes that go over: the model and the plan to each worker, a task's scores back."""
    from ray import cloudpickle

    scores = Executor(model, planned)(planned.tasks[0])
    things = {"model": model, "plan": planned, "scores": scores}
    return {f"{name}_bytes": len(cloudpickle.dumps(thing)) for name, thing in things.items()}


def spent(do: Callable[[], object]) -> tuple[float, float]:
    """Seconds that pass, and seconds of processors in this process and all below it."""
    wall, processor = time.perf_counter(), processor_seconds()
    do()
    return time.perf_counter() - wall, processor_seconds() - processor


def processor_seconds() -> float:
    """What this process and those that it started have used so far, as Linux counts it."""
    return sum(used for _, used in family().values())


def worker_bytes() -> int:
    """Memory of Ray's largest worker that no other process shares; 0 if there is none."""
    sizes = [0]
    for path in family():
        with suppress(OSError):
            if (path / "cmdline").read_bytes().startswith(b"ray::Worker"):
                status = (path / "status").read_text()
                sizes.append(int(status.split("RssAnon:")[1].split()[0]) * 1024)
    return max(sizes)


def family() -> dict[Path, tuple[int, float]]:
    """This process and all below it: their folders in /proc, parents and processor seconds."""
    known = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            ticks = int(fields[11]) + int(fields[12])
            known[path] = int(fields[1]), ticks / os.sysconf("SC_CLK_TCK")
    members, new = dict[Path, tuple[int, float]](), {Path("/proc") / str(os.getpid())}
    while new:
        members |= {path: known[path] for path in new if path in known}
        parents = {int(path.name) for path in new}
        new = {path for path, (parent, _) in known.items() if parent in parents} - set(members)
    return members
