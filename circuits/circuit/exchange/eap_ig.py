"""Graphs of the package EAP-IG, and so of MIB's circuit track: JSON, or torch's file of matrices.

Both hold `cfg` (layers, heads, width, whether MLPs are parallel), which nodes are in the graph, and
of each edge its score and whether it is in the graph. Their `input` is this package's `embed`. A
file with scores of nodes, and none of edges, holds a circuit of nodes, or of heads if MLPs have no
scores: these always stay.

Scores of its gradient methods are means over prompts only if the metric is a sum over a batch. Of a
mean over a batch, as in its examples, they are too small by the number of prompts in a batch: ranks
hold, sizes do not.

Shapes: r readers, w writers; their matrices are [w r].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Bools, Floats
from circuits.checkpoints.layout import listed
from circuits.circuit.circuit import Circuit
from circuits.circuit.exchange.losses import Reading, circuit_of, known_or_0, matrices, turned
from circuits.circuit.graph import EMBED, Graph
from circuits.circuit.parts import Level, Origin, Part, Score
from circuits.components import Component
from circuits.errors import CircuitsError, nearest

TOOL = "EAP-IG"
INPUT = "input"
JSON_KEYS, PT_KEYS = ("cfg", "nodes", "edges"), ("cfg", "src_nodes", "dst_nodes", "edges_in_graph")
_SELECTION = "the edges that are in_graph"
_NEURONS = ("neurons", "neurons_in_graph")


@dataclass(frozen=True)
class _Contents:
    """What a file holds: of edges [r w] and of nodes [w], NaN where there is no score."""

    graph: Graph
    kept: Bools
    scores: Floats
    kept_nodes: Bools
    node_scores: Floats


def from_json(content: Mapping[str, Any], path: Path, reading: Reading) -> Circuit:
    """The circuit in a JSON graph.

    Raises:
        CircuitsError: naming what the graph of its `cfg` does not have.
    """
    try:
        nodes = {str(name): _node(each, path) for name, each in content["nodes"].items()}
        graph = _graph(content["cfg"], len(nodes), path)
        writer = {_name(part): i for i, part in enumerate(graph.writers)}
        _require_known(nodes, {*writer, "logits"}, path)
        places = {_name(edge): graph.place(edge) for edge in graph}
        _require_known(content["edges"], places, path)
        kept, scores = _empty(graph)
        for name, each in content["edges"].items():
            kept[places[name]], scores[places[name]] = _number(each)
        kept_nodes, node_scores = np.zeros(len(writer), bool), np.full(len(writer), np.nan)
        for name, i in writer.items():
            kept_nodes[i], node_scores[i] = nodes.get(name, (False, math.nan))
        return _circuit(_Contents(graph, kept, scores, kept_nodes, node_scores), path, reading)
    except CircuitsError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise CircuitsError(f"{path} is no graph of {TOOL}: {error!r}") from error


def from_tensors(content: Mapping[str, Any], path: Path, reading: Reading) -> Circuit:
    """The circuit in a file of matrices.

    Raises:
        CircuitsError: naming what the graph of its `cfg` does not have.
    """
    if lacks := [key for key in PT_KEYS if key not in content]:
        raise CircuitsError(f"{path} is no graph of {TOOL}: it lacks {', '.join(lacks)}")
    if neurons := [key for key in _NEURONS if key in content]:
        _refuse_neurons(neurons[0], path)
    try:
        senders, receivers = ([str(each) for each in content[key]] for key in PT_KEYS[1:3])
        graph = _graph(content["cfg"], len(senders) + 1, path)
        at = (_order(receivers, graph.readers, path), _order(senders, graph.writers, path))
        # An earlier version of the package has the scores as `edges`.
        theirs = content.get("edges_scores", content.get("edges"))
        kept, scores = _empty(graph)
        kept[np.ix_(*at)] = _matrix(content["edges_in_graph"], graph, path).astype(bool).T
        scores[np.ix_(*at)] = _matrix(theirs, graph, path).T
        kept_nodes, node_scores = np.zeros(len(senders), bool), np.full(len(senders), np.nan)
        if "nodes_in_graph" in content:
            kept_nodes[at[1]] = content["nodes_in_graph"].numpy()
        if "nodes_scores" in content:
            node_scores[at[1]] = content["nodes_scores"].detach().double().numpy()
        return _circuit(_Contents(graph, kept, scores, kept_nodes, node_scores), path, reading)
    except CircuitsError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError, RuntimeError) as error:
        raise CircuitsError(f"{path} is no graph of {TOOL}: {error!r}") from error


def as_json(circuit: Circuit) -> str:
    """The circuit as the JSON that `Graph.from_json` reads; edges without a score have 0.

    Raises:
        CircuitsError: for infinite scores, which JSON has not.
    """
    contents = _contents(circuit)
    graph = contents.graph
    for part, score in circuit.scores.items():
        if math.isinf(score.value):
            raise CircuitsError(
                f"{part} has an infinite score, which JSON cannot say: save {TOOL}'s .pt, or this "
                "package's own format"
            )
    nodes = {
        _name(part): {"in_graph": is_kept} | ({} if math.isnan(score) else {"score": score})
        for part, is_kept, score in zip(
            graph.writers, contents.kept_nodes.tolist(), contents.node_scores.tolist(), strict=True
        )
    }
    edges = {
        _name(edge): {"score": score, "in_graph": is_kept}
        for edge, score, is_kept in zip(
            graph.edges,
            known_or_0(contents.scores[graph.exists]).tolist(),
            contents.kept[graph.exists].tolist(),
            strict=True,
        )
    }
    nodes["logits"] = {"in_graph": True}
    return json.dumps({"cfg": _cfg(graph), "nodes": nodes, "edges": edges}, allow_nan=False)


def as_tensors(circuit: Circuit) -> dict[str, Any]:
    """The circuit as what `Graph.from_pt` reads; edges without a score have 0."""
    contents = _contents(circuit)
    graph = contents.graph
    tensors = {
        "cfg": _cfg(graph),
        "src_nodes": [_name(part) for part in graph.writers],
        "dst_nodes": [_name(part) for part in graph.readers],
        "edges_scores": torch.tensor(known_or_0(contents.scores).T, dtype=torch.float32),
        "edges_in_graph": torch.tensor(contents.kept.T),
        "nodes_in_graph": torch.tensor(contents.kept_nodes),
    }
    if not np.isnan(contents.node_scores).all():
        tensors["nodes_scores"] = torch.tensor(contents.node_scores, dtype=torch.float32)
    return tensors


def _contents(circuit: Circuit) -> _Contents:
    graph = circuit.graph
    if not graph.has_mlps:
        raise CircuitsError(f"{TOOL}'s graphs have MLPs, and this circuit's model has none")
    kept, scores = matrices(circuit, TOOL)
    nodes = {*circuit.nodes} | ({EMBED} if kept[:, 0].any() else set())
    kept_nodes = np.array([part in nodes for part in graph.writers])
    node_scores = np.full(len(graph.writers), np.nan)
    for part, score in circuit.scores.items():
        if isinstance(part, Component):
            node_scores[graph.writer[part.at(None)]] = score.value
    return _Contents(graph, kept, scores, kept_nodes, turned(node_scores, circuit.origin))


def _circuit(contents: _Contents, path: Path, reading: Reading) -> Circuit:
    graph, theirs = contents.graph, contents.scores
    origin = reading.origin(path, TOOL, _SELECTION)
    if not np.nan_to_num(theirs[graph.exists]).any():  # where none is known, their matrix is 0
        theirs = np.full_like(theirs, np.nan)
    from_input = np.append(theirs[:, 0], contents.node_scores[0])
    reading.require_loss(float(np.nansum(from_input)), path)
    if np.isnan(theirs).all():
        node_scores = reading.ours(contents.node_scores, origin)
        by_nodes = _of_nodes(replace(contents, node_scores=node_scores), origin)
        if by_nodes is not None:
            return by_nodes
    return circuit_of(graph, contents.kept, reading.ours(theirs, origin), origin)


def _of_nodes(contents: _Contents, origin: Origin) -> Circuit | None:
    """The circuit of nodes or heads whose edges these are, where nodes have the scores."""
    graph = contents.graph
    known: dict[Part, Score] = {
        part: Score(score)
        for part, score in zip(graph.writers, contents.node_scores.tolist(), strict=True)
        if part.kind in ("head", "mlp") and not math.isnan(score)
    }
    if not known:
        return None
    level: Level = "nodes" if any(part.kind == "mlp" for part in known) else "heads"  # type: ignore[union-attr]
    kinds = ("head", "mlp") if level == "nodes" else ("head",)
    kept = frozenset(
        part
        for part, is_kept in zip(graph.writers, contents.kept_nodes.tolist(), strict=True)
        if is_kept and part.kind in kinds
    )
    origin = replace(origin, selection=str(origin.selection).replace("edges", level, 1))
    circuit = Circuit(graph, kept, origin, known, level)
    edges = graph.mask(circuit.edges)
    is_same = (graph.alive(edges) == graph.alive(contents.kept & graph.exists)).all()
    return circuit if is_same else None


def _graph(cfg: Mapping[str, Any], n_nodes: int, path: Path) -> Graph:
    """The graph of a file's `cfg`, if the file has as many nodes (with the logits)."""
    n_layers, n_heads, width = cfg["n_layers"], cfg["n_heads"], cfg.get("d_model")
    if not all(isinstance(n, int) and n > 0 for n in (n_layers, n_heads, width or 1)):
        raise CircuitsError(
            f"{path}: its cfg should have whole numbers above 0, and has n_layers={n_layers!r}, "
            f"n_heads={n_heads!r}, d_model={width!r}"
        )
    expected = n_layers * (n_heads + 1) + 2
    if n_nodes < expected:
        raise CircuitsError(
            f"{path}: by its cfg the model has {expected} nodes ({n_layers} layers of {n_heads} "
            f"heads and an MLP, the input and the logits), and the file names {n_nodes}"
        )
    return Graph(n_layers, n_heads, True, bool(cfg.get("parallel_attn_mlp", False)), width)


