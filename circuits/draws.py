"""The numbers behind a mean, kept while two answers are compared draw by draw.

A result has the mean of each row and not each prompt's own number. Inside of ``with kept() as
draws`` every mean that is taken leaves its numbers, and a column `COLUMN` that says which they are;
`Draws.behind` finds them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.intervals import REAL, Scale

Numbers = NDArray[np.floating[Any]]
COLUMN = "draws"


@dataclass(frozen=True, eq=False)
class Behind:
    """What a mean is of: `values` [n] on a `scale`, and if they came in groups, which [n]."""

    values: Numbers
    scale: Scale = REAL
    groups: tuple[str, ...] | None = None

    def like(self, other: Behind) -> bool:
        """Are these the same numbers?"""
        return np.array_equal(self.values, other.values) and self.groups == other.groups


class Draws:
    """The numbers of all means that were taken.

    >>> draws = Draws()
    >>> which = draws.keep(np.array([2.0]), np.array([1.0]), Behind(np.array([[1.0, 3.0]])))
    >>> row = {"value": 2.0, "stderr": 1.0}
    >>> draws.behind(row).values, draws.behind(row | {"value": -2.0}).values
    (array([1., 3.]), array([-1., -3.]))
    >>> draws.behind(row | {"value": 5.0})
    """

    def __init__(self) -> None:
        self._all: list[tuple[float, Behind]] = []
        self._alike: dict[tuple[float, float], Behind | None] = {}

    def keep(self, means: Numbers, stderrs: Numbers, behind: Behind) -> NDArray[np.int64]:
        """Keep the values [... n] behind means and their standard errors [...]: which they are."""
        which = np.empty(means.shape, dtype=np.int64)
        for place in np.ndindex(means.shape):
            one, key = (
                replace(behind, values=behind.values[place]),
                (float(means[place]), float(stderrs[place])),
            )
            which[place] = len(self._all)
            self._all.append((key[0], one))
            known = self._alike.setdefault(key, one)
            if known is None or not known.like(one):
                self._alike[key] = None  # of two that look alike nobody knows which is meant
        return which

    def behind(self, row: Mapping[str, Any]) -> Behind | None:
        """The numbers of which this row is the mean, or minus the mean, if they are known."""
        mean, index = float(row["value"]), row.get(COLUMN)
        if index is not None and index == index:  # NaN differs from itself
            known, found = self._all[int(index)]
            if mean == known:
                return found
            return replace(found, values=-found.values) if mean == -known else None
        stderr = float(row["stderr"])
        alike = self._alike.get((mean, stderr))
        if alike is not None:
            return alike
        turned = self._alike.get((-mean, stderr))
        return None if turned is None else replace(turned, values=-turned.values)


_KEPT: ContextVar[Draws | None] = ContextVar("draws", default=None)


@contextmanager
def kept() -> Iterator[Draws]:
    """Keep the numbers of every mean that is taken inside."""
    draws = Draws()
    before = _KEPT.set(draws)
    try:
        yield draws
    finally:
        _KEPT.reset(before)


def keeper() -> Draws | None:
    """Who wants to know the numbers of a mean now, if anybody does?"""
    return _KEPT.get()
