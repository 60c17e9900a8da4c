"""Which circuits a survey runs: each once, however many tests ask for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from circuits.sweep import Kept

if TYPE_CHECKING:
    from circuits.evaluation.subject import Subject
    from circuits.sweep.circuit_sweep import CircuitCell

WHOLE, EMPTY, CIRCUIT = 0, 1, 2  # the places of the model, of nothing at all, and of the circuit


class Cells:
    """The circuits that are run, in order; tests remember the places of theirs.

    The first three are the whole model, the empty circuit and the circuit that is tested. With
    `pruned`, edges that no path from the embedding to the logits uses are left out first: where the
    reference is a run of the model, they change nothing, and many circuits are then the same one.

    Attributes:
        subject: the circuit that is tested.
        asked: the cells, for a `CircuitSweep`.
    """

    def __init__(self, subject: Subject, *, pruned: bool) -> None:
        self.subject, self._pruned = subject, pruned
        self.asked: list[CircuitCell] = [()]
        self._places: dict[tuple[object, ...], int] = {}
        graph = subject.graph
        self._exists = graph.exists.tobytes()
        self.add(Kept.only(graph, np.zeros_like(graph.exists), "empty"))
        self.asked.append((subject.alone(subject.parts, "circuit"),))

    def add(self, kept: Kept) -> int:
        """The place of this circuit, which is a new one if nobody has asked for it before."""
        if self._pruned:
            alive = kept.graph.alive(kept.anywhere)
            kept = replace(kept, masks={at: mask & alive for at, mask in kept.masks.items()})
        key = _content(kept)
        if key == (("None", self._exists), None):
            return WHOLE
        if key not in self._places:
            self._places[key] = len(self.asked)
            self.asked.append((kept,))
        return self._places[key]


def _content(kept: Kept) -> tuple[object, ...]:
    """What is kept, whatever it is called."""
    masks = sorted((str(at), mask.tobytes()) for at, mask in kept.masks.items() if mask.any())
    neurons = kept.neurons
    said = None if neurons is None or neurons.all() else neurons.tobytes()
    return (*masks, said)
