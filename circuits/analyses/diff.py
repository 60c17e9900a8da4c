"""What changed between two checkpoints? Any analysis of both, row by row; or the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from circuits.adapter import adapt
from circuits.checkpoints import checksum, load
from circuits.comparison import answers_compared, weights_compared
from circuits.effects.weights_between import between, measured_by
from circuits.errors import CircuitsError, nearest
from circuits.model import HookedModel
from circuits.registry import (
    Progress,
    Question,
    Recipe,
    analyses,
    analysis,
    arguments,
    find,
    in_words,
    question,
    with_draws,
)
from circuits.result import Result, provenance

WEIGHTS = "weights"
OF_THE_RUN = ("memory", "engine", "parts", "resume", "plan")  # how it is made: nothing to compare
MEANINGS = {
    "value_a": "of the model",
    "value_b": "of the other model",
    "value": "what changed: the other's less the model's own; of weights ||other - own|| / ||own||",
    "stderr": "standard error of the difference",
    "ci_low": "lower end of its 95 % interval",
    "ci_high": "upper end of its 95 % interval",
    "paired": "whether the difference was taken prompt by prompt (or draw by draw); otherwise its "
    "interval takes the two means as independent, which is rather too wide",
    "n": "number of prompts (or other draws) that either mean is of; the smaller of the two",
    "circuit": "whether this part is in both circuits, or was gained or lost; empty for neither",
    "only_in": "the model that has this row, if the other one lacks it",
    "part": "of the model's weights: a head with its biases (h0 ...), what is left of its "
    "attention layer (a: output bias and LayerNorm), an MLP with its LayerNorm (m), embed, pos, "
    "logits (the final LayerNorm, and the unembedding if either model's has weights of its own); "
    "embed[8192:8193]: the tokens, or positions, that only one of them has",
    "component": "the same as one name",
    "layer": "in which the part is",
    "norm": "Frobenius norm of the change",
}


@analysis
def diff(
    model: HookedModel,
    other: str | HookedModel,
    *,
    analysis: str = WEIGHTS,
    set_: Sequence[str] | None = None,
    column: str = "value",
    along: Literal["weights", "parts"] | None = None,
    points: int = 11,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """What changed between two checkpoints?

    Both models are asked the same question, and the answers are matched row by row; the value is
    the other model's less the model's own. Its interval is that of the differences prompt by
    prompt, or where these are not known (column paired), as if the two were independent, which is
    rather too wide. Rows that only one model has have no value. Of circuits (--analysis discover)
    the column circuit says which parts were gained and lost.

    Without an analysis the weights are compared: by which share of its norm did each part change,
    ||other - own|| / ||own||? What is longer in one model is compared as far as both have it. With
    along, the models between the two are measured by one metric: those on the line between the
    weights, or the model with each part of the other's, and the reverse: which carries the change?

    $ circuits diff runs/step-2000 --model runs/step-1000
    $ circuits diff runs/step-2000 --analysis discover --set task=ioi
    $ circuits diff runs/step-2000 --along parts --set task=ioi

    Args:
        other: The other model: bundled or cached, a hub id, a folder, or a nanoGPT ckpt.pt.
        analysis: Which question to ask both, by its command; or weights.
        set_: An option of that analysis: task=ioi, all_heads=true. Repeat it for several.
        column: Which of the answer's numbers to compare.
        along: Measure the models between: on the line (weights), or part by part (parts); --set
            says by which task, file, metric ...
        points: Of the line, both ends included.
        options: The same options as Python values: all_heads=True.

    Raises:
        CircuitsError: for options that the analysis does not have, models whose prompts are not
            the same tokens, and answers that have no row in common.

    >>> from circuits.checkpoints import load
    >>> changed = diff(load("compiled"), "compiled", analysis="ablate", layer=2, head=0, n=2)
    >>> changed.frame[["component", "value"]].values.tolist()
    [['a2.h0', 0.0]]
    """
    words, both = tuple(set_ or ()), _Both(model, _second(other, model))
    if along is None:
        result = _compared(both, analysis.replace("_", "-"), words, options, column, progress)
    elif analysis != WEIGHTS or column != "value":
        raise CircuitsError("along asks by a metric; leave analysis and column out")
    else:
        asked = measured_by(words, options)
        result = between((model, both.other), both.names, along, points, asked, progress)
    at = other if isinstance(other, str) else both.other.cfg.model_name
    said = {"model": model, "other": at, "along": along, "points": points, "column": column}
    given = {"analysis": analysis, "set_": [*words, *in_words(options)] or None}
    return _asked(result, both, question("diff", said | given))


@dataclass(frozen=True, eq=False)
class _Both:
    """The two models that are compared."""

    model: HookedModel
    other: HookedModel

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called; of the same name, with the start of their checksums."""
        a, b = self.model.cfg.model_name, self.other.cfg.model_name
        if a != b:
            return a, b
        sums = [checksum(each)[:6] for each in (self.model, self.other)]
        return (a, b) if sums[0] == sums[1] else (f"{a} ({sums[0]})", f"{b} ({sums[1]})")


