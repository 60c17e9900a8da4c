"""Which parts are kept: so many of the largest, or all above a threshold.

Shapes: s parts that have scores.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from circuits.circuit import LOGITS, Circuit, Part
from circuits.components import Edge
from circuits.errors import CircuitsError, nearest

Select = Literal["top", "greedy"]


@dataclass(frozen=True)
class Choice:
    """How parts are chosen by their scores.

    Attributes:
        keep: a number of parts ("100"), a share of all ("5%"), or the least size of a score
            ("0.01").
        select: the largest (``top``), or grown from the logits (``greedy``): always the largest of
            the edges into what is there already.
        absolute: by size; else by how much the metric gets worse without them.

    Raises:
        CircuitsError: for anything else.
    """

    keep: str = "100"
    select: Select = "top"
    absolute: bool = True

    def __post_init__(self) -> None:
        if self.select not in get_args(Select):
            raise CircuitsError(
                f"select={self.select!r}: choose top or greedy{nearest(self.select, ('top',))}"
            )
        self._threshold_or_count(1)

    @property
    def words(self) -> str:
        """The choice in words."""
        by = "size" if self.absolute else "what gets worse without them"
        how = "the largest" if self.select == "top" else "grown from the logits by the largest"
        return f"{self.keep}: {how}, by {by}"

    def of(self, circuit: Circuit) -> Circuit:
        """A circuit of the parts that have scores, of those that are chosen.

        Edges that no path from the embedding to the logits uses are pruned and counted.
        """
        ranked = circuit.ranked(circuit.scores, signed=not self.absolute)
        threshold, count = self._threshold_or_count(len(ranked))
        if threshold is not None:
            ranked = [part for part in ranked if self._size(circuit, part) >= threshold]
            count = len(ranked)
        if self.select == "greedy" and circuit.level == "edges":
            return _grown(circuit, ranked, count)
        return replace(circuit, parts=frozenset(ranked[:count])).pruned()

    def _threshold_or_count(self, n: int) -> tuple[float | None, int]:
        """The least size of a score, if one is given; else how many of `n` parts."""
        text = str(self.keep).strip()
        if re.fullmatch(r"\d+", text):
            return None, int(text)
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if 0 <= share <= 1:
                    return None, int(share * n)
            elif (threshold := float(text)) >= 0 and np.isfinite(threshold):
                return threshold, n
        except ValueError:
            pass
        raise CircuitsError(
            f"keep={self.keep!r}: give how many parts (100), a share of all (5%), or the least "
            "size of a score (0.01)"
        )

    def _size(self, circuit: Circuit, part: Part) -> float:
        value = circuit.scores[part].value
        if self.absolute:
            return abs(value)
        return -value if circuit.origin.higher_is_better else value


def sized(circuit: Circuit, counts: Sequence[int], *, absolute: bool = True) -> list[Circuit]:
    """Circuits of these many parts, the largest scores first, pruned."""
    choices = [Choice(str(count), absolute=absolute) for count in counts]
    return [choice.of(circuit) for choice in choices]


def _grown(circuit: Circuit, ranked: Sequence[Part], count: int) -> Circuit:
    """The largest circuit of at most `count` edges that grows from the logits, all alive."""
    order = _growing(circuit, ranked)

    def alive(n: int) -> Circuit:
        return replace(circuit, parts=frozenset(order[:n])).pruned()

    low, high = 0, len(order)  # more edges never make one that is alive dead
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(alive(middle)) <= count else (low, middle - 1)
    return alive(low)


def _growing(circuit: Circuit, ranked: Sequence[Part]) -> list[Edge]:
    """Edges in the order in which a circuit takes them that grows from the logits."""
    into: dict[object, list[tuple[int, Edge]]] = {}
    for rank, part in enumerate(ranked):
        if isinstance(part, Edge):
            node = replace(part.receiver, slot=None, position=None)
            into.setdefault(node, []).append((rank, part))
    order: list[Edge] = []
    heap: list[tuple[int, str, Edge]] = []
    seen: set[object] = set()

    def enter(node: object) -> None:
        if node not in seen:
            seen.add(node)
            for rank, edge in into.get(node, ()):
                heapq.heappush(heap, (rank, str(edge), edge))

    enter(LOGITS)
    while heap:
        _, _, edge = heapq.heappop(heap)
        order.append(edge)
        enter(edge.sender)
    return order
