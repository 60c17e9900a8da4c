"""Where do the parts of a circuit stand? Its layers from bottom to top, its roles as columns.

A node stands in the row of its layer, heads below their layer's MLP, and in the column of the
position at which it reads or writes. In its row it stands near what it is connected to; MLPs have a
lane of their own, at the right of the column. The figure and the page draw the same places.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from circuits.arrays import Ints
from circuits.components import Component, Slot, parse
from circuits.errors import CircuitsError
from circuits.figures.style import Numbers

NEEDS = ("sender", "receiver", "position", "score")  # the columns that a frame has to have
EVERYWHERE = ""  # the column of what acts at every position
_EMPTY = 0.3  # the height of a row in which nobody stands, of one in which somebody does
_BETWEEN = 1.2  # room between two columns
_LANE = 1.3  # from the last head to the MLPs
_ROUNDS = 8  # up and down, until nodes stand near what they are connected to
_PORTS: Mapping[Slot | None, float] = {None: 0.0, "q": -0.2, "k": 0.0, "v": 0.2}  # beside a node
_REACH = 0.3  # from the middle of a node to where its edges begin and end
# Ways around the nodes between: how far to the side, the straight one first; what one node's
# width of that costs, in nodes hidden behind; and how close to a node is behind it.
_BOWS = np.array([(x, 0.0) for x in (0, 0.6, -0.6, 1.2, -1.2, 1.8, -1.8, 2.6, -2.6)])
_COST = 0.12
_WIDE = np.array([0.42, 0.4])
_OUT = 1.1  # of the column
_STEPS = np.linspace(0.03, 0.97, 16)
_BERNSTEIN = np.stack(
    [math.comb(3, i) * _STEPS**i * (1 - _STEPS) ** (3 - i) for i in range(4)], axis=1
)
Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]  # of a cubic: its ends, and two points that pull at it
_Place = tuple[Component, str]  # a node, and the column in which it stands


@dataclass(frozen=True)
class Node:
    """A part of the model at a position, and where its middle is.

    `row` is that of the frame which is about the node itself, where parts are no edges.
    """

    part: Component
    column: str
    x: float
    y: float
    row: int | None


@dataclass(frozen=True)
class Line:
    """An edge: its row of the frame, and its ends by their places among the nodes."""

    row: int
    sender: int
    receiver: int
    slot: Slot | None
    curve: Curve


@dataclass(frozen=True)
class Layers:
    """The picture of a circuit; one is the room that a node takes.

    `moves` join nodes that are one head, which reads at one position and writes at another. `rows`
    say how high each layer's heads and its MLP are, `columns` from where to where positions go.
    """

    nodes: tuple[Node, ...]
    lines: tuple[Line, ...]
    moves: tuple[tuple[int, int, Curve], ...]
    rows: tuple[tuple[str, float, float], ...]
    columns: tuple[tuple[str, float, float], ...]
    width: float
    height: float

    @property
    def bands(self) -> list[tuple[float, float]]:
        """From where to where each layer goes upward: halfway to those beside it."""
        between = [(a[2] + b[1]) / 2 for a, b in pairwise(self.rows)]
        ends = [self.rows[0][1] - 0.5, *between, self.rows[-1][2] + 0.5]
        return list(pairwise(ends))


def layers(
    frame: pd.DataFrame, *, n_layers: int | None = None, positions: Sequence[str] | None = None
) -> Layers:
    """Where does everything stand that these rows of `Circuit.frame` are about?

    Rows about edges make lines and the nodes at their ends; rows about heads, nodes and neurons
    make nodes. Without `n_layers`, the model has those that the rows name. `positions` is the order
    of the columns; without it numbers come first, then names, and END last.

    Raises:
        CircuitsError: when a column lacks, there are no rows, or a name is outside the grammar.

    >>> rows = [("embed", "a0.h1<q>", None, 1.0), ("a0.h1", "logits", None, -2.0)]
    >>> picture = layers(pd.DataFrame(rows, columns=["sender", "receiver", "position", "score"]))
    >>> [(str(node.part), round(node.y, 1)) for node in picture.nodes]
    [('embed', 0.0), ('a0.h1', 1.3), ('logits', 2.9)]
    """
    lacking = [name for name in NEEDS if name not in frame]
    if lacking or not len(frame):
        what = f"these have no {', '.join(lacking)}" if lacking else "there are none"
        raise CircuitsError(
            f"the picture of a circuit takes rows with the columns {', '.join(NEEDS)}; {what}"
        )
    ends = [_ends(*row) for row in frame[list(NEEDS[:3])].itertuples(index=False, name=None)]
    places = {place for a, b, _ in ends for place in (a, b) if place is not None}
    order = {name: i for i, name in enumerate(_in_order({at for _, at in places}, positions))}
    n_layers = max([n_layers or 1, *(part.layer + 1 for part, _ in places if part.layer)])
    heights = _heights({_level(part, n_layers) for part, _ in places}, n_layers)
    nodes = sorted(places, key=lambda place: (_level(place[0], n_layers), *_key(place, order)))
    across, columns = _across(nodes, order, _pulls(ends, frame["score"].to_numpy(float)))
    at = {place: i for i, place in enumerate(nodes)}
    middles = [(across[place], heights[_level(place[0], n_layers)]) for place in nodes]
    rows = {at[a]: row for row, (a, b, _) in enumerate(ends) if b is None}
    lines = tuple(_lines(ends, at, np.array(middles), columns))
    return Layers(
        tuple(Node(*place, *middles[i], rows.get(i)) for i, place in enumerate(nodes)),
        lines,
        tuple((i, j, move(middles[i], middles[j])) for i, j in _same(nodes)),
        tuple(_named(heights, n_layers)),
        tuple(columns),
        max(high for _, _, high in columns),
        max(heights.values()),
    )


def _ends(
    sender: str, receiver: str | None, position: str | None
) -> tuple[_Place, _Place | None, Slot | None]:
    """Where an edge begins and ends, and in which of a head's inputs; or a node by itself."""
    part = parse(sender)
    at = part.position if pd.isna(position) else position
    column = EVERYWHERE if at is None else str(at)
    begin = (part.at(None), column)
    if pd.isna(receiver):
        return begin, None, None
    reader = parse(str(receiver))
    node = Component(reader.kind, reader.layer, reader.head, neuron=reader.neuron)
    return begin, (node, column), reader.slot


