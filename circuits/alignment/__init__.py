"""Causal abstraction: does a small causal graph say what the model does, also when it is edited?

A `CausalGraph` computes named variables from a prompt; `draw` makes pairs of prompts that tell
whether a variable lives at a site; `subspaces` finds the directions of the site that hold it.
"""

from circuits.alignment.graphs import GRAPHS, CausalGraph, Text, another, graph_of
from circuits.alignment.pairs import Pairs, answered, draw, share_interval
from circuits.alignment.subspaces import (
    Split,
    Subspace,
    learn,
    random_basis,
    read_space,
    split,
    swapped,
)

__all__ = [
    "GRAPHS",
    "CausalGraph",
    "Pairs",
    "Split",
    "Subspace",
    "Text",
    "another",
    "answered",
    "draw",
    "graph_of",
    "learn",
    "random_basis",
    "read_space",
    "share_interval",
    "split",
    "swapped",
]
