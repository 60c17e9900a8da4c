"""What would a head match? Its full QK circuit, from token to token and position to position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import pandas as pd
import torch

from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.qk_ov import (
    Kind,
    View,
    answer,
    in_result,
    position_circuit,
    qk_circuit,
    require_distance,
    view_of,
)
from circuits.registry import analysis
from circuits.result import Result

Show = Literal["pairs", "diagonal", "positions", "eigenvalues", "directions"]
VIEWS = get_args(Show)
KIND = Kind("qk", "What would {} match?", "query", "key", "attention score", "matching")


@analysis
def qk(
    model: HookedModel,
    head: str | Component | None = None,
    *,
    show: Show | None = None,
    effective: bool = False,
    tokens: str | Sequence[str] | None = None,
    top: int = 10,
    distance: int = 0,
) -> Result:
    """What would a head match?

    A token that looks back gives each earlier token an attention score, of which an entry of
    W_E W_Q W_K^T W_E^T / sqrt(d_head) is the part that the weights alone decide (Elhage et al.
    2021, "QK circuit"). A head that looks for the same token has it on top of each row, and
    positive eigenvalues. With positions, the same for W_pos instead of W_E. What a token's query
    makes of a key's position, and the other way around, is left out.

    LayerNorm is explicit. Its centering and weight (ln1 of the head's layer) are part of the
    matrix; its scale depends on the context and is held at its median over random tokens. Biases of
    the query (b_Q, and ln1's) ask every key for something, which is part of the entries. Those of
    the key give all keys the same score, to which softmax is blind: they are left out, and scores
    are relative to the mean of their row; where scores are capped, before the cap. Where positions
    turn queries and keys (rotary), entries are W_E W_Q R W_K^T W_E^T, R the turn of `distance`.

    $ circuits qk --figure matching.png
    $ circuits qk a0.h3
    $ circuits qk a0.h6 --show positions --figure offsets.png
    $ circuits qk a0.h3 --tokens " king" --effective --top 5
    $ circuits qk a0.h3 --show diagonal --csv

    Args:
        head: Which head, such as a1.h0. Without it, the matching score of every head: the sum of
            its matrix' eigenvalues over the sum of their sizes, from -1 to 1.
        show: The highest and lowest entries (pairs, the default); how often a token's own entry is
            among the highest of its row (diagonal); the mean score by distance (positions); the
            eigenvalues; or the largest singular directions, read as tokens.
        effective: Use the effective embedding: what block 0's MLP makes of a token is added to it,
            W_E + MLP0(ln2(W_E)), with no attention between. For heads from layer 1 on.
        tokens: Only these queries, each a single token; repeat it for several. Every one gets pairs
            of its own.
        top: How many pairs at each end, or directions, to list.
        distance: With rotary positions: how many positions before the query the key stands.

    Raises:
        CircuitsError: for a head that is not there, a text that is not one token, options that do
            not belong together, a model without position embeddings, or with normalized queries.

    >>> from circuits.checkpoints import load
    >>> qk(load("compiled"), "a0.h0", show="positions").top(1, by="best").frame[["offset", "best"]]
       offset     best
    0       1  0.96875
    """
    view = view_of(model, head, show, effective=effective, tokens=tokens, top=top, views=VIEWS)
    require_distance(model, distance)
    kind = _kind(model, distance)
    with torch.inference_mode():
        if view.show == "positions":
            return in_result(model, kind, view, _offsets(model, view))
        return answer(model, kind, qk_circuit(model, effective=effective, distance=distance), view)


def _kind(model: HookedModel, distance: int) -> Kind:
    """What the entries are called in this model."""
    unit, cap = KIND.unit, model.cfg.scores_soft_cap
    if model.cfg.positional_embedding_type == "rotary":
        unit += f" at distance {distance}"
    return replace(KIND, unit=f"{unit} before the cap of {cap:g}" if cap else unit)


def _offsets(model: HookedModel, view: View) -> pd.DataFrame:
    """The score of the key so many positions back, against the query's other keys: a row each."""
    if model.cfg.positional_embedding_type == "rotary":
        raise CircuitsError(
            f"{model.cfg.model_name} has rotary positions, and no embeddings of them (W_pos); "
            "ask for its tokens at a distance (--distance)"
        )
    if view.effective:
        raise CircuitsError("positions have no effective embedding; leave out effective")
    assert view.head is not None  # without one, heads are compared
    matrix = position_circuit(model).of(view.head)
    scores = matrix.AB  # positions are few
    n = len(scores)
    seen = torch.ones_like(scores, dtype=torch.bool).tril()
    means = (scores * seen).sum(1) / seen.sum(1)
    highest = scores.masked_fill(~seen, -torch.inf).argmax(1)
    best_offset = torch.arange(n, device=scores.device) - highest
    rows = []
    for offset in range(n):
        relative = (scores - means[:, None]).diagonal(-offset)
        rows.append(
            {
                "component": str(view.head),
                "offset": offset,
                "value": relative.mean().item(),
                "lowest": relative.min().item(),
                "highest": relative.max().item(),
                "best": (best_offset == offset).double().mean().item(),
                "queries": n - offset,
            }
        )
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame
