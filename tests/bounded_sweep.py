"""A sweep in a process of its own: `python bounded_sweep.py KIND MEMORY`, "" for no bound.

Printed are the numbers, and by how many bytes the process has grown at most. What is loaded and
compiled when it is first used does not count: a prompt alone goes first.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import circuits
from circuits.circuit import graph
from circuits.components import all_heads
from circuits.discovery import METHODS, Search
from circuits.memory import parse_bytes
from circuits.metrics import get_metric
from circuits.model import HookedModel
from circuits.prompts import Prompts, make
from circuits.sweep import CircuitSweep, Kept, Source, Sweep, cell, plan, run
from circuits.sweep.gradient import attribute
from circuits.sweep.survey import How

Asked = Callable[[HookedModel, Prompts, str | None], Any]


def _sweep(cells: Sequence[str], method: str = "resample", metric: str = "logit_diff") -> Asked:
    def asked(model: HookedModel, prompts: Prompts, memory: str | None) -> Any:
        other = prompts.corrupted if method == "resample" else prompts.tokens
        assert other is not None
        source = Source(method, other, prompts.mask)
        sweep = Sweep(prompts, get_metric(metric), tuple(map(cell, cells)), source)
        return run(model, plan(model, sweep, memory=memory)).values

    return asked


def _source(prompts: Prompts) -> Source:
    assert prompts.corrupted is not None
    return Source("resample", prompts.corrupted, prompts.mask)


def _attribution(model: HookedModel, prompts: Prompts, memory: str | None) -> Any:
    cells = tuple(map(cell, all_heads(model.cfg)))
    sweep = Sweep(prompts, get_metric("logit_diff"), cells, _source(prompts))
    return attribute(model, sweep, memory=memory).effects


def _edges(model: HookedModel, prompts: Prompts, memory: str | None) -> Any:
    def ask(block: Prompts) -> CircuitSweep:
        return CircuitSweep(block, get_metric("logit_diff"), ((),), _source(block))

    search = Search(model, [prompts], ask, how=How(memory=memory))
    return METHODS["eap"].search(search).moments.effect


def _circuits(model: HookedModel, prompts: Prompts, memory: str | None) -> Any:
    whole, rng = graph(model.cfg), np.random.default_rng(0)
    masks = [whole.exists & (rng.random(whole.exists.shape) < 0.5) for _ in range(6)]
    cells = tuple((Kept.only(whole, mask),) for mask in masks)
    sweep = CircuitSweep(prompts, get_metric("logit_diff"), cells, _source(prompts))
    return run(model, plan(model, sweep, memory=memory)).values


HEADS = [f"a{layer}.h{head}" for layer in range(8) for head in range(8)]
KINDS: dict[str, Asked] = {
    "heads": _sweep(HEADS, "zero"),
    "mean": _sweep(HEADS[:24], "mean", "loss"),
    "residual": _sweep([f"resid_pre.{layer}@{at}" for layer in range(8) for at in range(12)]),
    "z": _sweep(HEADS),
    "neurons": _sweep([f"m{layer}.n{i}" for layer in range(8) for i in range(4)], "zero", "kl"),
    "paths": _sweep([f"a0.h{head}->a{layer}.h1<k>" for head in range(8) for layer in (3, 6)]),
    "attribution": _attribution,
    "edges": _edges,
    "circuits": _circuits,
}


def main(kind: str, memory: str) -> None:
    torch.set_num_threads(1)
    model = circuits.load("mini")
    prompts = make("ioi", model, 10)
    model(prompts.tokens)
    asked = KINDS[kind]
    asked(model, prompts.subset(slice(0, 1)), None)  # what is loaded when it is first used
    report(lambda: asked(model, prompts, memory or None), memory)


def report(ask: Callable[[], Any], memory: str) -> None:
    """Ask, print the numbers and by how much the process grew; it may grow by `memory` at most."""
    before = _reset_peak()
    if memory:  # Linux gives no more than this, whatever is asked for
        limit = _status("VmSize") + parse_bytes(memory)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    values = np.ravel(ask()).tolist()
    sys.stdout.write(json.dumps({"grown": _status("VmHWM") - before, "values": values}))


def _reset_peak() -> int:
    """Give back what is not used, and forget the old peak; how much is in use?"""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
