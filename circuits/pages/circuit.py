"""The page of a circuit: its edges come and go, tell their scores, and heads show where they look.

`circuit_page` is of a `Circuit`; `VIEWER` is for analyses whose result has the rows of
`Circuit.frame`: their file here needs no more than ``from circuits.pages.circuit import VIEWER``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from circuits.circuit import Circuit
from circuits.circuit.pictures import wording
from circuits.errors import CircuitsError
from circuits.evaluation import unseen_curve
from circuits.figures import Wording
from circuits.figures.layers import Curve, Layers, Node, layers, move
from circuits.figures.wiring import class_colors, scored, short
from circuits.metrics import METRICS, get_metric
from circuits.model import HookedModel
from circuits.pages import attention
from circuits.pages.documents import MOST_ROWS, About, document
from circuits.pages.looks import looks
from circuits.pages.numbers import rounded
from circuits.pages.viewers import Viewer
from circuits.result import Result

MOST_PARTS = 2000  # that a page can draw
CURVE = ("kept", "value", "ci_low", "ci_high")  # the columns of a faithfulness curve
_MEANINGS = {
    "part": "what is kept or left out",
    "sender": "who writes",
    "receiver": "who reads it, of a head through which input; empty where parts are no edges",
    "position": "where; empty for everywhere",
    "score": "what corrupting this part alone does to the metric",
    "ci_low": "lower end of the score's 95 % interval",
    "ci_high": "upper end of the score's 95 % interval",
    "kept": "whether it is in the circuit",
}
_QUESTION = "Which parts are the circuit, and how much does each matter?"


@dataclass(frozen=True)
class _Measured:
    """What scores are changes of; `better` says whether a higher value is, where it is known."""

    unit: str
    better: bool | None


@dataclass(frozen=True)
class _Beside:
    """What a page shows beside a circuit's edges: see `circuit_page`."""

    curve: pd.DataFrame | None = None
    patterns: Sequence[Result] = ()


def circuit_page(
    circuit: Circuit,
    *,
    curve: pd.DataFrame | None = None,
    patterns: Sequence[Result] = (),
    positions: Sequence[str] | None = None,
    title: str | None = None,
) -> str:
    """The circuit as one HTML document, for `save_page`: to open from disk, without a network.

    The page draws what `Circuit.plot` draws, and has a slider for its size. It holds every part
    that is kept and the largest of the others that have a score, at most 2,000, and says how many
    it leaves out. At first it shows the parts that are kept. Pointer and keys reach every edge and
    node; edges are filtered by class, sign, input and layer. The same circuit gives the same text.

    Args:
        circuit: with scores, if its size shall change.
        curve: how faithful circuits of other sizes are, as the analysis evaluate says it with
            ``curve=True``: a row for each size, with `kept`, how many of the best parts it has
            before any are pruned, and F as `value` with the ends of its interval. `ranking` says by
            what they are the best: ``absolute`` (also where there is no such column), by the size
            of the score, or ``signed``, what supports the metric first (`Circuit.ranked`).
        patterns: results of the analysis attention, one for each prompt, of any heads; a handful.
            A click on a head shows its own.
        positions: the order of columns, where the circuit has positions.
        title: of the page; None for the model, size, method and task.

    Raises:
        CircuitsError: when nothing is kept or has a score, a curve lacks a column or has several
            values for a size, or patterns are not of attention.

    >>> from circuits.circuit import compiled_circuit
    >>> html = circuit_page(compiled_circuit())
    >>> html.count("<script"), "http://" in html
    (2, False)
    """
    words = wording(circuit)
    words = words if title is None else replace(words, title=title)
    return document(
        About(words.title, _QUESTION, "", circuit.origin.command or "", _facts(circuit)),
        _table(circuit.frame.head(MOST_ROWS), len(circuit.frame)),
        [{"name": name, "meaning": meaning} for name, meaning in _MEANINGS.items()],
        view={"circuit": _view(circuit, words, positions, _Beside(curve, patterns))},
    )


def _view(
    circuit: Circuit,
    words: Wording,
    positions: Sequence[str] | None = None,
    beside: _Beside = _Beside(),
) -> dict[str, Any]:
    """All that the page's script reads."""
    about = circuit.origin
    measured = _Measured(about.unit or "", about.higher_is_better if about.metric else None)
    parts = carried(circuit.frame)
    picture = layers(parts, n_layers=circuit.graph.n_layers, positions=positions)
    everywhere = circuit.level == "edges" and circuit.frame["position"].isna().all()
    return {
        **_drawing(parts, picture, words),
        **_order(parts, measured),
        **_beside(beside, picture),
        "level": circuit.level,
        "n_all": len(circuit.graph) if everywhere else len(circuit.frame),
    }


