"""A circuit as a figure: who writes to whom, by how much, with which sign?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from circuits.arrays import Bools
from circuits.components import Component
from circuits.figures.layers import EVERYWHERE, Curve, Layers, Node, layers
from circuits.figures.style import (
    BLUE,
    CATEGORIES,
    GRAY,
    INK,
    ORANGE,
    STYLE,
    Numbers,
    canvas,
    drawable,
    write_text,
)

MOST_EDGES = 200  # that can be told apart on paper
_INCH = (0.44, 0.46)  # the room that a node takes, across and upward
_BESIDE = 1.3  # inches for the names of layers, and margins
_WIDEST, _THINNEST = 4.5, 0.5  # points
_MOST_INK = 60  # as many edges as the largest; where there would be more, all are thinner
_DASHES = {"q": (0, (6, 2)), "k": (0, (1.5, 1.5)), "v": "-", None: "-"}  # in points
_LOOK = STYLE | {"lines.scale_dashes": False}
_CUBIC = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
_MOVES = (0, (6, 2, 1.5, 2))
_PALE = 0.35


@dataclass(frozen=True)
class Wording:
    """What a figure says of a circuit that its rows do not: see `wiring`."""

    title: str = ""
    metric: str = "the metric"
    classes: Mapping[Component, str] = field(default_factory=dict)


@rc_context(_LOOK)
def wiring(
    frame: pd.DataFrame,
    *,
    n_layers: int | None = None,
    positions: Sequence[str] | None = None,
    words: Wording = Wording(),
) -> Figure:
    """Who writes to whom? Layers from bottom to top, heads as dots, MLPs as squares.

    `frame` has the columns of `Circuit.frame`; those that are `kept` are drawn, at most the 200
    with the largest scores. Edges are as wide as their score is large, blue where it is above 0,
    orange below, pale where the interval contains 0; queries are dashed, keys dotted. Positions are
    columns. For `n_layers` and `positions` see `layers`; `words` has the title, the metric's name,
    and the classes of heads and MLPs.

    Raises:
        CircuitsError: as `layers`, and when nothing is kept.

    >>> rows = [("embed", "a0.h1<q>", None, 1.0), ("a0.h1", "logits", None, -2.0)]
    >>> columns = ["sender", "receiver", "position", "score"]
    >>> figure = wiring(pd.DataFrame(rows, columns=columns))
    >>> [text.get_text() for text in figure.axes[0].texts][:3]
    ['embed', '0.1', 'logits']
    """
    shown, note = largest(frame)
    picture = layers(shown, n_layers=n_layers, positions=positions)
    title = ", ".join(part for part in (words.title, note) if part)
    across = max(8.4, picture.width + 1.8)  # from edge to edge, in nodes
    width = across * _INCH[0] + _BESIDE
    figure, axes = canvas(width, (picture.height + 1.6) * _INCH[1] + _BESIDE, title)
    _frame_axes(axes, picture, across)
    scores = shown["score"].to_numpy(float)
    sizes = scores / (np.nanmax(np.abs(scores), initial=0.0) or 1.0)
    unsure = doubtful(shown)
    _draw_lines(axes, picture, sizes, unsure)
    for _, _, curve in picture.moves:
        _draw(axes, curve, color=GRAY, linewidth=0.8, linestyle=_MOVES, zorder=0.9)
    colors = class_colors(words.classes, picture.nodes)
    for node in picture.nodes:
        size = float("nan") if node.row is None else float(sizes[node.row])
        pale = node.row is not None and bool(unsure[node.row])
        _draw_node(axes, node, colors.get(words.classes.get(node.part, "")), size, pale)
    figure.legend(
        handles=_legend(picture, sizes, unsure, words, colors),
        loc="outside lower left",
        ncols=max(1, int(width / 2.5)),
        frameon=False,
        fontsize=8,
        handlelength=2.8,
    )
    return figure


def largest(frame: pd.DataFrame, most: int = MOST_EDGES) -> tuple[pd.DataFrame, str]:
    """The rows to be drawn, and what has to be said if they are not all that are kept.

    >>> frame = pd.DataFrame({"score": [1.0, -3.0, 2.0], "kept": [True, True, False]})
    >>> largest(frame, 1)[0].index.tolist(), largest(frame, 1)[1]
    ([1], 'the largest 1 of 2')
    """
    kept = frame[frame["kept"].astype(bool)] if "kept" in frame else frame
    if len(kept) <= most or "score" not in kept:
        return kept, ""
    order = kept["score"].abs().sort_values(ascending=False, kind="stable").index[:most]
    return kept.loc[order], f"the largest {most:,} of {len(kept):,}"


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """A result's rows as `Circuit.frame` has them: their ``value`` is the score, if none is there.

    >>> scored(pd.DataFrame({"value": [1.0]})).columns.tolist()
    ['score']
    """
    return frame if "score" in frame else frame.rename(columns={"value": "score"})


def doubtful(frame: pd.DataFrame) -> Bools:
    """Which rows' intervals contain 0."""
    if "ci_low" not in frame:
        return np.zeros(len(frame), dtype=bool)
    low, high = frame["ci_low"].to_numpy(float), frame["ci_high"].to_numpy(float)
    unsure: Bools = (low <= 0) & (high >= 0)
    return unsure


def class_colors(classes: Mapping[Component, str], nodes: Sequence[Node]) -> dict[str, str]:
    """A color for each class that a node has, the same whatever else is drawn."""
    known = sorted(set(classes.values()))
    colors = dict(zip_longest(known, CATEGORIES[: len(known)], fillvalue=GRAY))
    here = {classes[node.part] for node in nodes if node.part in classes}
    return {name: color for name, color in colors.items() if name in here}


