"""Circuits in files: JSON that a person can read, a line for each part.

JSON has no infinite numbers, and scores may be infinite: of a part that no threshold removes, say.
Such a number is null, and ``infinite`` has its sign: {"value": null, "infinite": {"value": "-"}}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from circuits.circuit.graph import Graph
from circuits.circuit.parts import Origin, Part, Score, part_of
from circuits.components import parse
from circuits.errors import CircuitsError

if TYPE_CHECKING:
    from circuits.circuit.circuit import Circuit

FORMAT = 1
SIGNIFICANT_DIGITS = 6
MOST_HEADS = 100_000  # of a model; beyond that its graph fills the memory

Values = TypeVar("Values", Graph, Origin, Score)


def as_json(circuit: Circuit) -> str:
    """The circuit as text: what it is of, then its parts, the most important first.

    Their order is by the scores as they are written, so that what was read is written the same.
    """
    rounded = {part: _rounded(score) for part, score in circuit.scores.items()}
    circuit = replace(circuit, scores=rounded)
    head = {"circuit": FORMAT, "level": circuit.level, "shape": _given(asdict(circuit.graph))}
    origin = _given(asdict(circuit.origin))
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    said = json.dumps(origin, ensure_ascii=False, indent=2).replace("\n}", "\n }")
    lines.append(f' "origin": {said}')
    if circuit.classes:
        lines.append(f' "classes": {_members(circuit)}')
    left_out = set(circuit.scores) - set(circuit.parts)
    for name, parts in {"kept": circuit.parts, "left out": left_out}.items():
        lines.append(f' "{name}": {_listed(circuit.ranked(parts), circuit.scores)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def parsed(path: Path) -> object:
    """The JSON in this file.

    Raises:
        CircuitsError: when it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CircuitsError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CircuitsError(f"{path} is no circuit: {error}") from error


def arguments(content: object, path: Path) -> dict[str, Any]:
    """The arguments of the `Circuit` that this file holds.

    Raises:
        CircuitsError: when it holds none.
    """
    if not isinstance(content, dict) or content.get("circuit") != FORMAT:
        raise CircuitsError(
            f'{path} is no circuit of this package: it lacks "circuit": {FORMAT}; nor is it a '
            'graph of EAP-IG, with "cfg", "nodes" and "edges"'
        )
    try:
        known = {each.name for each in fields(Origin)}
        kept = {part_of(name): each for name, each in content["kept"].items()}
        others = {part_of(name): each for name, each in content["left out"].items()}
        shape = _typed(Graph, content["shape"])
        if min(shape.n_layers, shape.n_heads) < 1 or shape.n_layers * shape.n_heads > MOST_HEADS:
            raise ValueError(
                f"its shape is {content['shape']}, and models have 1 to {MOST_HEADS:,} heads"
            )
        return {
            "graph": shape,
            "parts": frozenset(kept),
            "origin": _typed(Origin, {k: v for k, v in content["origin"].items() if k in known}),
            "scores": {part: _score(each) for part, each in {**others, **kept}.items() if each},
            "level": content["level"],
            "classes": {
                parse(name): of
                for of, names in content.get("classes", {}).items()
                for name in names
            },
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CircuitsError(f"{path} is no circuit of this package: {error}") from error


def _typed(kind: type[Values], values: Mapping[str, Any]) -> Values:
    """What these values of a file make, each of its type.

    Raises:
        ValueError: naming a value that it does not have, or of another type.
    """
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"{name!r} is none of {', '.join(hints)}")
        allowed: tuple[type, ...] = get_args(hints[name]) or (hints[name],)
        allowed += (int,) if float in allowed else ()
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            words = " or ".join(each.__name__ for each in allowed if each is not type(None))
            raise ValueError(f"its {name} is {value!r}, and should be of the type {words}")
    return kind(**values)


def _given(values: Mapping[str, object]) -> dict[str, object]:
    """Those that are known."""
    return {name: value for name, value in values.items() if value is not None}


def _members(circuit: Circuit) -> str:
    """A JSON object with a line for each class: its heads and MLPs."""
    members: dict[str, list[str]] = {}
    for node in sorted(circuit.classes, key=circuit.graph.writer.__getitem__):
        members.setdefault(circuit.classes[node], []).append(str(node))
    lines = [
        f"  {json.dumps(of, ensure_ascii=False)}: {json.dumps(names)}"
        for of, names in members.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n }"


def _listed(parts: Iterable[Part], scores: Mapping[Part, Score]) -> str:
    """A JSON object with a line for each part."""
    said = {json.dumps(str(part)): _said(scores.get(part)) for part in parts}
    lines = [f"  {name}: {json.dumps(score, allow_nan=False)}" for name, score in said.items()]
    body = ",\n".join(lines)
    return f"{{\n{body}\n }}" if lines else "{}"


def _said(score: Score | None) -> dict[str, object]:
    """A score's numbers; nothing where there is none, and no interval where it has none."""
    numbers = {} if score is None else vars(score)
    known = {name: x for name, x in numbers.items() if not math.isnan(x)}
    if not known:
        return {}
    finite = {name: x if math.isfinite(x) else None for name, x in known.items()}
    signs = {name: "+" if x > 0 else "-" for name, x in known.items() if math.isinf(x)}
    return {"value": None, **finite, **({"infinite": signs} if signs else {})}


def _rounded(score: Score) -> Score:
    return Score(*(float(f"{x:.{SIGNIFICANT_DIGITS}g}") for x in vars(score).values()))


def _score(said: Mapping[str, Any]) -> Score:
    """The score that these numbers are."""
    numbers = {name: math.nan if x is None else x for name, x in said.items() if name != "infinite"}
    for name, sign in said.get("infinite", {}).items():
        if numbers.get(name) == numbers.get(name) or sign not in ("+", "-"):
            raise ValueError(f"an infinite {name} is null, and + or - beside: {dict(said)}")
        numbers[name] = float(f"{sign}inf")
    return _typed(Score, numbers)
