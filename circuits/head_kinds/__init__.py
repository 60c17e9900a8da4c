"""The kinds of heads that are known, and how each is scored, controlled and told from chance.

`KINDS` is the list. `random_tokens` scores where heads look and whether they copy, `names` what
they do with names and series; `judged` says by how much a score exceeds what it must.
"""

from circuits.head_kinds.judging import are_clear, judged
from circuits.head_kinds.kinds import KINDS, NAMES, WRITING, Kind, chosen_kinds, name_of
from circuits.head_kinds.names import (
    LEAST_PAIRS,
    NO_MOVERS,
    check_ioi,
    name_copying,
    name_scores,
    series,
    series_prompts,
    successors,
)
from circuits.head_kinds.random_tokens import (
    RandomTokens,
    Scores,
    ablated_on,
    attention_scores,
    copying,
    draw_tokens,
    eigenvalue_copying,
    prefix_matching,
)

__all__ = [
    "KINDS",
    "LEAST_PAIRS",
    "NAMES",
    "NO_MOVERS",
    "WRITING",
    "Kind",
    "RandomTokens",
    "Scores",
    "ablated_on",
    "are_clear",
    "attention_scores",
    "check_ioi",
    "chosen_kinds",
    "copying",
    "draw_tokens",
    "eigenvalue_copying",
    "judged",
    "name_copying",
    "name_of",
    "name_scores",
    "prefix_matching",
    "series",
    "series_prompts",
    "successors",
]
