"""Prune scores of the package auto-circuit: by reading module a tensor of scores, saved by torch.

A tensor is [head, writer], or [writer] where a module reads as one; of scores by token position,
[position, ...] before that. Writers stand in the order of computation, as many as come before the
reader. A file may hold several: by algorithm, or by task and algorithm.

Their scores of most methods are gradients of a loss with respect to a mask, summed over batches
(not averaged); those of ACDC and of subnetwork probing are sizes, without a sign. A score of 0 says
that the edge is not in the circuit.

Shapes: r readers, w writers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Floats
from circuits.checkpoints.layout import listed
from circuits.circuit.circuit import Circuit
from circuits.circuit.exchange.losses import Reading, circuit_of, matrices
from circuits.circuit.graph import Graph
from circuits.circuit.parts import Origin, Part, Score
from circuits.components import Edge
from circuits.errors import CircuitsError, nearest

TOOL = "auto-circuit"
_SELECTION = "the edges whose score is not 0"
_SITE = re.compile(r"blocks\.(\d{1,4})\.hook_(q_input|k_input|v_input|mlp_in|resid_post)", re.ASCII)


@dataclass(frozen=True)
class _Module:
    """One module that reads: its name there, and the places of its readers."""

    name: str
    readers: slice
    by_head: bool


def from_tensors(
    content: Mapping[str, Any], path: Path, reading: Reading, entry: str | None
) -> Circuit:
    """The circuit in a file of prune scores.

    Raises:
        CircuitsError: naming modules or shapes that are no transformer's; and for a file of several
            when none of them is chosen.
    """
    scores = _chosen(dict(_entries(content)), path, entry)
    graph = _graph(scores, path)
    origin = reading.origin(path, TOOL, _SELECTION)
    n_positions = _n_positions(scores)
    arrays = [np.full(graph.exists.shape, np.nan) for _ in range(n_positions or 1)]
    for module in _modules(graph):
        n_writers = int(graph.n_before[module.readers.start])
        heads = [graph.n_heads] if module.by_head else []
        expected = [*([] if n_positions is None else [n_positions]), *heads, n_writers]
        tensor = scores[module.name]
        if list(tensor.shape) != expected:
            raise CircuitsError(
                f"{path}: {module.name} has the shape {list(tensor.shape)}, and in a model of "
                f"{graph.n_layers} layers of {graph.n_heads} heads it would be {expected}"
            )
        theirs = tensor.double().numpy().reshape(len(arrays), -1, n_writers)
        for array, at in zip(arrays, theirs, strict=True):
            array[module.readers, :n_writers] = np.where(at == 0, np.nan, at)
    reading.require_loss(float(np.nansum([array[:, 0] for array in arrays])), path)
    arrays = [reading.ours(array, origin) for array in arrays]
    if n_positions is None:
        return _circuit(graph, arrays[0], origin)
    return _at_positions(graph, arrays, origin)


def as_tensors(circuit: Circuit) -> dict[str, Tensor]:
    """The circuit as prune scores: kept edges have their score, or 1 if none has; others have 0.

    Raises:
        CircuitsError: when some kept edges have a score and others none, or 0.
    """
    kept, scores = matrices(circuit, TOOL)
    if np.isnan(scores).all():
        scores = kept.astype(float)
    unsaid = kept & (np.isnan(scores) | (scores == 0))
    if unsaid.any():
        edge = circuit.graph.named(unsaid)[0]
        raise CircuitsError(
            f"{edge} is kept without a score, or with 0, which to {TOOL} means that an edge is "
            "left out; score every edge that is kept, or none"
        )
    theirs = torch.tensor(np.where(kept, scores, 0.0), dtype=torch.float32)
    tensors = {}
    for module in _modules(circuit.graph):
        n_writers = int(circuit.graph.n_before[module.readers.start])
        rows = theirs[module.readers, :n_writers].clone()
        tensors[module.name] = rows if module.by_head else rows[0]
    return tensors


def _modules(graph: Graph) -> Iterator[_Module]:
    for layer in range(graph.n_layers):
        inputs = graph.inputs(layer)
        for i, slot in enumerate("qkv"):
            start = inputs.start + i * graph.n_heads
            at = slice(start, start + graph.n_heads)
            yield _Module(f"blocks.{layer}.hook_{slot}_input", at, True)
        if graph.has_mlps:
            at = slice(inputs.stop, inputs.stop + 1)
            yield _Module(f"blocks.{layer}.hook_mlp_in", at, False)
    n = len(graph.readers)
    yield _Module(f"blocks.{graph.n_layers - 1}.hook_resid_post", slice(n - 1, n), False)


def _entries(
    content: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every set of prune scores in the file, by the names that lead to it."""
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield above, {str(name): value.detach() for name, value in content.items()}
        return
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{above}/{name}" if above else str(name))


