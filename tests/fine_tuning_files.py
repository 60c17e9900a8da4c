"""Examples for the tests of training: words of sort-abc with answers, or with labels."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

WORDS = ["".join(letters) for letters in product("ABC", repeat=4)]


def answers(path: Path, n: int = 30) -> Path:
    """To each word the same in reverse."""
    return _written(path, [{"prompt": w, "answer": w[::-1]} for w in WORDS[:n]])


def labels(path: Path, n: int = 60) -> Path:
    """Whether a word has more than one A."""
    rows = [{"text": w, "label": "many" if w.count("A") > 1 else "few"} for w in WORDS[:n]]
    return _written(path, rows)


def _written(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
