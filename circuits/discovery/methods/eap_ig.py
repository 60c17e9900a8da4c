"""Edge attribution patching with integrated gradients, along a path of inputs."""

from __future__ import annotations

from functools import partial

from circuits.discovery.edge_estimates import Products, Runs
from circuits.discovery.search import Scored, Search, by_gradient, discovery


@discovery(note="by its mean along a path of inputs")
def eap_ig(search: Search) -> Scored:
    """By the mean gradient along a path of inputs, from the reference's to the prompts' own.

    As ``eap``, with the mean over k = 1 ... K of the gradient in the run whose embeddings are the
    reference's plus k/K of the difference. For many steps, the scores of the edges that leave the
    embedding add up to m(reference) - m(own). Source: Hanna, Pezzelle & Belinkov 2024 (2403.17806).
    Their code takes k = 0 ... K - 1: see `along_inputs`.
    """
    points = [(k + 1) / search.steps for k in range(search.steps)]
    return by_gradient(search, partial(along_inputs, points))


def along_inputs(points: list[float], runs: Runs, products: Products) -> None:
    """Add the mean over these points of the path: 0 is the reference's input, 1 the own one."""
    step = runs.clean.embed - runs.reference.embed
    for point in points:
        start = runs.here if point == 1 else runs.start(runs.reference.embed + point * step)
        products.add(start, 1 / len(points))
