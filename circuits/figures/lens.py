"""The classic picture of the logit lens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from circuits.errors import CircuitsError
from circuits.figures.style import (
    INK,
    MOST_POSITIONS,
    SEQUENTIAL,
    STYLE,
    Numbers,
    canvas,
    cell_borders,
    color_bar,
    label_axis,
    visible,
    write_text,
)


@rc_context(STYLE)
def lens_grid(
    tokens: Sequence[Sequence[str]],
    probabilities: Numbers,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> Figure:
    """What would each layer say after each token? The classic picture of the logit lens.

    `tokens` [r c] are the top tokens, `probabilities` [r c] color their cells. `rows` names the
    layers from the first to the last (drawn from the bottom up), `columns` the prompt's tokens.

    Raises:
        CircuitsError: when shapes disagree, or there are more positions than can be read.

    >>> import numpy as np
    >>> share = np.array([[0.4, 0.1]])
    >>> grid = lens_grid([[" the", " a"]], share, rows=["m0"], columns=["to", "be"])
    >>> [text.get_text() for text in grid.axes[0].texts]
    ['·the', '·a']
    """
    shape = (len(rows), len(columns))
    widths = {len(line) for line in tokens}
    if probabilities.shape != shape or len(tokens) != shape[0] or widths != {shape[1]}:
        raise CircuitsError(
            f"{shape[0]} row and {shape[1]} column labels need as many tokens and probabilities; "
            f"given were tokens {(len(tokens), *sorted(widths))} and probabilities "
            f"{probabilities.shape}"
        )
    if shape[1] > MOST_POSITIONS:
        raise CircuitsError(
            f"a picture of {shape[1]} positions cannot be read; choose at most {MOST_POSITIONS} "
            "of them"
        )
    figure, axes = canvas(shape[1] * 0.82 + 2, shape[0] * 0.27 + 1.5, title)
    image = axes.imshow(
        probabilities, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", origin="lower"
    )
    for i, line in enumerate(tokens):
        for j, token in enumerate(line):
            color = "white" if probabilities[i, j] > 0.75 else INK
            write_text(axes, j, i, visible(token, 10), color=color, size=7.5)
    cell_borders(axes, shape)
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(shape[1]), [visible(token, 10) for token in columns], **slanted)
    label_axis(axes.yaxis, shape[0], rows)
    axes.set_xlabel("prompt")
    color_bar(figure, axes, image, "probability of the top token")
    return figure
