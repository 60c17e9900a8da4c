"""What the weights of heads say: QK and OV circuits, what heads read of each other, score terms.

`ov_circuit`, `qk_circuit` and `position_circuit` make token-to-token matrices of all heads, which
are never multiplied out; `answer` shows a `View` of one. `composition_scores` say how much of what
one head writes another reads, against chance. `watched` and `side` take an attention score of a run
apart into terms of its query and its key.
"""

from circuits.qk_ov.composition import MEANINGS as COMPOSITION_MEANINGS
from circuits.qk_ov.composition import SLOTS, CompositionScores, Reads, composition_scores
from circuits.qk_ov.score_terms import Side, apart, place_masks, require_product, side, watched
from circuits.qk_ov.token_circuits import (
    ROUNDING,
    TokenCircuit,
    centered,
    diagonal_ranks,
    eigenvalues,
    embedding,
    extremes,
    ov_circuit,
    position_circuit,
    product_scales,
    qk_circuit,
    trace_share,
    typical_scales,
    writing,
)
from circuits.qk_ov.token_views import Kind, Show, View, answer, in_result, view_of
from circuits.qk_ov.turning import require_distance

__all__ = [
    "COMPOSITION_MEANINGS",
    "ROUNDING",
    "SLOTS",
    "CompositionScores",
    "Kind",
    "Reads",
    "Show",
    "Side",
    "TokenCircuit",
    "View",
    "answer",
    "apart",
    "centered",
    "composition_scores",
    "diagonal_ranks",
    "eigenvalues",
    "embedding",
    "extremes",
    "in_result",
    "ov_circuit",
    "place_masks",
    "position_circuit",
    "product_scales",
    "qk_circuit",
    "require_distance",
    "require_product",
    "side",
    "trace_share",
    "typical_scales",
    "view_of",
    "watched",
    "writing",
]
