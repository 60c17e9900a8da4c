"""Cases of a parametrized test, of which only a few run while one works."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def only(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases in their order, all but the quick ones marked as slow.

    >>> [getattr(case, "values", case) for case in only("a", "ab")]
    ['a', ('b',)]
    """
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