def _of_result(result: Result) -> dict[str, Any]:
    """What the page shows of a result: its circuit, or else its rows, as `Circuit.frame` has them.

    Rows know no classes, nor, without the circuit, of how many layers the model is.
    """
    if result.circuit is not None:
        return _view(result.circuit, replace(wording(result.circuit), title=result.title))
    frame = scored(result.frame)
    metric = result.provenance.arguments.get("metric")
    known = get_metric(str(metric)) if metric in METRICS else None
    words = Wording(result.title, "the metric" if known is None else known.name)
    measured = _Measured(result.unit, None if known is None else known.higher_is_better)
    parts = carried(frame)
    picture = layers(parts)
    return {
        **_drawing(parts, picture, words),
        **_order(parts, measured),
        **_beside(_Beside(), picture),
        "level": "edges" if frame["receiver"].notna().any() else "parts",
        "n_all": len(frame),
    }


def _of_model(result: Result, model: HookedModel) -> dict[str, Any]:
    """Where the heads that are drawn look, and how faithful circuits of other sizes are.

    Heads look on the prompts of the result, faithfulness is on others.
    """
    if result.circuit is None:
        return {}
    result.circuit.require_fits(model)
    nodes = layers(carried(result.circuit.frame)).nodes
    heads = dict.fromkeys(node.part for node in nodes if node.part.kind == "head")
    curve = unseen_curve(model, result.circuit)
    shown: dict[str, Any] = {"patterns": looks(result, model, heads)}
    if curve is not None:
        shown |= {"faithful": _curves(curve.frame), "faithful_on": curve.words}
    return shown


VIEWER = Viewer(
    _of_result,
    needs=("part", "sender", "receiver", "position", "kept"),
    view="circuit",
    template="circuit",
    of_model=_of_model,
)


def of_curve(result: Result) -> dict[str, Any]:
    """What the page shows of the circuit whose curve this result is."""
    assert result.circuit is not None  # as `evaluate` gives it
    shown = _view(result.circuit, replace(wording(result.circuit), title=result.title))
    n = int(result.frame["n"].iloc[0])
    on = f"All on {n} prompts of {result.frame['task'].iloc[0]}."
    return {**shown, "faithful": _curves(result.frame), "faithful_on": on}


def carried(frame: pd.DataFrame, most: int = MOST_PARTS) -> pd.DataFrame:
    """The rows that a page holds: what is kept, then the largest of the others with a score.

    They come by size, those without a score last.

    >>> frame = pd.DataFrame({"score": [1.0, -3.0, 2.0, None], "kept": [True, False, False, True]})
    >>> carried(frame, 3).index.tolist()
    [1, 0, 3]
    """
    sizes = frame["score"].abs()
    kept = frame["kept"].astype(bool)
    usable = frame[kept | sizes.notna()]
    first = usable.assign(_left=~kept, _size=-sizes).sort_values(
        ["_left", "_size"], kind="stable", na_position="last"
    )
    held = first.head(most).index
    order = sizes.loc[held].sort_values(ascending=False, kind="stable", na_position="last").index
    held_rows: pd.DataFrame = frame.loc[order]
    return held_rows


def _drawing(parts: pd.DataFrame, picture: Layers, words: Wording) -> dict[str, Any]:
    """Nodes, edges and what they are called; edges by their parts' rows."""
    colors = list(class_colors(words.classes, picture.nodes))
    curves = {line.row: line for line in picture.lines}
    nodes = {node.row: i for i, node in enumerate(picture.nodes) if node.row is not None}
    lines = [curves.get(row) for row in range(len(parts))]
    return {
        "metric": words.metric,
        "classes": colors,
        "width": picture.width,
        "height": picture.height,
        "rows": [[name, low, high] for name, low, high in picture.rows],
        "bands": picture.bands,
        "columns": picture.columns,
        "nodes": [
            {
                "name": str(node.part),
                "short": short(node.part),
                "kind": node.part.kind,
                "layer": node.part.layer,
                "column": node.column,
                "of": words.classes.get(node.part),
                "at": rounded(np.array([node.x, node.y])),
            }
            for node in picture.nodes
        ],
        "moves": _moves(picture.nodes),
        "parts": parts["part"].astype(str).tolist(),
        "ends": [
            [nodes[row]] if line is None else [line.sender, line.receiver]
            for row, line in enumerate(lines)
        ],
        "slots": [None if line is None else line.slot for line in lines],
        "curves": [None if line is None else _numbers(line.curve) for line in lines],
    }


