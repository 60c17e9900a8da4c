"""The viewer of the logit lens: what would each layer say after each token?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from circuits.pages.numbers import rounded
from circuits.pages.viewers import Viewer
from circuits.result import Result

# What may color the cells, and what else a cell tells: column, name.
_NUMBERS = {
    "probability": "probability of the top token",
    "answer_probability": "probability of the final answer",
    "answer_rank": "rank of the final answer",
    "kl": "KL from the final prediction, nats",
    "entropy": "entropy, nats",
}


def data(result: Result) -> dict[str, Any]:
    """The grid's names, and for each cell (stage by stage) its top tokens and numbers."""
    every = result.frame
    stages, positions = (list(dict.fromkeys(every[name])) for name in ("stage", "position"))
    place = {(s, p): i for i, (s, p) in enumerate((s, p) for s in stages for p in positions)}
    at = [place[key] for key in zip(every["stage"], every["position"], strict=True)]
    every = every.iloc[np.argsort(at, kind="stable")]
    frame = every.drop_duplicates(["stage", "position"])  # tokens that are followed have rows each
    n_top = sum(str(name).startswith("token") for name in frame.columns)
    columns = ["token", *(f"token_{k + 1}" for k in range(1, n_top))]
    first = frame.drop_duplicates("position").sort_values("position")
    after = [str(token) for token in first["after"]] if "after" in first else []
    return {
        "stages": [str(stage) for stage in stages],
        "positions": [int(position) for position in positions],
        "after": after,
        "answers": [str(token) for token in first["answer"]] if "answer" in first else [],
        "tokens": [frame[name].astype(str).tolist() for name in columns],
        "shares": [
            rounded(frame[name.replace("token", "probability")].to_numpy(float)) for name in columns
        ],
        "numbers": {
            name: {"name": text, "values": rounded(frame[name].to_numpy(float))}
            for name, text in _NUMBERS.items()
            if name in frame
        }
        | dict(_followed(every)),
        "takes_over": frame["takes_over"].tolist() if "takes_over" in frame else [],
    }


def _followed(frame: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    """The probability of each token that is followed through the stages."""
    if "target" not in frame:
        return
    for i, (token, rows) in enumerate(frame.groupby("target", sort=False)):
        values = rounded(rows["value"].to_numpy(float))
        yield f"target_{i}_probability", {"name": f"probability of {token!r}", "values": values}


VIEWER = Viewer(data, needs=("position", "stage", "token", "probability"), view="lens")
