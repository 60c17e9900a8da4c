"""What has to be computed at a point: the operations of the cheapest exact algorithm."""

from __future__ import annotations

from experiments.benchmarks.limits import Count
from experiments.benchmarks.scaling.points import TRAINED, Point


def operations(point: Point) -> int | None:
    """How many? None for the bundled models, where Python and files take the time, and clusters.

    Some of the cells, evenly spread, cost their share of all of them.
    """
    if point.model in TRAINED or point.axis == "workers":
        return None
    shape = point.shape
    count = Count(shape, point.batch, point.length)
    heads, neurons = shape.layers * shape.heads, shape.layers * shape.hidden
    whole = {
        "ablate_heads": (count.ablate_heads, heads, 1),
        "patch_residual": (count.patch_residual, shape.layers * point.length, 2),
        "ablate_neurons": (lambda: _neurons(count), neurons, 1),
        "patch_edges": (count.edges_exact, len(count._edges), 2),
    }
    if point.task not in whole:
        return getattr(count, point.task)()
    total, cells, runs = whole[point.task]
    before = point.batch * runs * count.body()
    return before + (total() - before) * point.n // cells


def _neurons(count: Count) -> int:
    """One clean run; for each neuron its own output taken off, and the layers above."""
    s, t = count.shape, count.length
    each = 0
    for layer in range(s.layers - 1):
        above = count.layers(s.layers - 2 - layer) + count.last_layer()
        each += t * 2 * s.width + above + count.two_logits
    each += 2 * s.width + count.two_logits
    return count.batch * (count.body() + s.hidden * each)
