"""The numbers behind a mean, kept while two answers are compared draw by draw.

A result has the mean of each row and not each prompt's own number. Inside of ``with kept() as
draws`` every mean that is taken leaves its numbers, and `Draws.behind` finds them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]


class Draws:
    """The numbers of all means that were taken.

    >>> draws = Draws()
    >>> draws.keep(np.array([2.0]), np.array([1.0]), np.array([[1.0, 3.0]]))
    >>> draws.behind(2.0, 1.0), draws.behind(-2.0, 1.0), draws.behind(5.0, 1.0)
    (array([1., 3.]), array([-1., -3.]), None)
    """

    def __init__(self) -> None:
        self._behind: dict[tuple[float, float], Numbers | None] = {}

    def keep(self, means: Numbers, stderrs: Numbers, values: Numbers) -> None:
        """Keep the values [... n] behind means and their standard errors [...]."""
        for place in np.ndindex(means.shape):
            key = float(means[place]), float(stderrs[place])
            known = self._behind.setdefault(key, values[place])
            if known is None or not np.array_equal(known, values[place]):
                self._behind[key] = None  # of two that look alike nobody knows which is meant

    def behind(self, mean: float, stderr: float) -> Numbers | None:
        """The numbers [n] that have this mean and standard error, if they are known."""
        found = self._behind.get((mean, stderr))
        if found is not None:
            return found
        turned = self._behind.get((-mean, stderr))
        return None if turned is None else -turned


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