def _chosen(
    entries: Mapping[str, dict[str, Tensor]], path: Path, entry: str | None
) -> dict[str, Tensor]:
    names = ", ".join(map(repr, entries))
    if not entries:
        raise CircuitsError(f"{path} holds no circuit: neither {TOOL}'s tensors nor EAP-IG's")
    if entry is None and len(entries) > 1:
        raise CircuitsError(f"{path} holds several prune scores; choose one by entry=: {names}")
    if entry is None:
        return next(iter(entries.values()))
    if entry not in entries:
        there = f"there are {names}" if any(entries) else "its scores have no name: leave entry out"
        raise CircuitsError(f"{path} has no entry {entry!r}; {there}{nearest(entry, entries)}")
    return entries[entry]


def _graph(scores: Mapping[str, Tensor], path: Path) -> Graph:
    """The shape of the model that has these modules."""
    layers = [int(match[1]) for name in scores if (match := _SITE.fullmatch(name))]
    queries = scores.get("blocks.0.hook_q_input")
    if queries is None or not queries.ndim >= 2:
        raise CircuitsError(
            f"{path} names {listed(list(scores), 3)}, and lacks blocks.0.hook_q_input, by head: "
            f"what is read here are {TOOL}'s scores of a factorized transformer's edges, with "
            "separate_qkv=True"
        )
    n_heads = int(queries.shape[-2])
    mlp = scores.get("blocks.0.hook_mlp_in")
    n_layers = min(max(layers), len(scores)) + 1
    graph = Graph(n_layers, n_heads, mlp is not None, mlp is not None and mlp.shape[-1] == 1)
    known = [module.name for module in _modules(graph)]
    unknown = [name for name in scores if name not in known]
    if unknown:
        raise CircuitsError(
            f"{path} names {listed(unknown, 3)}, which is no reader in a model of {n_layers} layers"
            f"{nearest(unknown[0], known)}"
        )
    if lacking := [name for name in known if name not in scores]:
        raise CircuitsError(f"{path} lacks the scores of {listed(lacking, 3)}")
    return graph


def _n_positions(scores: Mapping[str, Tensor]) -> int | None:
    queries = scores["blocks.0.hook_q_input"]
    return int(queries.shape[0]) if queries.ndim == 3 else None


def _circuit(graph: Graph, scores: Floats, origin: Origin) -> Circuit:
    return circuit_of(graph, ~np.isnan(scores), scores, origin)


def _at_positions(graph: Graph, arrays: list[Floats], origin: Origin) -> Circuit:
    """The circuit of edges at token positions, which count from where the scored tokens begin."""
    scores: dict[Part, Score] = {}
    for position, array in enumerate(arrays):
        for edge, score in _circuit(graph, array, origin).scores.items():
            if isinstance(edge, Edge):
                scores[Edge(edge.sender, edge.receiver.at(position))] = score
    return Circuit(graph, frozenset(scores), origin, scores)
