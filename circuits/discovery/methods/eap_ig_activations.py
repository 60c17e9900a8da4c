"""Edge attribution patching with integrated gradients, along paths of what writers write."""

from __future__ import annotations

from functools import partial

from circuits.discovery.edge_estimates import Products, Runs
from circuits.discovery.search import Scored, Search, by_gradient, discovery


@discovery(note="along paths of what writers write")
def eap_ig_activations(search: Search) -> Scored:
    """By the mean gradient along a path of what the sender's own layer writes.

    For the heads of a layer together, for each MLP, and for the embedding: the gradient's mean over
    k = 1 ... K where these write the reference's value plus k/K of the difference and all before
    them is as it was; only their own edges get it. Source: Marks et al. 2024 (2403.19647). A widely
    used program gives every edge the mean over all these paths, which is something else.
    """
    return by_gradient(search, partial(_along_activations, search.steps))


def _along_activations(steps: int, runs: Runs, products: Products) -> None:
    graph = runs.reading.graph
    streams = [*runs.clean.pre, runs.clean.final]
    for k in range(1, steps + 1):
        left = 1 - k / steps
        embed = runs.clean.embed + left * runs.changes[:, 0].flatten(0, 1)
        products.add(runs.start(embed), 1 / steps, slice(0, 1))
        for layer in range(graph.n_layers):
            heads = graph.heads(layer)
            change = runs.changes[:, heads].sum(1).flatten(0, 1)
            if graph.has_mlps and not graph.parallel:
                start = runs.start(runs.clean.mid[layer] + left * change, layer, mid=True)
            else:
                start = runs.start(streams[layer + 1] + left * change, layer + 1)
            products.add(start, 1 / steps, heads)
            if graph.has_mlps:
                mlp = slice(heads.stop, heads.stop + 1)
                change = runs.changes[:, heads.stop].flatten(0, 1)
                after = runs.start(streams[layer + 1] + left * change, layer + 1)
                products.add(after, 1 / steps, mlp)