def _compared(
    both: _Both,
    what: str,
    words: Sequence[str],
    options: dict[str, Any],
    column: str,
    progress: Progress | None,
) -> Result:
    """What changed in the answers to an analysis, or in the weights."""
    if what == WEIGHTS:
        return _of_weights(both, [*words, *options], column)
    recipe = _recipe(what)
    given = arguments(recipe, words, options, without=OF_THE_RUN)
    ask = partial(with_draws(recipe.load()), **given)
    return _of_answers(both, recipe, ask, column, progress)


def _second(other: str | HookedModel, model: HookedModel) -> HookedModel:
    """The other model: loaded as this one was where its name is given, adapted where it is not."""
    if isinstance(other, str):
        return load(other, device=model.cfg.device, dtype=model.cfg.dtype)
    return other if isinstance(other, HookedModel) else adapt(other)


def _of_answers(
    both: _Both,
    recipe: Recipe,
    ask: Callable[..., Result],
    column: str,
    progress: Progress | None,
) -> Result:
    """What changed between the answers of the two models to what `recipe` asks, row by row."""
    answers = []
    for half, model in enumerate((both.model, both.other)):
        how = {"progress": _half(progress, half)} if recipe.reports_progress else {}
        answers.append(ask(model, **how))
    first, second = answers
    names = both.names
    frame, axes = answers_compared(first, second, column, names)
    return Result(
        frame,
        unit=first.unit if column == "value" else column,
        title=f"What changed in {recipe.name} from {names[0]} to {names[1]}?",
        provenance=first.provenance,
        axes=axes,
        view=first.view if first.view in ("bars", "curves", "heatmap") else "bars",
        meanings={**first.meanings, **MEANINGS},
    )


def _of_weights(both: _Both, ignored: Sequence[str], column: str) -> Result:
    """By how much each part's weights changed; `ignored` options are an error."""
    if ignored:
        raise CircuitsError(f"{ignored[0]}: the weights are compared without options")
    if column != "value":
        raise CircuitsError(f"column={column!r}: weights have the column value only")
    names = both.names
    return Result(
        weights_compared(both.model, both.other, names),
        unit="share of the norm",
        title=f"By how much did the weights change from {names[0]} to {names[1]}?",
        provenance=provenance(both.model, "diff"),
        axes=("layer", "part"),
        view="heatmap",
        meanings=MEANINGS,
    )


def _recipe(name: str) -> Recipe:
    """The analysis that both models are asked."""
    of_one = (each for each, recipe in analyses().items() if recipe.asks_model)
    known = [each for each in of_one if each != "diff"]
    if name not in known:
        raise CircuitsError(
            f"there is no analysis {name!r} to ask both models; choose {WEIGHTS}, "
            f"{', '.join(known)}{nearest(name, [WEIGHTS, *known])}"
        )
    return find(name)


def _half(progress: Progress | None, half: int) -> Progress | None:
    """Progress in thousandths of both halves, where this is only one of them."""
    if progress is None:
        return None
    return lambda done, total: progress(round(500 * (half + done / max(total, 1))), 1000)


def _asked(result: Result, both: _Both, asked: Question) -> Result:
    """The same result, which says what was asked, and of which weights."""
    about = replace(
        result.provenance,
        analysis="diff",
        arguments={**asked.arguments, "other_checksum": checksum(both.other)},
        command=asked.command,
    )
    return replace(result, provenance=about)
