"""Automatic circuit discovery: edges are left out one after another, from the logits down.

Shapes: b prompts, r readers, w writers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from circuits.arrays import Bools, Floats, Ints
from circuits.circuit import Graph
from circuits.discovery.search import Scored, Search, discovery, merged
from circuits.errors import CircuitsError
from circuits.memory import left
from circuits.sweep.alone import Alone
from circuits.sweep.circuit_sweep import Kept

COPIES = 3  # of what every edge does in every prompt, while it is averaged
AT_ONCE = 64  # edges that are tried together, at most
ORDER = (
    "from the logits down; of a layer the MLP, then values, keys and queries, of these the last "
    "head first; of each the last sender first"
)


@discovery(note="by leaving out one after another for good")
def acdc(search: Search) -> Scored:
    """By leaving edges out for good, from the logits down, where the metric gets worse by little.

    An edge is left out if that makes the metric worse by less than the threshold, given all that
    has been left out before; its score is the change. What is kept depends on the order, which is
    recorded. Source: Conmy et al. 2023 (2304.14997).
    """
    if search.level != "edges" or search.positions != (None,):
        raise CircuitsError("acdc decides about edges, at all positions together; choose another")
    blocks = list(search.blocks)
    if len(blocks) != 1:
        raise CircuitsError(
            f"acdc decides after every edge, on all prompts: give one block of them, not "
            f"{len(blocks)}"
        )
    sweep = search.ask(blocks[0])
    n_values = (len(search.graph) + 2) * len(sweep.prompts)
    memory = left(search.how.memory, COPIES * 8 * n_values, "the effects of all edges")
    alone = Alone(search.model, sweep, memory=memory)
    worse = -1 if sweep.metric.higher_is_better else 1
    pruning = _Pruning(alone, worse, search.threshold)
    edges = _order(alone.graph)
    while edges:
        edges = edges[pruning.step(edges) :]
        if search.how.progress is not None:
            search.how.progress(len(alone.graph) - len(edges), len(alone.graph))
    nothing = Kept.only(alone.graph, alone.graph.exists & False, "nothing")
    values = pruning.values
    values[0], values[1] = alone.base, alone([nothing])[0]
    values[2:] += alone.base
    labels = blocks[0].labels(search.how.label)
    return Scored(merged(search, None, values, labels), pruning.mask[alone.graph.exists], ORDER)


@dataclass(eq=False)
class _Pruning:
    """What is left of the model so far, and what leaving out each edge did.

    Attributes:
        worse: the sign that a change for the worse has.
        mask: [r w], what is left.
        at: [r w], where an edge stands in `values`: in the order of the graph, after the two runs.
        values: [2 + e, b], what leaving out an edge did to the metric.
        known: [b], the metric of what is left.
    """

    alone: Alone
    worse: int
    threshold: float
    mask: Bools = field(init=False)
    at: Ints = field(init=False)
    values: Floats = field(init=False)
    known: Floats = field(init=False)
    at_once: int = 8

    def __post_init__(self) -> None:
        self.mask = self.alone.graph.exists.copy()
        self.known = self.alone.base
        self.at = 1 + np.cumsum(self.mask).reshape(self.mask.shape)
        self.values = np.zeros((2 + len(self.alone.graph), len(self.known)))

    def step(self, edges: list[tuple[int, int]]) -> int:
        """Decide about the first of these edges; returns about how many.

        Most are left out, so each of several is tried as if those before it were; what is tried
        after the first that stays is tried again.
        """
        free = self._unread(edges)
        if free:  # nobody reads this reader any more: to leave it out changes nothing
            for edge in edges[:free]:
                self.mask[edge] = False
            return free
        some = edges[: self.at_once]
        tried, mask = [], self.mask
        for edge in some:
            mask = mask.copy()
            mask[edge] = False
            tried.append(Kept.only(self.alone.graph, mask))
        for i, (edge, values) in enumerate(zip(some, self.alone(tried), strict=True)):
            change = self.values[self.at[edge]] = values - self.known
            if self.worse * change.mean() >= self.threshold:
                self.at_once = max(2, self.at_once // 2)
                return i + 1
            self.mask[edge] = False
            self.known = values
        self.at_once = min(AT_ONCE, 2 * self.at_once)
        return len(some)

    def _unread(self, edges: list[tuple[int, int]]) -> int:
        """How many of the first edges end at a reader whose writer nobody reads."""
        graph = self.alone.graph
        for i, (reader, _) in enumerate(edges):
            writer = graph.writer_of[reader]
            if writer is None or self.mask[:, writer].any():
                return i
        return len(edges)


def _order(graph: Graph) -> list[tuple[int, int]]:
    """All edges, as they are tried."""
    return [(r, w) for r, w in np.argwhere(graph.exists)[::-1].tolist()]
