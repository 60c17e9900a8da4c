"""What circuits are made of: edges or components, their scores, and where these come from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from circuits.components import Component, Edge, parse, parse_edge

Level = Literal["edges", "heads", "nodes", "neurons"]
LEVELS: tuple[Level, ...] = get_args(Level)
Part = Edge | Component  # what is kept or left out: an edge, or a head, node or neuron


@dataclass(frozen=True)
class Score:
    """What corrupting this part alone does to the metric, with the ends of its 95 % interval.

    An infinite value says that nothing removes the part, however large the threshold.
    """

    value: float
    ci_low: float = math.nan
    ci_high: float = math.nan


@dataclass(frozen=True)
class Origin:
    """Where a circuit comes from: what was measured, on which prompts of which model, and how.

    Attributes:
        model: its name; `checksum` of its weights, None where any model of the shape will do.
        method: how parts were scored; "hand" for those that somebody named.
        metric: what scores are changes of, in `unit`; it is better `higher_is_better`, or lower.
        reference: what is written instead of what is left out: resample (the corrupted twin),
            zero, mean or position-mean.
        task: which prompts; `prompts` is their checksum, `n` how many, `seed` what drew them.
        selection: how the kept parts were chosen, in words.
        pruned: how many chosen edges were left out, because no path from the embedding to the
            logits uses them.
        source: a publication.
        command: the command line that finds it again.
    """

    model: str
    checksum: str | None = None
    method: str = "hand"
    metric: str | None = None
    unit: str | None = None
    higher_is_better: bool = True
    reference: str = "resample"
    task: str | None = None
    prompts: str | None = None
    n: int | None = None
    seed: int | None = None
    selection: str | None = None
    pruned: int = 0
    source: str | None = None
    command: str | None = None


def part_of(text: str) -> Part:
    """The edge or component of this name.

    Raises:
        CircuitsError: for a name outside the grammar.

    >>> part_of("a0.h1->m3"), part_of("m3.n7").neuron
    (Edge(sender=Component(kind='head', layer=0, head=1, slot=None, position=None, neuron=None), \
receiver=Component(kind='mlp', layer=3, head=None, slot=None, position=None, neuron=None)), 7)
    """
    return parse_edge(text) if "->" in text else parse(text)
