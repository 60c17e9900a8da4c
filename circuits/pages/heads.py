"""The viewer of heads: what kind is each, and how do we know?"""

from __future__ import annotations

from typing import Any

import pandas as pd

from circuits.pages.numbers import rounded
from circuits.pages.viewers import Viewer
from circuits.result import Result

_KNOWN = ("value", "ci_low", "ci_high", "control")
_SCORES = (*_KNOWN, "cost", "cost_low", "cost_high")  # costs may not have been measured
_ABOUT = ("unit", "behavior", "metric", "cost_unit")


def data(result: Result) -> dict[str, Any]:
    """The heads, the kinds, and for each kind its numbers, one for each head."""
    frame = result.frame
    heads = frame.drop_duplicates("component")
    order = list(heads["component"])
    kinds = []
    for kind, rows in frame.groupby("kind", sort=False):
        part = rows.set_index("component").reindex(order)
        kinds.append(
            {
                "kind": str(kind),
                "about": {name: _known(rows[name]) for name in _ABOUT if name in rows},
                "clear": [bool(flag) for flag in part["clear"].eq(True)],
                "numbers": {
                    name: rounded(part[name].to_numpy(float, na_value=float("nan")))
                    for name in _SCORES
                    if name in part and (name in _KNOWN or part[name].notna().any())
                },
                "note": _known(rows["note"]) if "note" in rows else "",
            }
        )
    return {
        "heads": [str(name) for name in order],
        "layers": [int(layer) for layer in heads["layer"]],
        "indices": [int(head) for head in heads["head"]],
        "names": [str(name) for name in heads["name"]],
        "kinds": kinds,
    }


def _known(column: pd.Series[Any]) -> str:
    """The first text that is there."""
    known = column.dropna()
    return str(known.iloc[0]) if len(known) else ""


VIEWER = Viewer(
    data,
    needs=("component", "layer", "head", "kind", "name", "clear", "value", "control", "unit"),
    view="heatmap",
)
