"""Causal abstraction: does a small causal graph say what the model does, also when it is edited?

A `CausalGraph` computes named variables from a prompt; `draw` makes pairs of prompts that tell
whether a variable lives at a site; `subspaces` finds the directions of the site that hold it;
`swept` swaps a variable's value at whole sites, `searched` in subspaces of one.
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
from circuits.alignment.swaps import MEANINGS as SWAP_MEANINGS
from circuits.alignment.swaps import Swap, search_of, searched, swept

__all__ = [
    "GRAPHS",
    "SWAP_MEANINGS",
    "CausalGraph",
    "Pairs",
    "Split",
    "Subspace",
    "Swap",
    "Text",
    "another",
    "answered",
    "draw",
    "graph_of",
    "learn",
    "random_basis",
    "read_space",
    "search_of",
    "searched",
    "share_interval",
    "split",
    "swapped",
    "swept",
]
