"""Squares of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from circuits.figures.patterns import pattern_grid
from circuits.figures.views.base import view

if TYPE_CHECKING:
    from circuits.result import Result


@view
def patterns(result: Result) -> Figure:
    """A square of attention for each head: axes are head's name, query and key.

    Pairs without a row count as 0, and queries without any are left empty.
    """
    name, query, key = result.axes
    frame = result.frame
    tokens: dict[Any, str] = {}
    for axis in (query, key):
        text = f"{axis}_token" if f"{axis}_token" in frame else axis
        rows = frame.drop_duplicates(axis)
        tokens |= dict(zip(rows[axis], rows[text].astype(str), strict=True))
    order = sorted(tokens)
    grids = {
        str(head): part.pivot(index=query, columns=key, values="value")
        .reindex(columns=order)
        .fillna(0)
        .reindex(index=order)
        .to_numpy(float)
        for head, part in frame.groupby(name, sort=False)
    }
    words = [tokens[place] for place in order]
    return pattern_grid(grids, words, title=result.title, unit=result.unit)
