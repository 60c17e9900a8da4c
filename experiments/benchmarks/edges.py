"""The edges of a model, as everybody numbers them, and scores by which circuits are chosen.

Writers are the embedding, then each layer's heads and its MLP; readers each layer's queries, keys,
values and its MLP, then the logits. Like `items`, this file needs no more than NumPy.

Shapes: r readers, w writers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

STEPS = 5  # of a path of inputs
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # sizes of circuits
HALF = 0.5  # the size of the one circuit that is run alone

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Edges:
    """The edges of a model of this shape."""

    layers: int
    heads: int

    @cached_property
    def n_before(self) -> NDArray[np.int64]:
        """How many writers come before each reader, [r]; these are the first ones."""
        counts = []
        for layer in range(self.layers):
            first = 1 + layer * (self.heads + 1)
            counts += [first] * (3 * self.heads) + [first + self.heads]
        return np.array([*counts, 1 + self.layers * (self.heads + 1)])

    @cached_property
    def exist(self) -> Mask:
        """Which edges there are, [r w]."""
        return np.arange(self.n_before[-1]) < self.n_before[:, None]

    def __len__(self) -> int:
        return int(self.n_before.sum())

    @cached_property
    def writer_of(self) -> NDArray[np.int64]:
        """For each reader but the logits, the writer that it belongs to, [r - 1]."""
        by_layer = np.array([*range(self.heads)] * 3 + [self.heads])
        first = 1 + np.arange(self.layers) * (self.heads + 1)
        return (first[:, None] + by_layer).ravel()

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Random scores, larger between parts that are strong, as a model's own are, [r w].

        Without strong parts the edges of a small circuit would not touch each other.
        """
        rng = np.random.default_rng(0)
        readers, writers = (rng.standard_normal(n) for n in self.exist.shape)
        writers[0] = readers[-1] = 3.0  # the embedding and the logits
        return readers[:, None] + writers + 0.5 * rng.standard_normal(self.exist.shape)

    def largest(self, share: float) -> Mask:
        """The circuit of this share of the edges, those with the largest scores, [r w]."""
        ranked = np.where(self.exist, self.scores, -np.inf)
        order = np.argsort(-ranked, axis=None, kind="stable")[: self.count(share)]
        mask = np.zeros(self.exist.size, dtype=bool)
        mask[order] = True
        return mask.reshape(self.exist.shape)

    def count(self, share: float) -> int:
        """How many edges are this share of all?"""
        return max(1, round(share * len(self)))
