"""One point in a process of its own: reads it as JSON, writes what was measured as JSON.

python -m experiments.benchmarks.scaling.tasks POINT EFFORT
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch

import circuits
from circuits.architectures import HookedGPT2
from circuits.checkpoints.assembling import assemble
from circuits.circuit import graph
from circuits.config import ModelConfig
from circuits.discovery.patching import patched
from circuits.metrics import get_metric
from circuits.result import Result
from circuits.sweep import Cell, Source, Sweep, cell, plan, run
from experiments.benchmarks.driver import Effort
from experiments.benchmarks.items import Given
from experiments.benchmarks.peers import ours
from experiments.benchmarks.scaling import clusters
from experiments.benchmarks.scaling.points import SIZES, TRAINED, Point
from experiments.benchmarks.worker import CLOCKS, measured, memory

WARM_UP = 5.0  # seconds; a first run that takes longer counts


@dataclass(frozen=True)
class Measured:
    """What one process measured.

    Attributes:
        seconds: of each run.
        peak: bytes of the whole process at its peak, weights and program included.
        before: bytes that it had before the task.
        more: other numbers, by name.
    """

    seconds: tuple[float, ...]
    peak: int
    before: int
    more: Mapping[str, float] = field(default_factory=dict)


def measure(point: Point, effort: Effort) -> Measured:
    """Make the model, and do the task: first for its memory, then for its time."""
    model = made(point)
    if point.axis == "workers":
        seconds, more = clusters.on_workers(model, point, effort.repeats)
        peak = memory("VmHWM")
        return Measured(seconds, peak, peak, more)
    with tempfile.TemporaryDirectory() as scratch:
        do = job(model, point, Path(scratch))
        first, growth, result = measured(do, True, CLOCKS[effort.clock])
        peak = memory("VmHWM")
        more = {"cache_bytes": result} if isinstance(result, float) else {}
        del result
        seconds = [first] if first >= WARM_UP else []
        while len(seconds) < effort.repeats and sum(seconds) < effort.seconds:
            seconds.append(measured(do, False, CLOCKS[effort.clock])[0])
    return Measured(tuple(seconds), peak, peak - (growth or 0), more)


def job(model: HookedGPT2, point: Point, scratch: Path) -> Callable[[], object]:
    """What is to be done at this point; a file of prompts is written before."""
    if point.axis != "prompts":
        return partial(TASKS[point.task], model, point)
    file = write_words(scratch / "prompts.csv", point.batch)
    asked: dict[str, Callable[..., Result]] = {
        "ablate_file": partial(circuits.ablate, all_heads=True),
        "approximate_file": partial(circuits.approximate, what="head"),
        "discover_file": partial(circuits.discover, method="eap"),
    }
    return partial(asked[point.task], model, file=str(file))


def write_words(path: Path, n: int) -> Path:
    """`n` words of six letters for `sort-abc`, each with another one to compare it with."""
    words = ["".join(letters) for letters in product("ABC", repeat=6)]
    with path.open("w", encoding="utf-8") as file:
        file.write("clean,corrupted,answer,distractor\n")
        for i in range(n):
            word, other = words[7 * i % len(words)], words[(7 * i + 364) % len(words)]
            file.write(f"{word},{other},{min(word)},{'B' if min(word) == 'A' else 'A'}\n")
    return path


def made(point: Point) -> HookedGPT2:
    """The model of this point."""
    if point.model in TRAINED:
        return circuits.load(point.model)
    return random_model(SIZES[point.model], getattr(torch, point.dtype))


def random_model(cfg: ModelConfig, dtype: torch.dtype, seed: int = 0) -> HookedGPT2:
    """A model of this shape with random weights, which are never there twice.

    Each matrix is drawn in float32, and turned before the next is drawn.
    """
    with torch.device("meta"):
        shapes = {name: w.shape for name, w in HookedGPT2(cfg).named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        drawn *= 0.02 if len(shape) == 2 else 0.1
        tensors[name] = (drawn + name.endswith(".w") if len(shape) == 1 else drawn).to(dtype)
    return assemble(cfg, tensors, origin="random weights", dtype=dtype)


def given(point: Point) -> Given:
    """The prompts of this point."""
    return Given.draw(point.shape, point.batch, point.length)


def spread(cells: tuple[Cell, ...], n: int) -> tuple[Cell, ...]:
    """So many of the cells, evenly spread: those in the middle of as many equal parts."""
    return tuple(cells[(2 * i + 1) * len(cells) // (2 * n)] for i in range(n))


def swept(model: HookedGPT2, sweep: Sweep) -> float:
    """The mean of what comes out."""
    return float(run(model, plan(model, sweep)).values.mean())


def zeroed(model: HookedGPT2, point: Point, cells: tuple[Cell, ...]) -> None:
    """These cells, each set to zero."""
    prompts = ours.about(torch.from_numpy(given(point).tokens), given(point))
    source = Source("zero", prompts.tokens, prompts.mask)
    swept(model, Sweep(prompts, get_metric("logit_diff"), spread(cells, point.n), source))


def ablate_heads(model: HookedGPT2, point: Point) -> None:
    zeroed(model, point, ours.heads(model))


def ablate_neurons(model: HookedGPT2, point: Point) -> None:
    places = product(range(model.cfg.n_layers), range(model.cfg.d_mlp))
    zeroed(model, point, tuple(cell(f"m{layer}.n{n}") for layer, n in places))


def patch_residual(model: HookedGPT2, point: Point) -> None:
    places = product(range(model.cfg.n_layers), range(point.length))
    cells = tuple(cell(f"resid_pre.{layer}@{p}") for layer, p in places)
    swept(model, ours.patching(spread(cells, point.n), given(point)))


def patch_edges(model: HookedGPT2, point: Point) -> None:
    sweep = ours.patching((), given(point))
    edges = graph(model.cfg).edges
    some = [edges[(2 * i + 1) * len(edges) // (2 * point.n)] for i in range(point.n)]
    cells = tuple(patched(edge, model.cfg, sweep.source) for edge in some)
    swept(model, Sweep(sweep.prompts, sweep.metric, cells, sweep.source))


@torch.inference_mode()
def full_cache(model: HookedGPT2, point: Point) -> float:
    """How many bytes are in the cache? What several sites share is counted once."""
    _, cache = model.run_with_cache(torch.from_numpy(given(point).tokens))
    stores = {value.untyped_storage().data_ptr(): value for value in cache.values()}
    return float(sum(value.untyped_storage().nbytes() for value in stores.values()))


def forward(model: HookedGPT2, point: Point) -> None:
    ours.forward(model, given(point))


def attribution(model: HookedGPT2, point: Point) -> None:
    ours.attribution(model, given(point))


def edges_eap(model: HookedGPT2, point: Point) -> None:
    ours.edges_eap(model, given(point))


TASKS: dict[str, Callable[[HookedGPT2, Point], float | None]] = {
    task.__name__: task
    for task in (
        forward,
        full_cache,
        attribution,
        edges_eap,
        ablate_heads,
        ablate_neurons,
        patch_residual,
        patch_edges,
    )
}


def main() -> None:
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed meanwhile goes to standard error
    point, effort = Point(**json.loads(sys.argv[1])), Effort(**json.loads(sys.argv[2]))
    torch.set_num_threads(effort.threads)
    lines.write(json.dumps(asdict(measure(point, effort))) + "\n")
    lines.flush()


if __name__ == "__main__":
    main()
