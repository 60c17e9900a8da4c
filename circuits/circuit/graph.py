"""The graph that circuits are parts of: who writes to the residual stream, and who reads it.

Writers are the embedding (of tokens and positions, as one), heads and MLPs; readers are the query,
key and value of each head, the MLPs and the logits. Every reader reads every writer that comes
before it, so the edges of GPT-2 small are 32,491.

Shapes: r readers, w writers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from circuits.arrays import Bools, Ints
from circuits.components import Component, Edge, Slot
from circuits.errors import CircuitsError

if TYPE_CHECKING:
    from circuits.config import ModelConfig

SLOTS: tuple[Slot, ...] = ("q", "k", "v")
EMBED, LOGITS = Component("embed"), Component("logits")


@dataclass(frozen=True)
class Graph:
    """Which edges does a model of this shape have?

    Writers stand in the order of computation. Readers stand by layer, first all queries, then all
    keys, all values and the MLP; last come the logits. ``len(graph)`` is the number of edges.

    >>> from circuits.config import GPT2_SIZES
    >>> whole = graph(GPT2_SIZES["gpt2"])
    >>> len(whole), len(whole.writers), len(whole.readers)
    (32491, 157, 445)
    """

    n_layers: int
    n_heads: int
    has_mlps: bool = True
    parallel: bool = False  # MLPs read the stream that their layer's heads read
    d_model: int | None = field(default=None, compare=False)  # other tools' files ask for it

    @cached_property
    def writers(self) -> tuple[Component, ...]:
        """Who writes: the embedding, then each layer's heads and its MLP."""
        return (EMBED, *(part for i in range(self.n_layers) for part in self._writers(i)))

    @cached_property
    def readers(self) -> tuple[Component, ...]:
        """Who reads: of each layer the heads' queries, keys and values and the MLP; the logits."""
        return (*(part for i in range(self.n_layers) for part in self._readers(i)), LOGITS)

    @cached_property
    def writer(self) -> Mapping[Component, int]:
        """The place of each writer."""
        return {part: i for i, part in enumerate(self.writers)}

    @cached_property
    def reader(self) -> Mapping[Component, int]:
        """The place of each reader."""
        return {part: i for i, part in enumerate(self.readers)}

    @cached_property
    def writer_of(self) -> tuple[int | None, ...]:
        """For each reader, the place of the writer that it belongs to; None for the logits."""
        nodes = (replace(part, slot=None) for part in self.readers[:-1])
        return (*(self.writer[node] for node in nodes), None)

    @cached_property
    def n_before(self) -> Ints:
        """How many writers come before each reader, [r]; these are the first ones."""
        by_layer = self.n_heads + self.has_mlps
        counts = []
        for layer in range(self.n_layers):
            first = 1 + layer * by_layer
            before_mlp = first if self.parallel else first + self.n_heads
            counts += [first] * (3 * self.n_heads) + [before_mlp] * self.has_mlps
        return np.array([*counts, len(self.writers)])

    @cached_property
    def exists(self) -> Bools:
        """Which edges there are, [r w]."""
        exists: Bools = np.arange(len(self.writers)) < self.n_before[:, None]
        return exists

    def heads(self, layer: int) -> slice:
        """The places of a layer's heads among the writers."""
        first = 1 + layer * (self.n_heads + self.has_mlps)
        return slice(first, first + self.n_heads)

    def inputs(self, layer: int) -> slice:
        """The places of a layer's queries, keys and values among the readers."""
        first = layer * (3 * self.n_heads + self.has_mlps)
        return slice(first, first + 3 * self.n_heads)

    def __len__(self) -> int:
        return int(self.n_before.sum())

    def __iter__(self) -> Iterator[Edge]:
        return iter(self.edges)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges: by reader, then by writer."""
        return tuple(
            Edge(self.writers[w], reader)
            for reader, n in zip(self.readers, self.n_before.tolist(), strict=True)
            for w in range(n)
        )

    def place(self, edge: Edge) -> tuple[int, int]:
        """The reader and the writer of an edge, by their places; its position does not matter.

        Raises:
            CircuitsError: when the graph has no such edge.
        """
        reader, writer = edge.receiver, edge.sender
        if reader.position is not None:
            reader = replace(reader, position=None)
        if writer not in self.writer or reader not in self.reader:
            raise CircuitsError(self._lacks(edge))
        return self.reader[reader], self.writer[writer]

    def mask(self, edges: Iterable[Edge]) -> Bools:
        """Which edges these are, wherever they act: [r w]."""
        mask = np.zeros_like(self.exists)
        for edge in edges:
            mask[self.place(edge)] = True
        return mask

    def masks(self, edges: Iterable[Edge]) -> dict[str | int | None, Bools]:
        """Which edges these are, by the position at which they act: [r w] each; None: everywhere.

        >>> from circuits.components import parse_edge
        >>> small = Graph(1, 1)
        >>> edges = [parse_edge("embed->a0.h0<q>@END"), parse_edge("a0.h0->logits")]
        >>> {at: int(mask.sum()) for at, mask in small.masks(edges).items()}
        {None: 1, 'END': 1}
        """
        by_position: dict[str | int | None, list[Edge]] = {None: []}
        for edge in edges:
            by_position.setdefault(edge.receiver.position, []).append(edge)
        return {at: self.mask(some) for at, some in by_position.items()}

    def named(self, mask: Bools, position: str | int | None = None) -> list[Edge]:
        """The edges of a mask [r w], at this position."""
        return [
            Edge(self.writers[w], self.readers[r].at(position))
            for r, w in np.argwhere(mask & self.exists).tolist()
        ]

    def alive(self, mask: Bools) -> Bools:
        """Of these edges [r w], those on a path from the embedding to the logits.

        A head is on a path if any of its inputs is: a changed query, key or value changes what it
        writes.
        """
        forward, back = np.zeros((2, len(self.writers)), dtype=bool)
        forward[0] = True
        for w, inputs in self._inputs:
            forward[w] = bool((mask[inputs] & forward).any())
        back |= mask[-1]
        for w, inputs in reversed(self._inputs):
            if back[w]:
                back |= mask[inputs].any(0)
        to = np.zeros(len(self.readers), dtype=bool)  # readers whose writer gets through
        to[-1] = True
        for w, inputs in self._inputs:
            to[inputs] = back[w]
        alive: Bools = mask & forward & to[:, None]
        return alive

    @cached_property
    def _inputs(self) -> list[tuple[int, list[int]]]:
        """Each writer that reads, with the places of what it reads."""
        pairs = []
        for w, part in enumerate(self.writers[1:], start=1):
            inputs = [replace(part, slot=slot) for slot in SLOTS] if part.kind == "head" else [part]
            pairs.append((w, [self.reader[each] for each in inputs]))
        return pairs

    def _writers(self, layer: int) -> list[Component]:
        heads = [Component("head", layer, head) for head in range(self.n_heads)]
        return heads + [Component("mlp", layer)] * self.has_mlps

    def _readers(self, layer: int) -> list[Component]:
        inputs = [
            Component("head", layer, head, slot=slot)
            for slot in SLOTS
            for head in range(self.n_heads)
        ]
        return inputs + [Component("mlp", layer)] * self.has_mlps

    def _lacks(self, edge: Edge) -> str:
        shape = f"{self.n_layers} layers of {self.n_heads} heads"
        mlps = "" if self.has_mlps else " and no MLPs"
        return (
            f"{edge} is no edge of a model with {shape}{mlps}: they start at embed, a head (a0.h1) "
            "or an MLP (m0), and end at one input of a head (a1.h0<q>), an MLP or the logits"
        )


def graph(cfg: ModelConfig) -> Graph:
    """Which edges does this model have, between what writes to its stream and what reads it?

    >>> from circuits.config import ModelConfig
    >>> small = graph(ModelConfig(1, n_heads=1, d_model=8, n_ctx=4, d_vocab=9))
    >>> [str(edge) for edge in small][3:]
    ['embed->m0', 'a0.h0->m0', 'embed->logits', 'a0.h0->logits', 'm0->logits']
    """
    return _graph(cfg.n_layers, cfg.n_heads, not cfg.attn_only, cfg.parallel, cfg.d_model)


_graph = lru_cache(maxsize=8)(Graph)  # so that its lists are made once
