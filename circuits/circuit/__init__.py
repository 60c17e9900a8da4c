"""Circuits as things: parts of a model's graph that can be named, saved, compared and drawn.

`graph` has every edge of a model; a `Circuit` is some of them, with scores and where they come
from. `compiled_circuit` is one that is known.
"""

from circuits.circuit.circuit import Circuit
from circuits.circuit.compiled import compiled_circuit
from circuits.circuit.graph import EMBED, LOGITS, SLOTS, Graph, graph
from circuits.circuit.parts import LEVELS, Level, Origin, Part, Score, part_of
from circuits.circuit.publications import published, read_circuit

__all__ = [
    "EMBED",
    "LEVELS",
    "LOGITS",
    "SLOTS",
    "Circuit",
    "Graph",
    "Level",
    "Origin",
    "Part",
    "Score",
    "compiled_circuit",
    "graph",
    "part_of",
    "published",
    "read_circuit",
]
