"""This package on circuits: scores of edges, and circuits run alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.circuit import graph
from circuits.discovery import METHODS, Search
from circuits.discovery.methods.eap_ig import along_inputs
from circuits.discovery.search import by_gradient
from circuits.metrics import get_metric
from circuits.sweep import CircuitSweep, Kept, Source, plan, run
from experiments.benchmarks.edges import HALF, SHARES, STEPS, Edges, Mask
from experiments.benchmarks.peers import Declined

if TYPE_CHECKING:
    from circuits import HookedGPT2
    from circuits.prompts import Prompts
    from circuits.sweep.circuit_sweep import CircuitCell

MANY = 10_000  # edges; patching each alone would take minutes where nobody compares


def search(model: HookedGPT2, prompts: Prompts, corrupted: torch.Tensor) -> Search:
    """These prompts, whose other run is that of the corrupted tokens."""

    def ask(block: Prompts) -> CircuitSweep:
        return asked(block, corrupted, ((),))

    return Search(model, [prompts], ask)


def asked(
    prompts: Prompts, corrupted: torch.Tensor, cells: tuple[CircuitCell, ...]
) -> CircuitSweep:
    """These circuits alone."""
    source = Source("resample", corrupted, prompts.mask)
    return CircuitSweep(prompts, get_metric("logit_diff"), cells, source)


def scores(asking: Search, method: str) -> NDArray[np.float64]:
    """Of every edge, reader by reader."""
    if method == "exact" and len(asking.graph) > MANY:
        raise Declined("takes minutes")
    if method == "eap-ig":
        # The peer's points: from the reference on, without the prompts' own input.
        points = [step / STEPS for step in range(STEPS)]
        return by_gradient(asking, partial(along_inputs, points)).moments.effect[2:]
    return METHODS[method].search(asking).moments.effect[2:]


def alone(model: HookedGPT2, prompts: Prompts, corrupted: torch.Tensor) -> NDArray[np.float64]:
    """The metric of each prompt in the circuit of half of the edges."""
    sweep = asked(prompts, corrupted, (_kept(model, _edges(model).largest(HALF)),))
    return run(model, plan(model, sweep)).values[0]


def curve(model: HookedGPT2, prompts: Prompts, corrupted: torch.Tensor) -> NDArray[np.float64]:
    """How much of what the whole model does, each size does."""
    edges = _edges(model)
    masks = [edges.exist & False, *(edges.largest(share) for share in SHARES)]
    cells: tuple[CircuitCell, ...] = ((), *(_kept(model, mask) for mask in masks))
    values = run(model, plan(model, asked(prompts, corrupted, cells))).values.mean(1)
    whole, empty, circuits = values[0], values[1], values[2:]
    return (circuits - empty) / (whole - empty)


def _edges(model: HookedGPT2) -> Edges:
    return Edges(model.cfg.n_layers, model.cfg.n_heads)


def _kept(model: HookedGPT2, mask: Mask) -> tuple[Kept]:
    return (Kept.only(graph(model.cfg), mask),)
