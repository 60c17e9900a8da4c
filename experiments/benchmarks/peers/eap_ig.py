"""The EAP-IG package on TransformerLens 3: scores of edges, and circuits run alone.

Installed, or found in a folder of its sources by PYTHONPATH. It is used as its README says, with
these changes that its numbers do not depend on:

- It makes its scores with ``device="cuda"``; `_OnCPU` leaves that out.
- It makes tokens of words, and these tasks are tokens already.
- Its metric is to return the sum over prompts, since scores are divided by their number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from eap import attribute, evaluate
from eap.graph import Graph
from numpy.typing import NDArray
from torch import Tensor
from transformer_lens import HookedTransformer

from experiments.benchmarks.edges import HALF, SHARES, STEPS, Edges, Mask
from experiments.benchmarks.items import Given
from experiments.benchmarks.peers import Declined, tl3

MANY = 10_000  # edges; patching each alone would take hours
Batch = tuple[Tensor, Tensor, Tensor]  # its prompts, the corrupted ones, and labels


class _OnCPU:
    """What the package sees of torch."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros(self, *size: Any, device: str = "cpu", **options: Any) -> Tensor:
        return torch.zeros(*size, **options)


def _tokens(model: HookedTransformer, tokens: Tensor, max_length: int | None = None) -> Any:
    """What its `tokenize_plus` makes of words of these tokens."""
    mask = torch.ones_like(tokens)
    return tokens, mask, mask.sum(1), tokens.shape[1]


attribute.torch = _OnCPU()
attribute.tokenize_plus = evaluate.tokenize_plus = _tokens


def load(folder: Path) -> HookedTransformer:
    """The model with the sites that the package asks for, and weights that can be trained.

    So they are where it is used as documented. `eap` needs them: gradients would otherwise begin
    nowhere. That of a weight is thrown away, and costs a quarter of a pass.
    """
    model = tl3.load(folder)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    return model.requires_grad_(True)


def edges_eap(model: HookedTransformer, given: Given) -> NDArray[np.float64]:
    return _scores(model, given, "EAP")


def edges_eap_ig(model: HookedTransformer, given: Given) -> NDArray[np.float64]:
    return _scores(model, given, "EAP-IG-inputs", ig_steps=STEPS)


def edges_exact(model: HookedTransformer, given: Given) -> NDArray[np.float64]:
    if len(Edges(model.cfg.n_layers, model.cfg.n_heads)) > MANY:
        raise Declined("takes hours")
    return _scores(model, given, "exact")


def circuit_alone(model: HookedTransformer, given: Given) -> Tensor:
    graph = Graph.from_model(model)
    _keep(graph, Edges(graph.cfg.n_layers, graph.cfg.n_heads).largest(HALF))
    return _alone(model, graph, given)


def circuit_curve(model: HookedTransformer, given: Given) -> Tensor:
    """The share of the metric that each size has; both ends are runs of their own."""
    graph = Graph.from_model(model)
    edges = Edges(graph.cfg.n_layers, graph.cfg.n_heads)
    metric, batches = _each(given), [_batch(given)]
    ends = [
        evaluate.evaluate_baseline(model, batches, metric, run_corrupted=corrupted, quiet=True)
        for corrupted in (True, False)
    ]
    values = []
    for share in SHARES:
        _keep(graph, edges.largest(share))
        values.append(_alone(model, graph, given))
    empty, whole = (end.mean() for end in ends)
    return (torch.stack(values).mean(1) - empty) / (whole - empty)


def _batch(given: Given) -> Batch:
    return torch.from_numpy(given.tokens), torch.from_numpy(given.corrupted), torch.empty(0)


def _each(given: Given) -> Any:
    """The logit difference after the last token of each prompt, as the package asks for it."""
    rows = torch.arange(len(given.tokens))
    answers, distractors = torch.from_numpy(given.answers), torch.from_numpy(given.distractors)

    def metric(logits: Tensor, clean: Tensor, lengths: Tensor, label: Tensor) -> Tensor:
        last = logits[rows, lengths - 1]
        return last[rows, answers] - last[rows, distractors]

    return metric


def _scores(
    model: HookedTransformer, given: Given, method: str, **options: Any
) -> NDArray[np.float64]:
    """Of every edge, reader by reader."""
    graph, each = Graph.from_model(model), _each(given)
    metric = each if method == "exact" else lambda *about: each(*about).sum()
    batches = [_batch(given)]
    attribute.attribute(model, graph, batches, metric, method, quiet=True, **options)
    model.zero_grad()
    return graph.scores.T[graph.real_edge_mask.T].double().numpy()


def _keep(graph: Graph, mask: Mask) -> None:
    """Make the graph the circuit of these edges; `evaluate_graph` prunes it."""
    graph.in_graph[:] = torch.from_numpy(mask.T)


def _alone(model: HookedTransformer, graph: Graph, given: Given) -> Tensor:
    batches = [_batch(given)]
    return evaluate.evaluate_graph(model, graph, batches, _each(given), quiet=True)