def _cfg(graph: Graph) -> dict[str, object]:
    if graph.d_model is None:
        raise CircuitsError(
            f"{TOOL}'s files say how wide the model is, and this circuit does not know; set it: "
            "dataclasses.replace(circuit, graph=circuits.graph(model.cfg))"
        )
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": graph.d_model,
    }


def _name(part: object) -> str:
    """What they call it."""
    name = str(part)
    return INPUT + name.removeprefix("embed") if name.startswith("embed") else name


def _require_known(names: Iterable[str], known: Iterable[str], path: Path) -> None:
    allowed = {*known}
    unknown = [str(name) for name in names if name not in allowed]
    if unknown:
        raise CircuitsError(
            f"{path} names {listed(unknown, 3)}, which the model of its cfg does not have"
            f"{nearest(unknown[0], sorted(allowed))}"
        )


def _order(names: Sequence[str], parts: Sequence[Component], path: Path) -> list[int]:
    """Where these nodes stand in the graph."""
    place = {_name(part): i for i, part in enumerate(parts)}
    _require_known(names, place, path)
    if len({*names}) != len(parts) or len(names) != len(parts):
        raise CircuitsError(f"{path} should name each of its model's {len(parts)} nodes once")
    return [place[name] for name in names]


def _matrix(tensor: Tensor, graph: Graph, path: Path) -> Floats:
    expected = (len(graph.writers), len(graph.readers))
    if tuple(tensor.shape) != expected:
        raise CircuitsError(
            f"{path}: a matrix has the shape {tuple(tensor.shape)}, and its nodes {expected}"
        )
    matrix: Floats = tensor.detach().double().numpy()
    return matrix


def _empty(graph: Graph) -> tuple[Bools, Floats]:
    return np.zeros_like(graph.exists), np.full(graph.exists.shape, np.nan)


def _node(value: object, path: Path) -> tuple[bool, float]:
    """Whether a node is in the graph, and its score; an earlier version has no scores of nodes."""
    if isinstance(value, bool):
        return value, math.nan
    if isinstance(value, Mapping) and (neurons := [key for key in _NEURONS if key in value]):
        _refuse_neurons(neurons[0], path)
    return _number(value)


def _number(value: Any) -> tuple[bool, float]:
    """Whether it is in the graph, and its score."""
    score, in_graph = value.get("score"), value["in_graph"]
    if not isinstance(in_graph, bool):
        raise TypeError(f"in_graph is {in_graph!r}")
    return in_graph, math.nan if score is None else float(score)


def _refuse_neurons(key: str, path: Path) -> None:
    raise CircuitsError(
        f"{path} holds {key}: {TOOL}'s neurons are dimensions of what a head or MLP "
        "writes, for which this package has no name; save its graph without neurons"
    )
