"""Circuits with random scores, and files of what others save."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuits.circuit import Circuit, Graph, Level, Origin, Score


def written(content: Mapping[str, Any], path: Path) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        torch.save(content, path)
    return path


def random_circuit(shape: Graph, level: Level = "edges", seed: int = 0) -> Circuit:
    """Scores for every part, as torch's files hold them, of which a third is kept."""
    rng = np.random.default_rng(seed)
    of = {"heads": ("head",), "nodes": ("head", "mlp")}
    parts = (
        shape.edges
        if level == "edges"
        else [w for w in shape.writers if w.kind in of.get(level, ())]
    )
    values = rng.normal(size=len(parts)).astype(np.float32).tolist()
    kept = frozenset(part for part in parts if rng.random() < 1 / 3)
    return Circuit(
        shape, kept, Origin("mini"), dict(zip(parts, map(Score, values), strict=True)), level
    )
