"""What changed between two checkpoints? Any analysis of both, row by row; or the weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from circuits.adapter import adapt
from circuits.analyses._diff import MEANINGS, WEIGHTS, compared, parts_changed
from circuits.analyses._options import parsed, required
from circuits.checkpoints import checksum, load
from circuits.draws import kept
from circuits.errors import CircuitsError, nearest
from circuits.model import HookedGPT2
from circuits.registry import Progress, Recipe, analyses, analysis, asked, find
from circuits.result import Result, provenance

_OWN = ("memory", "engine", "parts", "resume", "plan")  # how a run is made; nothing to compare


@analysis
def diff(
    model: HookedGPT2,
    other: str | HookedGPT2,
    *,
    analysis: str = WEIGHTS,
    set_: Sequence[str] | None = None,
    column: str = "value",
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """What changed between two checkpoints?

    Both models are asked the same question, the other one second, and the answers are matched row
    by row; the value is the other model's less the model's own. Both get the same prompts, so the
    interval of a difference between means is that of the differences prompt by prompt. Where these
    are not known (column paired), it takes the two as independent, which is rather too wide. Rows
    that only one model has are listed without a value.

    Without an analysis the weights themselves are compared: by which share of its norm did each
    part change, ||other - own|| / ||own||? Where vocabularies or contexts differ in length, the
    embeddings are compared as far as both models have them.

    $ circuits diff runs/step-2000 --model runs/step-1000
    $ circuits diff gpt2-medium --model gpt2 --analysis heads
    $ circuits diff runs/step-2000 --analysis ablate --set all_heads=true --set task=ioi

    Args:
        other: The other model: bundled or cached, a hub id, a folder, or a nanoGPT ckpt.pt.
        analysis: Which question to ask both, by its command; or weights.
        set_: An option of that analysis: task=ioi, all_heads=true. Repeat it for several.
        column: Which of the answer's numbers to compare.
        options: The same options as Python values: all_heads=True.

    Raises:
        CircuitsError: for options that the analysis does not have, models whose prompts are not
            the same tokens, and answers that have no row in common.

    >>> from circuits.checkpoints import load
    >>> found = diff(load("compiled"), "compiled", analysis="ablate", layer=2, head=0, n=2)
    >>> found.frame[["component", "value"]].values.tolist()
    [['a2.h0', 0.0]]
    """
    return _diff(model, dict(locals()))


def _diff(model: HookedGPT2, given: Mapping[str, Any]) -> Result:
    other = given["other"]
    if isinstance(other, str):
        other = load(other, device=model.cfg.device, dtype=model.cfg.dtype)
    elif not isinstance(other, HookedGPT2):
        other = adapt(other)
    what = given["analysis"].replace("_", "-")
    if what == WEIGHTS:
        return _of_weights(model, other, given)
    recipe = _recipe(what)
    asked_for = _arguments(recipe, given)
    answers, draws = [], []
    for half, one in enumerate((model, other)):
        own = dict(asked_for)
        if recipe.reports_progress:
            own["progress"] = _half(given["progress"], half)
        with kept() as behind:
            answers.append(recipe.load()(one, **own))
        draws.append(behind)
    first, second = answers
    names = _names(model, other)
    frame, axes = compared(first, second, given["column"], names, (draws[0], draws[1]))
    view = first.view if first.view in ("bars", "curves", "heatmap") else "bars"
    unit = first.unit if given["column"] == "value" else given["column"]
    return Result(
        frame,
        unit=unit,
        title=f"What changed in {recipe.name} from {names[0]} to {names[1]}?",
        provenance=replace(first.provenance, analysis="diff", **_about(model, other, given)),
        axes=axes,
        view=view,
        meanings={**first.meanings, **MEANINGS},
    )


def _of_weights(model: HookedGPT2, other: HookedGPT2, given: Mapping[str, Any]) -> Result:
    ignored = [*(given["set_"] or ()), *given["options"]]
    if ignored:
        raise CircuitsError(f"{ignored[0]}: the weights are compared without options")
    if given["column"] != "value":
        raise CircuitsError(f"column={given['column']!r}: weights have the column value only")
    names = _names(model, other)
    return Result(
        parts_changed(model, other, names),
        unit="share of the norm",
        title=f"By how much did the weights change from {names[0]} to {names[1]}?",
        provenance=provenance(model, "diff", **_about(model, other, given)),
        axes=("layer", "part"),
        view="heatmap",
        meanings=MEANINGS,
    )


def _recipe(name: str) -> Recipe:
    known = [one for one in analyses() if one != "diff"]
    if name not in known:
        raise CircuitsError(
            f"there is no analysis {name!r} to ask both models; choose {WEIGHTS}, "
            f"{', '.join(known)}{nearest(name, [WEIGHTS, *known])}"
        )
    return find(name)


def _arguments(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """What both models are asked: the words, and the Python values."""
    found = parsed(recipe, given["set_"] or (), without=_OWN)
    values: Mapping[str, Any] = given["options"]
    every = inspect.signature(recipe.load()).parameters
    known = [name for name in every if name not in {"model", "progress", *_OWN}]
    for name in values:
        if name not in known or name in found:
            why = "was given twice" if name in found else f"is no option of {recipe.name}"
            raise CircuitsError(
                f"{name} {why}; its options are {', '.join(known)}{nearest(name, known)}"
            )
    required(recipe, found | dict(values))
    return found | dict(values)


def _half(progress: Progress | None, half: int) -> Progress | None:
    if progress is None:
        return None
    whole = progress
    return lambda done, total: whole(round(500 * (half + done / max(total, 1))), 1000)


def _about(model: HookedGPT2, other: HookedGPT2, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments and the command, with what was given as Python values in words."""
    words = list(given["set_"] or ())
    for name, value in given["options"].items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, str | int | float):
                words.append(f"{name}={str(one).lower() if isinstance(one, bool) else one}")
    at = given["other"] if isinstance(given["other"], str) else other.cfg.model_name
    about = asked("diff", {**given, "other": at, "set_": words or None})
    about["arguments"] |= {"other_checksum": checksum(other)}
    return about


def _names(model: HookedGPT2, other: HookedGPT2) -> tuple[str, str]:
    """What the two are called; of the same name, with the start of their checksums."""
    a, b = model.cfg.model_name, other.cfg.model_name
    if a != b:
        return a, b
    sums = [checksum(one)[:6] for one in (model, other)]
    return (a, b) if sums[0] == sums[1] else (f"{a} ({sums[0]})", f"{b} ({sums[1]})")