def _moves(nodes: Sequence[Node]) -> list[list[float | None]]:
    """All pairs of places of a head, and the curve between: the page shows those of neighbors."""
    heads = [(i, node) for i, node in enumerate(nodes) if node.part.kind == "head"]
    return [
        [i, j, *_numbers(move((a.x, a.y), (b.x, b.y)))]
        for (i, a), (j, b) in combinations(heads, 2)
        if a.part == b.part
    ]


def _numbers(curve: Curve) -> list[float | None]:
    return rounded(np.array(curve).ravel())


def _order(parts: pd.DataFrame, measured: _Measured) -> dict[str, Any]:
    """The parts' scores; the order of support, if which direction is better is known."""
    scores = parts["score"].to_numpy(float)
    orders = {}
    if measured.better is not None:
        support = scores if not measured.better else -scores
        orders["signed"] = np.argsort(-np.nan_to_num(support, nan=-np.inf), kind="stable").tolist()
    ends = ("ci_low", "ci_high")
    return {
        "scores": rounded(scores),
        "intervals": [
            rounded(parts[end].to_numpy(float)) if end in parts else [None] * len(parts)
            for end in ends
        ],
        "kept": [bool(kept) for kept in parts["kept"]],
        "orders": {"absolute": list(range(len(parts))), **orders},
        "unit": measured.unit,
    }


def _beside(beside: _Beside, picture: Layers) -> dict[str, Any]:
    """The curve, and the attention of the heads that the picture has."""
    heads = {str(node.part) for node in picture.nodes if node.part.kind == "head"}
    return {
        "faithful": {} if beside.curve is None else _curves(beside.curve),
        "faithful_on": "",
        "patterns": [_patterns(result, heads) for result in beside.patterns],
    }


def _curves(curve: pd.DataFrame) -> dict[str, list[list[float | None]]]:
    """Of each ranking: how many are kept, F and both ends of its interval, the fewest first."""
    lacking = [name for name in CURVE if name not in curve]
    if lacking:
        raise CircuitsError(
            f"a curve has the columns {', '.join(CURVE)}; this one lacks {', '.join(lacking)}"
        )
    ranked = curve if "ranking" in curve else curve.assign(ranking="absolute")
    points = ranked[["ranking", *CURVE]].drop_duplicates().sort_values("kept", kind="stable")
    several = points.duplicated(["ranking", "kept"])
    if several.any():
        raise CircuitsError(
            f"a curve has one F for each size; with {int(points.loc[several, 'kept'].iloc[0])} "
            "parts this one has several: give the rows of one task and group of prompts"
        )
    return {
        str(ranking): [rounded(row, 6) for row in rows[list(CURVE)].to_numpy(float)]
        for ranking, rows in points.groupby("ranking")
    }


def _patterns(result: Result, heads: set[str]) -> dict[str, Any]:
    lacking = [name for name in attention.VIEWER.needs if name not in result.frame]
    if lacking:
        raise CircuitsError(
            "patterns are results of the analysis attention, one for each prompt; one of "
            f"{result.provenance.analysis} lacks {', '.join(lacking)}"
        )
    shown = result.frame[result.frame["component"].isin(heads)]
    if shown.empty:  # it still says which prompt it is
        return {"tokens": attention.data(result)["tokens"], "heads": []}
    return {**attention.data(replace(result, frame=shown)), "averages": {}}


def _table(frame: pd.DataFrame, n_rows: int) -> dict[str, Any]:
    """The rows column by column, as the page's table reads them."""
    numbers = ("score", "ci_low", "ci_high")
    kinds = dict.fromkeys(numbers, "number") | {"kept": "truth"}
    columns = [
        {"name": name, "meaning": meaning, "kind": kinds.get(name, "text")}
        for name, meaning in _MEANINGS.items()
    ]
    values = [
        rounded(frame[name].to_numpy(float), 6)
        if name in numbers
        else [None if pd.isna(value) else value for value in frame[name].tolist()]
        for name in _MEANINGS
    ]
    return {"columns": columns, "rows": values, "n_rows": n_rows}


def _facts(circuit: Circuit) -> list[tuple[str, str]]:
    """Where it comes from, in lines: what is known."""
    about = circuit.origin
    prompts = [str(part) for part in (about.n, about.prompts) if part is not None]
    facts = {
        "model": about.model,
        "weights": about.checksum,
        "method": about.method,
        "chosen": about.selection,
        "left out": f"{about.pruned} that no path uses" if about.pruned else None,
        "metric": about.metric,
        "reference": about.reference,
        "task": about.task,
        "prompts": ", ".join(prompts) or None,
        "seed": about.seed,
        "source": about.source,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]
