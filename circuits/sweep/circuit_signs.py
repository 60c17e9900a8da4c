"""Which changes of different circuits are the same, so that each is computed once?

What a writer changes follows from what reaches it: the kept edges that lead to it from the
embedding. Circuits that differ in one edge have most of that in common, and what stands in memory
from the circuit before need not be computed again.

Shapes: c circuits, r readers, w writers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from circuits.arrays import Bools

if TYPE_CHECKING:
    from circuits.sweep.circuit_sweep import Kept

NOWHERE, READ, EVERYWHERE = 0, 1, 2  # where a change is needed: READ is where the metric reads


@dataclass(frozen=True, eq=False)
class Signs:
    """What is known of a circuit's changes before any of them is computed.

    Attributes:
        writes: [w], a number for all that a writer's change follows from; 0: it changes nothing.
        reads: [r], who reads anything that changes.
        needed: [w], where the logits depend on a writer: NOWHERE, READ or EVERYWHERE.
    """

    writes: NDArray[np.uint64]
    reads: Bools
    needed: NDArray[np.int8]


def signs(kept: Kept, *, copies: bool) -> Signs:
    """What is known of this circuit's changes.

    With `copies` the reference is a run of the model: who reads nothing new changes nothing.

    >>> from circuits.circuit import Graph
    >>> from circuits.sweep.circuit_sweep import Kept
    >>> graph = Graph(n_layers=1, n_heads=1)
    >>> mask = graph.exists & False
    >>> mask[-1, 1] = mask[0, 0] = True  # the logits read the head, whose query reads the tokens
    >>> known = signs(Kept.only(graph, mask), copies=True)
    >>> (known.writes != 0).tolist(), known.needed.tolist()
    ([True, True, False], [1, 1, 0])
    """
    graph, heads = kept.graph, range(kept.graph.n_heads)
    places = sorted((str(at), mask) for at, mask in kept.masks.items() if mask.any())
    writes = np.zeros(len(graph.writers), dtype=np.uint64)
    reads = np.zeros(len(graph.readers), dtype=bool)
    writes[0] = 1
    for layer in range(graph.n_layers):
        inputs, first = graph.inputs(layer), graph.heads(layer).start
        seen = [(at, np.where(mask[inputs], writes, np.uint64(0))) for at, mask in places]
        reads[inputs] = np.any([what.any(1) for _, what in seen], axis=0) if seen else False
        for head in heads:
            mine = slice(head, None, graph.n_heads)  # of its query, key and value
            if reads[inputs][mine].any() or not copies:
                writes[first + head] = _number(first + head, [(at, s[mine]) for at, s in seen])
        if graph.has_mlps:
            reader, writer = inputs.stop, graph.heads(layer).stop
            what = [(at, np.where(mask[reader], writes, np.uint64(0))) for at, mask in places]
            reads[reader] = any(each.any() for _, each in what)
            if reads[reader] or not copies:
                if kept.neurons is not None:
                    what.append(("neurons", kept.neurons[layer]))
                writes[writer] = _number(writer, what)
    reads[-1] = bool((kept.anywhere[-1] & (writes > 0)).any())
    return Signs(writes, reads, _needed(kept))


def _number(writer: int, what: Sequence[tuple[str, NDArray[np.generic]]]) -> int:
    """A number of its own for what reaches a writer at every place."""
    digest = blake2b(b"%d" % writer, digest_size=8)
    for at, each in what:
        digest.update(at.encode() + b"\0" + each.tobytes())
    return int.from_bytes(digest.digest(), "little") or 1


def _needed(kept: Kept) -> NDArray[np.int8]:
    """Where the logits depend on each writer, from the last layer to the first."""
    graph, edges = kept.graph, kept.anywhere
    needed = np.zeros(len(graph.writers), dtype=np.int8)

    def need(reader: int, where: int) -> None:
        np.maximum(needed, edges[reader] * np.int8(where), out=needed)

    need(len(graph.readers) - 1, READ)
    for layer in reversed(range(graph.n_layers)):
        inputs, heads = graph.inputs(layer), graph.heads(layer)
        if graph.has_mlps and needed[heads.stop]:
            need(inputs.stop, int(needed[heads.stop]))
        for head in range(graph.n_heads):
            where, query = int(needed[heads.start + head]), inputs.start + head
            if where:
                need(query, where)
                need(query + graph.n_heads, EVERYWHERE)
                need(query + 2 * graph.n_heads, EVERYWHERE)
    return needed


class Standing:
    """What stands in memory of each writer: of which circuits, and where.

    Circuits that go through the model together stand side by side; a writer is computed for all of
    them, as soon as one of them needs it anew.
    """

    def __init__(self, n_writers: int, n_circuits: int) -> None:
        self._signs = np.zeros((n_writers, n_circuits), dtype=np.uint64)
        self._where = np.full((n_writers, n_circuits), NOWHERE - 1, dtype=np.int8)

    def anew(self, together: Sequence[Signs]) -> tuple[dict[int, int], list[int]]:
        """Which writers have to be computed, and where; and which have to be set to zero.

        It is taken for done.
        """
        signs = np.stack([each.writes for each in together], axis=1)  # [w c]
        where = np.stack([each.needed for each in together], axis=1)
        moves: Bools = np.asarray(((where > NOWHERE) & (signs > 0)).any(1, keepdims=True))
        signs, where = np.where(moves, signs, 0), np.where(moves, where, EVERYWHERE)
        stands = (where == NOWHERE) | (signs == self._signs)
        new = np.flatnonzero(~(stands & (where <= self._where)).all(1))
        self._signs[new], self._where[new] = signs[new], where[new]
        compute = {writer: int(where[writer].max()) for writer in new.tolist() if moves[writer]}
        return compute, [writer for writer in new.tolist() if not moves[writer]]