def _in_order(columns: Iterable[str], positions: Sequence[str] | None) -> list[str]:
    """The columns as asked for, then numbers, then names, and END last."""
    asked = list(positions or ())

    def key(name: str) -> tuple[object, ...]:
        number = int(name) if re.fullmatch(r"-?\d+", name) else 0
        kind = 0 if name == EVERYWHERE else 1 if number or name == "0" else 2
        place = asked.index(name) if name in asked else len(asked)
        return name != EVERYWHERE, place, kind, name == "END", number < 0, number, name

    return sorted(columns, key=key)


def _level(part: Component, n_layers: int) -> int:
    """The row of a node: the embedding's, each layer's heads and MLP, the logits'."""
    if part.layer is None:
        return -1 if part.kind == "embed" else 2 * n_layers
    return 2 * part.layer + (part.kind != "head")


def _heights(used: set[int], n_layers: int) -> dict[int, float]:
    """How high each row is; rows in which nobody stands are low."""
    heights, y = {-1: 0.0}, 0.3 if -1 in used else -1.0
    for level in range(2 * n_layers):
        y += 1.0 if level in used else _EMPTY
        heights[level] = y
    heights[2 * n_layers] = y + 1.3 * (2 * n_layers in used)
    return heights


def _named(heights: Mapping[int, float], n_layers: int) -> Iterable[tuple[str, float, float]]:
    """The layers, and how high their heads and MLPs are."""
    for layer in range(n_layers):
        yield f"layer {layer}", heights[2 * layer], heights[2 * layer + 1]


def _key(place: _Place, order: Mapping[str, int]) -> tuple[int, int]:
    part, column = place
    return order[column], part.head if part.head is not None else part.neuron or 0


def _pulls(
    ends: Sequence[tuple[_Place, _Place | None, Slot | None]], scores: Numbers
) -> dict[_Place, dict[_Place, float]]:
    """How strongly each node is drawn to each of those that it is connected to."""
    sizes = np.nan_to_num(np.abs(scores))
    weights = 0.05 + sizes / (sizes.max() or 1.0)
    pulls: dict[_Place, dict[_Place, float]] = {}
    for (a, b, _), weight in zip(ends, weights.tolist(), strict=True):
        if b is not None:
            for this, other in ((a, b), (b, a)):
                near = pulls.setdefault(this, {})
                near[other] = near.get(other, 0.0) + weight
    return pulls


def _across(
    nodes: Sequence[_Place], order: Mapping[str, int], pulls: Mapping[_Place, dict[_Place, float]]
) -> tuple[dict[_Place, float], list[tuple[str, float, float]]]:
    """How far to the right each node is, and from where to where the columns go."""
    across: dict[_Place, float] = {}
    columns: list[tuple[str, float, float]] = []
    start = 0.0
    for column in order:
        here = [place for place in nodes if place[1] == column]
        rows: dict[tuple[str, int], list[_Place]] = {}
        for place in here:
            if place[0].kind != "mlp":
                rows.setdefault((place[0].kind, place[0].layer or 0), []).append(place)
        room = max(map(len, rows.values()), default=1)
        lane = any(part.kind == "mlp" for part, _ in here)
        end = room - 1 + _LANE * lane
        across.update({place: end for place in here if place[0].kind == "mlp"})
        _settle(list(rows.values()), across, pulls, room)
        for place in here:
            across[place] += start
        columns.append((column, start, start + end))
        start += end + _BETWEEN
    return across, columns


