"""Attention patterns: where does each head look?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from einops import reduce
from matplotlib import rc_context
from matplotlib.figure import Figure

from circuits.errors import CircuitsError
from circuits.figures.style import (
    GRAY,
    MOST_POSITIONS,
    SEQUENTIAL,
    STYLE,
    Numbers,
    add_axes,
    color_bar,
    in_lines,
    new_figure,
    visible,
)

_MOST_PATTERNS = 160  # 12 layers of 12 heads, and some
_MOST_TOKENS = 1024  # GPT-2's context
_MOST_LABELED = 32  # tokens up to which both axes of a few patterns carry them
_FEW, _ACROSS = 4, 8
_MOST_CELLS = {True: 256, False: 64}  # in a row of a picture, of a few patterns and of many


@rc_context(STYLE)
def pattern_grid(
    patterns: Mapping[str, Numbers], tokens: Sequence[str], *, title: str = "", unit: str = ""
) -> Figure:
    """Where does each head look? A square for each name: queries downward, keys to the right.

    `patterns` maps names to attention [query, key] from 0 to 1, all over the same `tokens`, which
    stand at the axes where there is room. What is missing (NaN) is empty. Where there are more
    tokens than a picture has room for, a cell is the largest weight of a block.

    Raises:
        CircuitsError: when there are no patterns or too many, a pattern is no square over the
            tokens, or there are more tokens than a picture can show.

    >>> figure = pattern_grid({"a0.h0": np.eye(2)}, ["the", " cat"])
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['the', '·cat']
    """
    n = len(tokens)
    if not 0 < len(patterns) <= _MOST_PATTERNS or n > _MOST_TOKENS:
        raise CircuitsError(
            f"a picture shows 1 to {_MOST_PATTERNS} patterns over at most {_MOST_TOKENS} tokens; "
            f"given were {len(patterns)} over {n}; choose some heads, or a shorter prompt"
        )
    for name, pattern in patterns.items():
        if pattern.shape != (n, n):
            raise CircuitsError(f"{name}: a pattern over {n} tokens is no {pattern.shape}")
    across = min(len(patterns), _ACROSS)
    down = -(-len(patterns) // across)
    few = len(patterns) <= _FEW
    labeled = few and n <= (MOST_POSITIONS if len(patterns) == 1 else _MOST_LABELED)
    side = min(0.24 * n + 1.2, 7.5 if n <= _MOST_LABELED else 11) if labeled else 4 if few else 1.5
    figure = new_figure(side * across + 0.8, side * down + 0.5)
    places = figure.add_gridspec(down, across)
    block = -(-n // _MOST_CELLS[few])
    for i, (name, weights) in enumerate(patterns.items()):
        pattern = _largest(weights, block)
        ax = add_axes(figure, places[divmod(i, across)], name, side)
        future = np.triu(np.ones_like(pattern, dtype=bool), 1)
        ax.set_facecolor("#f2f2f2")
        image = ax.imshow(
            np.ma.masked_where(future, pattern), cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="equal"
        )
        if labeled:
            shown, size = [visible(token, 10) for token in tokens], 8 if n <= _MOST_LABELED else 6
            ax.set_xticks(range(n), shown, rotation=90, size=size)
            ax.set_yticks(range(n), shown, size=size)
            ax.set(xlabel="looks at", ylabel="from")
        else:
            ax.set(xticks=[], yticks=[])
    if few:
        color_bar(figure, ax, image, unit)
    if not labeled:
        signs = f"{n} tokens: looks at to the right, from downward; dark is 1, white 0"
        signs += f"; a cell is the largest weight of {block} x {block}" if block > 1 else ""
        figure.supxlabel(signs, fontsize=8, color=GRAY)
    if title:
        figure.suptitle(in_lines(title, figure.get_figwidth()), x=0.01, ha="left", fontsize=12)
    return figure


def _largest(pattern: Numbers, block: int) -> Numbers:
    """The largest of each block by block weights; NaN where all are missing."""
    if block == 1:
        return pattern
    missing, margin = -1.0, -len(pattern) % block
    padded = np.pad(np.nan_to_num(pattern, nan=missing), (0, margin), constant_values=missing)
    tallest = reduce(padded, "(q i) (k j) -> q k", "max", i=block, j=block)
    largest: Numbers = np.where(tallest == missing, np.nan, tallest)
    return largest