def short(part: Component) -> str:
    """A part's name in few letters: 5.3 is head 3 of layer 5.

    >>> short(Component("head", 5, 3)), short(Component("mlp", 5))
    ('5.3', 'm5')
    """
    return f"{part.layer}.{part.head}" if part.kind == "head" else str(part)


def _frame_axes(axes: Axes, picture: Layers, across: float) -> None:
    """Names of layers at the left and of positions below, with bands behind every second layer."""
    middle = picture.width / 2
    axes.set_xlim(middle - across / 2, middle + across / 2)
    axes.set_ylim(-0.8, picture.height + 0.8)
    axes.set_yticks(
        [(low + high) / 2 for _, low, high in picture.rows],
        [name for name, _, _ in picture.rows],
    )
    axes.tick_params(axis="y", colors=GRAY)
    axes.set_xticks([])
    if [name for name, _, _ in picture.columns] != [EVERYWHERE]:
        axes.set_xticks(
            [(low + high) / 2 for _, low, high in picture.columns],
            [drawable(name, 20) if name else "all positions" for name, _, _ in picture.columns],
        )
        for (_, _, end), (_, start, _) in pairwise(picture.columns):
            axes.axvline((start + end) / 2, color="#d0d0d0", linewidth=0.8, zorder=0)
    for low, high in picture.bands[::2]:
        axes.axhspan(low, high, color="#f5f5f5", linewidth=0, zorder=-1)


def _draw_lines(axes: Axes, picture: Layers, sizes: Numbers, unsure: Bools) -> None:
    """Draw the edges, the largest on top; `sizes` are scores from -1 to 1."""
    magnitude = np.nan_to_num(np.abs(sizes))
    rank = np.argsort(np.argsort(magnitude, kind="stable"), kind="stable")
    thickest = (_WIDEST - _THINNEST) * min(1.0, _MOST_INK / max(magnitude.sum(), 1.0))
    for line in picture.lines:
        size = sizes[line.row]
        known = not np.isnan(size)
        _draw(
            axes,
            line.curve,
            color=_color(size),
            linewidth=_THINNEST + thickest * abs(size) if known else 0.9,
            linestyle=_DASHES[line.slot],
            alpha=_PALE if unsure[line.row] else 0.85 if known else 0.6,
            zorder=1 + rank[line.row] / len(sizes),
        )


def _color(score: float) -> str:
    return GRAY if np.isnan(score) else BLUE if score >= 0 else ORANGE


def _draw(axes: Axes, curve: Curve, **style: Any) -> None:
    axes.add_patch(PathPatch(Path(curve, _CUBIC), fill=False, capstyle="butt", **style))


def _draw_node(axes: Axes, node: Node, color: str | None, size: float, pale: bool) -> None:
    """A dot for a head, a square for an MLP or a neuron, words for the ends of the model."""
    name = short(node.part)
    if node.part.layer is None:
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#eeeeee", "edgecolor": INK}
        write_text(axes, node.x, node.y, name, fontsize=8, zorder=5, bbox=box | {"linewidth": 0.8})
        return
    known = not np.isnan(size)
    axes.plot(
        node.x,
        node.y,
        "o" if node.part.kind == "head" else "s",
        markersize=21 if node.part.kind == "head" else 19,
        markerfacecolor="white" if color is None else _tint(color),
        markeredgecolor=to_rgba(_color(size), _PALE if pale else 1) if known else color or INK,
        markeredgewidth=1 + 3 * abs(size) if known else 1.1,
        zorder=4,
    )
    write_text(axes, node.x, node.y, name, fontsize=6.5 if len(name) > 4 else 7.5, zorder=5)


def _tint(color: str) -> tuple[float, ...]:
    """The color, light enough for letters on it."""
    return tuple(0.65 + 0.35 * channel for channel in to_rgb(color))


def _legend(
    picture: Layers, sizes: Numbers, unsure: Bools, words: Wording, colors: Mapping[str, str]
) -> list[Line2D]:
    """What the picture's signs mean, of those that are in it."""
    slots = {line.slot for line in picture.lines}
    meanings: list[tuple[str, dict[str, Any]]] = []
    if (sizes >= 0).any():
        meanings.append((f"corrupting it raises {words.metric}", {"color": BLUE, "linewidth": 3}))
    if (sizes < 0).any():
        meanings.append((f"corrupting it lowers {words.metric}", {"color": ORANGE, "linewidth": 3}))
    if np.isnan(sizes).all() and picture.lines:
        meanings.append(("no scores", {"color": GRAY}))
    if unsure.any():
        pale = {"color": INK, "alpha": _PALE, "linewidth": 3}
        meanings.append(("pale: the interval contains 0", pale))
    for slot, name in {"q": "into a query", "k": "into a key", "v": "into a value"}.items():
        if slot in slots:
            meanings.append((name, {"color": INK, "linestyle": _DASHES[slot]}))
    if picture.moves:
        meanings.append(
            ("one head at two positions", {"color": GRAY, "linestyle": _MOVES, "linewidth": 0.8})
        )
    if not picture.lines:
        meanings.append(("the circuit has every edge between these", {"linewidth": 0}))
    dot = {"marker": "o", "linestyle": "", "markersize": 9}
    for name, color in colors.items():
        fill = {"markerfacecolor": _tint(color), "markeredgecolor": color}
        meanings.append((drawable(name, 30), dot | fill))
    return [Line2D([], [], label=name, **style) for name, style in meanings]
