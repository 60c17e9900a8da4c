"""Two answers to the same question, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd

from circuits.errors import CircuitsError, nearest
from circuits.intervals import Draws
from circuits.result import AVERAGED, Result, mean_interval

# Columns that say what a row is about, not what came out there.
LABELS = (
    *("task", "template", "variable", "subspace", "component", "edge", "stage", "layer", "head"),
    *("position", "metric", "unit"),
)
KEPT = "kept"  # whether a circuit has this part


def answers_compared(
    first: Result, second: Result, column: str, names: Sequence[str]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Both answers row by row, and the columns that label them in a figure.

    The columns are what the rows are about, value_a and value_b of the two answers' `column`, value
    (second minus first) and only_in (of `names`, whose row it is alone); of means also stderr,
    ci_low, ci_high and n of the difference, and whether it is paired; of circuits whether this part
    is in both, or gained or lost.

    Raises:
        CircuitsError: when they are about other prompts, in other units, or share no row.
    """
    _require_same_question(first, second)
    for answer in (first, second):
        _require_number(answer, column)
    keys = _keys(first, second)
    old, new = (_by_key(answer, keys) for answer in (first, second))
    if not old.keys() & new.keys():
        raise CircuitsError(
            f"the answers of {names[0]} and {names[1]} have no row in common (by "
            f"{', '.join(keys)}): their parts are named differently, so there is nothing to compare"
        )
    averaged = column == "value" and all("n" in answer.frame for answer in (first, second))
    either, rows = new | old, []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        about = {name: either[key].columns[name] for name in keys}
        change = _change(a, b, column)
        interval = _interval(a, b, change["value"]) if averaged else {}
        only_in = names[0] if b is None else names[1] if a is None else None
        rows.append({**about, **change, **interval, **_circuits(a, b), "only_in": only_in})
    frame = pd.DataFrame(rows)
    for name in keys:
        frame[name] = frame[name].astype(first.frame[name].dtype)
    axes = tuple(axis for axis in first.axes if axis in keys)
    return frame, axes or (keys[0],)


@dataclass(frozen=True)
class _Row:
    """A row of an answer: its columns, and if they are known the numbers that its mean is of."""

    columns: Mapping[str, Any]
    draws: Draws | None = None


def _require_same_question(first: Result, second: Result) -> None:
    if first.provenance.prompts != second.provenance.prompts:
        raise CircuitsError(
            f"{first.provenance.model} and {second.provenance.model} would be asked different "
            "tokens: their vocabularies or contexts differ, so the same prompts are not the same "
            "to them and the numbers cannot be compared; give models of one vocabulary"
        )
    if first.unit != second.unit:
        raise CircuitsError(
            f"the answers are in different units, {first.unit} and {second.unit}; give the metric"
        )


def _require_number(result: Result, column: str) -> None:
    frame = result.frame
    numbers = [str(name) for name in frame if pd.api.types.is_numeric_dtype(frame[name])]
    if column not in numbers:
        raise CircuitsError(
            f"{result.provenance.analysis} has no number {column!r} to compare; choose a column "
            f"of {', '.join(numbers)}{nearest(column, numbers)}"
        )


def _keys(first: Result, second: Result) -> list[str]:
    """The columns that tell the rows of either answer apart.

    The figure's axes and what is known to be a label; then others that are no measurements, until
    no two rows are alike.
    """
    shared = [str(name) for name in first.frame if name in second.frame.columns]
    shared_labels = [name for name in shared if name in LABELS or name in first.axes]
    labels = [name for name in shared_labels if not _is_measured(first, name)]
    more = [
        name
        for name in shared
        if name not in labels and name not in AVERAGED and not _is_measured(first, name)
    ]
    for n in range(len(more) + 1):
        keys = [*labels, *more[:n]]
        if keys and not any(answer.frame.duplicated(keys).any() for answer in (first, second)):
            return [name for name in shared if name in keys]
    raise CircuitsError(
        f"the rows of {first.provenance.analysis} cannot be told apart by {', '.join(labels)}, so "
        "those of the two models cannot be matched"
    )


def _is_measured(answer: Result, column: str) -> bool:
    return bool(pd.api.types.is_float_dtype(answer.frame[column]))


def _by_key(answer: Result, keys: Sequence[str]) -> dict[tuple[str, ...], _Row]:
    """The answer's rows by what they are about."""
    draws = repeat(None) if answer.draws is None else answer.draws
    records = answer.frame.to_dict("records")
    rows = [
        _Row({str(name): value for name, value in record.items()}, numbers)
        for record, numbers in zip(records, draws, strict=False)
    ]
    return {tuple(str(row.columns[name]) for name in keys): row for row in rows}


def _change(a: _Row | None, b: _Row | None, column: str) -> dict[str, float]:
    """The columns value_a, value_b and value."""
    old, new = (np.nan if row is None else float(row.columns[column]) for row in (a, b))
    return {"value_a": old, "value_b": new, "value": new - old}


def _circuits(a: _Row | None, b: _Row | None) -> dict[str, str | None]:
    """The column circuit, where the answers are circuits: whether the second gained this part."""
    rows = [row for row in (a, b) if row is not None]
    if not all(KEPT in row.columns for row in rows):
        return {}
    had, has = (row is not None and bool(row.columns[KEPT]) for row in (a, b))
    names = {(True, True): "both", (False, True): "gained", (True, False): "lost"}
    return {"circuit": names.get((had, has))}


def _interval(a: _Row | None, b: _Row | None, change: float) -> dict[str, Any]:
    """The columns stderr to paired of the difference between two means."""
    if a is None or b is None:
        missing = dict.fromkeys(("stderr", "ci_low", "ci_high"), np.nan)
        return missing | {"n": 0, "paired": False}
    old, new = a.draws, b.draws
    if old is not None and new is not None and len(old.values) == len(new.values):
        differences = new.values - old.values
        ends = mean_interval(differences, scale=old.scale.change, groups=old.groups)
        interval = {name: float(ends[name]) for name in ("stderr", "ci_low", "ci_high")}
        return interval | {"n": len(differences), "paired": True}
    first, second = a.columns, b.columns
    up = np.hypot(second["ci_high"] - second["value"], first["value"] - first["ci_low"])
    down = np.hypot(second["value"] - second["ci_low"], first["ci_high"] - first["value"])
    return {
        "stderr": float(np.hypot(first["stderr"], second["stderr"])),
        "ci_low": change - float(down),
        "ci_high": change + float(up),
        "n": int(min(first["n"], second["n"])),
        "paired": False,
    }
