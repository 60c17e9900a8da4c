"""Pieces as JSON: the one place where what is computed becomes what is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from circuits.explorer.pieces import Piece
from circuits.pages.numbers import packed_array

DIGITS = 7  # as many as single precision has


def to_json(piece: Piece) -> dict[str, Any]:
    """The piece as an object: its kind, and its fields by name.

    Numbers have 7 significant digits, and are null where they are not finite. Arrays of whole
    numbers without sign are base64 text of their bytes, little-endian; those of other numbers are
    lists.

    >>> from circuits.explorer.pieces import Take
    >>> to_json(Take("circuits heads", "import circuits"))
    {'kind': 'take', 'command': 'circuits heads', 'python': 'import circuits'}
    """
    return {"kind": piece.kind, **_fields(piece)}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "u":
            return packed_array(value, value.dtype.str[1:])
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return _fields(value)
    raise TypeError(f"a {type(value).__name__} has no place in an answer")