def _settle(
    rows: Sequence[Sequence[_Place]],
    across: dict[_Place, float],
    pulls: Mapping[_Place, dict[_Place, float]],
    room: int,
) -> None:
    """Put the nodes of each row near what they are connected to, a place for each."""
    for row in rows:
        shift = (room - len(row)) / 2
        across.update({place: shift + i for i, place in enumerate(row)})
    ordered = [list(row) for row in rows]
    for turn in range(_ROUNDS):
        for row in ordered if turn % 2 == 0 else reversed(ordered):
            wanted = {}
            for place in row:
                near = {each: w for each, w in pulls.get(place, {}).items() if each in across}
                total = sum(near.values())
                wanted[place] = (
                    sum(across[each] * w for each, w in near.items()) / total
                    if total
                    else across[place]
                )
            row.sort(key=lambda place: (wanted[place], place[0].head or place[0].neuron or 0))
            spread = _spread(np.array([wanted[place] for place in row]), room)
            across.update(zip(row, spread.tolist(), strict=True))


def _spread(wanted: Numbers, room: int) -> Numbers:
    """The nearest places [n] to those wanted, in their order, at least 1 apart, from 0 to room - 1.

    Less 1 for each that comes before, places must only not fall: neighbors that would share a mean.
    """
    blocks: list[tuple[float, int]] = []  # mean, how many
    for i, x in enumerate(wanted.tolist()):
        mean, n = x - i, 1
        while blocks and blocks[-1][0] > mean:
            before, m = blocks.pop()
            mean, n = (before * m + mean * n) / (m + n), m + n
        blocks.append((mean, n))
    means = np.repeat([mean for mean, _ in blocks], [n for _, n in blocks])
    spread: Numbers = np.clip(means, 0, room - len(wanted)) + np.arange(len(wanted))
    return spread


def _lines(
    ends: Sequence[tuple[_Place, _Place | None, Slot | None]],
    at: Mapping[_Place, int],
    middles: Numbers,
    columns: Sequence[tuple[str, float, float]],
) -> Iterable[Line]:
    """The edges with their ways; `middles` [n 2] of the nodes."""
    beside = {
        name: (np.array([i for (_, here), i in at.items() if here == name]), (low, high))
        for name, low, high in columns
    }
    for row, (sender, receiver, slot) in enumerate(ends):
        if receiver is not None:
            i, j = at[sender], at[receiver]
            yield Line(row, i, j, slot, _routed(i, j, slot, middles, *beside[receiver[1]]))


def _routed(
    a: int, b: int, slot: Slot | None, middles: Numbers, near: Ints, column: tuple[float, float]
) -> Curve:
    """From above the sender to below the receiver, on the way that hides behind the fewest nodes.

    `middles` [n 2] are all nodes; those `near` [m] stand in this `column`, which it does not leave
    by far.
    """
    begin = middles[a] + (0, _REACH)
    end = middles[b] + (_PORTS[slot], -_REACH)
    rise = end[1] - begin[1]
    between = near[(near != a) & (near != b)]
    others = middles[between[(middles[between, 1] > begin[1]) & (middles[between, 1] < end[1])]]
    bows = _BOWS if len(others) else _BOWS[:1]
    pull = np.array([0.0, 0.45 * rise])
    pulled = np.stack([begin + pull, end - pull]) + bows[:, None]
    pulled[..., 0] = np.clip(pulled[..., 0], column[0] - _OUT, column[1] + _OUT)
    ways = np.concatenate([np.tile(begin, (len(bows), 1, 1)), pulled], 1)  # [bow 3 2]
    ways = np.concatenate([ways, np.tile(end, (len(bows), 1, 1))], 1)
    passed = _BERNSTEIN @ ways  # [bow step 2]
    apart = np.abs(passed[:, :, None] - others) / _WIDE  # [bow step m 2]
    hits = (np.square(apart).sum(-1) < 1).any(1).sum(-1)
    best = ways[int(np.argmin(hits + _COST * np.abs(bows[:, 0])))].tolist()
    return tuple(tuple(point) for point in best)  # type: ignore[return-value]


def _same(nodes: Sequence[_Place]) -> Iterable[tuple[int, int]]:
    """Neighbors among the places of each head that stands in several columns."""
    last: dict[Component, int] = {}
    for i, (part, _) in enumerate(nodes):
        if part.kind == "head":
            if part in last:
                yield last[part], i
            last[part] = i


def move(a: Point, b: Point) -> Curve:
    """From one place of a head to another at its right.

    >>> move((0.0, 1.0), (4.0, 1.0))
    ((0.3, 1.0), (1.0, 1.5), (3.0, 1.5), (3.7, 1.0))
    """
    lift = 0.5
    return (
        (a[0] + _REACH, a[1]),
        (a[0] + 0.25 * (b[0] - a[0]), a[1] + lift),
        (a[0] + 0.75 * (b[0] - a[0]), b[1] + lift),
        (b[0] - _REACH, b[1]),
    )
