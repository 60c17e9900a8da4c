"""The attention viewer: where does each head look?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from circuits.pages.numbers import packed_array, rounded
from circuits.pages.viewers import Viewer
from circuits.result import Result

# Columns that tell one number of each query, as a share, and what it means.
_AVERAGED = {
    "entropy_share": "how evenly it spreads (0: one token, 100 %: all alike)",
    "left_out": "left out here, as too small",
}
_FINEST = 65535  # weights are told in steps of 1 / 65535


def data(result: Result) -> dict[str, Any]:
    """What the viewer reads of a result: see `packed`."""
    return packed(result.frame)


def packed(frame: pd.DataFrame) -> dict[str, Any]:
    """Tokens, heads, and each head's weights: only those that the frame has a row for.

    The weights are sorted by head, query and key; `starts` [heads * tokens + 1] says where those
    of each query begin, `keys` and `weights` are one entry each.
    """
    tokens = _tokens(frame)
    names = list(dict.fromkeys(frame["component"]))
    order = {name: i for i, name in enumerate(names)}
    heads = frame["component"].map(order).to_numpy(int)
    queries, keys = frame["query"].to_numpy(int), frame["key"].to_numpy(int)
    by = np.lexsort((keys, queries, heads))
    rows = heads * len(tokens) + queries
    counts = np.bincount(rows, minlength=len(names) * len(tokens))
    weights = np.clip(frame["value"].to_numpy(float), 0, 1)
    return {
        "tokens": tokens,
        "heads": names,
        "starts": packed_array(np.concatenate([[0], counts.cumsum()]), "u4"),
        "keys": packed_array(keys[by], "u2"),
        "weights": packed_array(np.rint(weights[by] * _FINEST), "u2"),
        "averages": _averages(frame, names),
    }


def _averages(frame: pd.DataFrame, names: list[str]) -> dict[str, list[float | None]]:
    """What is known of each query, averaged over each head's: text and numbers, a head each."""
    queries = frame.drop_duplicates(["component", "query"]).groupby("component", sort=False)
    return {
        text: rounded(queries[column].mean().reindex(names).to_numpy(float))
        for column, text in _AVERAGED.items()
        if column in frame
    }


def _tokens(frame: pd.DataFrame) -> list[str]:
    """The prompt, as far as the rows tell it."""
    known: dict[int, str] = {}
    for place, text in (("query", "query_token"), ("key", "key_token")):
        rows = frame.drop_duplicates(place)
        known |= dict(zip(rows[place].astype(int), rows[text].astype(str), strict=True))
    return [known.get(i, "") for i in range(max(known) + 1)]


VIEWER = Viewer(
    data, needs=("component", "query", "key", "query_token", "key_token", "value"), view="patterns"
)
