"""The walkthrough's page: one forward pass after the other, stage by stage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.pages.numbers import packed_array
from circuits.pages.viewers import Viewer
from circuits.result import Result
from circuits.steps import STAGES_AFTER, STAGES_BEFORE, STAGES_OF_BLOCK, STEPS, Stage


def data(result: Result) -> dict[str, Any]:
    """All tensors one after the other, and what the page's prose says about the model."""
    frame = result.frame
    values: list[NDArray[np.float64]] = []
    tensors: list[dict[str, Any]] = []
    tokens: list[str] = []
    at = 0
    columns = ("step", "stage", "shape", "values", "labels")
    for step, stage, shape, text, labels in zip(*(frame[c] for c in columns), strict=True):
        array = np.array(json.loads(text), dtype=np.float64)  # null becomes NaN
        names = json.loads(labels) if labels else []
        if stage == "tokens":
            tokens += names
        tensor = {"step": int(step), "stage": stage, "shape": list(array.shape), "at": at}
        tensors.append(tensor | {"whole": _sizes(shape), "labels": names})
        values.append(array.ravel())
        at += array.size
    last = tensors[-1]["labels"]
    return {
        "tokens": [*tokens, *last],
        "n_prompt": len(tensors[0]["labels"]),
        "stages": _stages({str(stage) for stage in frame["stage"]}),
        "titles": {name: step.title for name, step in STEPS.items() if step.title},
        "square": [name for name, step in STEPS.items() if step.square],
        "tensors": tensors,
        "numbers": packed_array(np.concatenate(values), "f4"),
        "facts": _facts(result, tensors),
    }


def _sizes(shape: str) -> list[int]:
    return [int(n) for n in str(shape).split(" × ")]


def _stages(known: set[str]) -> list[dict[str, Any]]:
    """The page's stages: kind, block, and which tensors each shows of those that there are."""
    n_layers = 1 + max((int(s.split(".")[1]) for s in known if "." in s), default=-1)
    stages = [*_of(STAGES_BEFORE, None, known, {"resid_pre": "resid_pre.0"})]
    for layer in range(n_layers):
        before = f"resid_post.{layer - 1}" if layer else "resid_pre.0"
        stages += _of(STAGES_OF_BLOCK, layer, known, {"before": before})
    return [*stages, *_of(STAGES_AFTER, None, known, {})]


def _of(
    stages: Iterable[Stage], layer: int | None, known: set[str], others: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The stages of one part; `others` are tensors of another part under the names used here."""
    for stage in stages:
        full = [others.get(n, n if layer is None else f"{n}.{layer}") for n in stage.steps]
        shown = [name for name in full if name in known]
        if shown:
            yield {"kind": stage.kind, "name": stage.name, "block": layer, "tensors": shown}


def _facts(result: Result, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = {tensor["stage"]: tensor["whole"] for tensor in tensors}
    heads, d_head = sizes["q.0"][1:]
    temperature = result.provenance.arguments.get("temperature", 0.0)
    return {
        "model": result.provenance.model,
        "n_layers": sum(stage.startswith("pattern.") for stage in sizes),
        "n_heads": heads,
        "d_head": d_head,
        "d_model": sizes["resid_pre.0"][1],
        "d_mlp": sizes["pre.0"][1],
        "d_vocab": sizes["logits"][1],
        "temperature": temperature,
    }


VIEWER = Viewer(
    data,
    needs=("step", "stage", "layer", "shape", "values", "labels"),
    view="heatmap",
    hidden=("values", "labels"),
)
