"""Attention patterns: where does each head look?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from circuits.errors import CircuitsError
from circuits.figures.style import (
    MOST_POSITIONS,
    SEQUENTIAL,
    STYLE,
    Numbers,
    add_axes,
    color_bar,
    drawable,
    new_figure,
    visible,
)

_MOST_PATTERNS = 160  # 12 layers of 12 heads, and some
_MOST_LABELED = 32  # tokens up to which both axes carry them
_ACROSS = 8


@rc_context(STYLE)
def pattern_grid(
    patterns: Mapping[str, Numbers], tokens: Sequence[str], *, title: str = "", unit: str = ""
) -> Figure:
    """Where does each head look? A square for each name: queries downward, keys to the right.

    `patterns` maps names to attention [query, key] from 0 to 1, all over the same `tokens`.

    Raises:
        CircuitsError: when there are no patterns or too many, a pattern is no square over the
            tokens, or there are more tokens than can be read.

    >>> figure = pattern_grid({"a0.h0": np.eye(2)}, ["the", " cat"])
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['the', '·cat']
    """
    n = len(tokens)
    if not 0 < len(patterns) <= _MOST_PATTERNS or n > MOST_POSITIONS:
        raise CircuitsError(
            f"a picture shows 1 to {_MOST_PATTERNS} patterns over at most {MOST_POSITIONS} tokens; "
            f"given were {len(patterns)} over {n}; choose some heads, or a shorter prompt"
        )
    for name, pattern in patterns.items():
        if pattern.shape != (n, n):
            raise CircuitsError(f"{name}: a pattern over {n} tokens is no {pattern.shape}")
    across = min(len(patterns), _ACROSS)
    down = -(-len(patterns) // across)
    alone = len(patterns) <= 4 and n <= _MOST_LABELED
    side = min(0.24 * n + 1.2, 7.5) if alone else 1.5
    figure = new_figure(side * across + 0.8, side * down + 0.5)
    places = figure.add_gridspec(down, across)
    for i, (name, pattern) in enumerate(patterns.items()):
        ax = add_axes(figure, places[divmod(i, across)], name)
        future = np.triu(np.ones_like(pattern, dtype=bool), 1)
        ax.set_facecolor("#f2f2f2")
        image = ax.imshow(
            np.ma.masked_where(future, pattern), cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="equal"
        )
        if alone:
            shown = [visible(token, 10) for token in tokens]
            ax.set_xticks(range(n), shown, rotation=90, size=8)
            ax.set_yticks(range(n), shown, size=8)
            ax.set(xlabel="looks at", ylabel="from")
        else:
            ax.set(xticks=[], yticks=[])
    if alone:
        color_bar(figure, ax, image, unit)
    if title:
        figure.suptitle(drawable(title, 400), x=0.01, ha="left", fontsize=12)
    return figure
