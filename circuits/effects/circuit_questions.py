"""What circuits are asked: which prompts they see, what is measured, what stands for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from circuits.effects.measuring import metric_of, twins_of
from circuits.effects.references import reference
from circuits.errors import CircuitsError, nearest
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import MeasureOptions
from circuits.registry.asked_prompts import Batch, asked_prompts
from circuits.sweep import CircuitSweep, Source
from circuits.sweep.circuit_sweep import CircuitCell

Rest = Literal["resample", "zero", "mean", "position-mean"]
RESTS: tuple[Rest, ...] = get_args(Rest)


def single_batch(model: HookedModel, options: MeasureOptions, what: str) -> Batch:
    """The prompts that were asked for, which have to be of one task.

    Raises:
        CircuitsError: when they are of several.
    """
    batches = asked_prompts(model, options)
    if len(batches) > 1:
        names = ", ".join(batch.first.task for batch in batches)
        raise CircuitsError(
            f"{what} is about one task, and without a wish these would be {names}; choose one "
            "(task=, --task), or give prompts of your own"
        )
    return batches[0]


def asked_of_circuits(
    model: HookedModel,
    batch: Batch,
    options: MeasureOptions,
    rest: str,
    cells: Sequence[CircuitCell] = ((),),
) -> Callable[[Prompts], CircuitSweep]:
    """What is asked of a block of the batch: these circuits, and `rest` instead of what they lack.

    Raises:
        CircuitsError: for an unknown `rest`, and prompts that lack what it or the metric needs.
    """
    if rest not in RESTS:
        raise CircuitsError(
            f"reference={rest!r}: what is left out is as in the corrupted twin (resample), zero, "
            f"or a mean (mean, position-mean){nearest(rest, RESTS)}"
        )

    def ask(prompts: Prompts) -> CircuitSweep:
        metric = metric_of(prompts, options.metric)
        if rest == "resample":
            twins = Source(rest, twins_of(prompts), prompts.mask)
            return CircuitSweep(prompts, metric, tuple(cells), twins)
        source, _ = reference(model, prompts, batch, rest, options)
        return CircuitSweep(prompts, metric, tuple(cells), source)

    return ask
