"""What a view is: a function from a result to its figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from circuits.result import Result

View = Callable[["Result"], Figure]


def view(function: View) -> View:
    """Mark the function of a file of `circuits/figures/views/` as the view of its name."""
    return function
