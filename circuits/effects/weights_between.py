"""How well do the models between two models do? The result of `diff` with along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

from circuits.comparison.along import Ends, alike, along_line, part_by_part
from circuits.effects.circuit_questions import single_batch
from circuits.effects.measuring import metric_of
from circuits.errors import CircuitsError, nearest
from circuits.metrics import is_readout, readout_metric
from circuits.metrics.base import READOUT
from circuits.model import HookedModel
from circuits.progress import Progress
from circuits.registry import MeasureOptions, find, parsed
from circuits.result import Result, provenance

Along = Literal["weights", "parts"]
ALONG: tuple[Along, ...] = ("weights", "parts")
MEANINGS = {
    "at": "where on the straight line between the weights: 0 is the model, 1 the other",
    "value": "the metric there, mean over n",
    "line": "what it would be if it changed evenly from end to end",
    "component": "the part whose weights are swapped: a head, what is left of an attention layer "
    "(a0), an MLP (m0), embed, pos, logits (the final LayerNorm, and an unembedding of its own), "
    "readout",
}
OF_PARTS = {
    "component": MEANINGS["component"],
    "value": "by how much the metric of the model changes with this part of the other",
    "share": "of the whole change; those of several parts need not add up",
    "back": "by how much the metric of the other changes with this part of the model",
    "back_low": "lower end of its 95 % interval",
    "back_high": "upper end of its 95 % interval",
    "whole": "by how much the metric changes from the model to the other",
    "layer": "in which the part is",
    "part": "of the layer: a head (h0 ...), the rest of attention (a), the MLP (m)",
}


def between(
    models: tuple[HookedModel, HookedModel],
    names: tuple[str, str],
    along: Along,
    points: int,
    asked: Mapping[str, Any],
    progress: Progress | None = None,
) -> Result:
    """The metric along the line between two models, or with one part of the other's after another.

    `asked` are the options of the prompts and the metric, by name.

    Raises:
        CircuitsError: for another kind, models without a line between them, prompts of several
            tasks, and a metric that they cannot be measured by.
    """
    if along not in ALONG:
        raise CircuitsError(
            f"along={along!r}: choose {' or '.join(ALONG)}{nearest(str(along), ALONG)}"
        )
    first, second = alike(*models)
    options = MeasureOptions(**asked)
    if is_readout(options.metric):
        name = str(options.metric).removeprefix(READOUT)
        options = replace(options, metric=readout_metric(first, name))
    batch = single_batch(first, options, "what lies between two models")
    metric = metric_of(batch.first, options.metric)
    ends = Ends(first, second, list(batch.blocks), metric)
    on_line, task = along == "weights", batch.first.task
    frame = along_line(ends, points, progress) if on_line else part_by_part(ends, progress)
    frame.insert(0, "task", task)
    frame["metric"] = metric.name
    what = "on the line" if on_line else "part by part,"
    return Result(
        frame,
        unit=metric.unit,
        title=f"{metric.name} of {task} {what} from {names[0]} to {names[1]}",
        provenance=provenance(models[0], "diff", prompts=batch.first),
        axes=("task", "at") if on_line else ("layer", "part"),
        view="curves" if on_line else "heatmap",
        meanings=MEANINGS if on_line else OF_PARTS,
    )


def measured_by(words: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of prompts and metric that these words and values give.

    Raises:
        CircuitsError: for other options, and one that is given twice.
    """
    known = [field.name for field in fields(MeasureOptions)]
    recipe = replace(find("ablate"), function="along")
    without = [name for name in recipe.signature.parameters if name not in known]
    given = parsed(recipe, words, without=without)
    for name in values:
        if name not in known or name in given:
            why = "was given twice" if name in given else "is no option of along"
            raise CircuitsError(f"{name} {why}; it has {', '.join(known)}{nearest(name, known)}")
    return given | dict(values)
