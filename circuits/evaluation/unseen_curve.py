"""The curve of a circuit on a few prompts that discovery has not seen, for pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from circuits.effects import metric_of
from circuits.effects.circuit_questions import asked_of_circuits
from circuits.evaluation.cells import CIRCUIT, WHOLE, Cells
from circuits.evaluation.curve import Curve
from circuits.evaluation.evidence import Evidence
from circuits.evaluation.subject import Subject
from circuits.evaluation.unseen import unseen_prompts
from circuits.interventions import get_method
from circuits.prompts import TASKS
from circuits.registry import UnseenOptions
from circuits.sweep import plan, run
from circuits.sweep.moments import moments

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.model import HookedModel

PROMPTS = 24


@dataclass(frozen=True, eq=False)
class UnseenCurve:
    """F of circuits of each size (see `Curve.frame`); in words, F of the circuit itself."""

    frame: pd.DataFrame
    words: str


def unseen_curve(model: HookedModel, circuit: Circuit, n: int = PROMPTS) -> UnseenCurve | None:
    """How much do circuits of each size do on `n` fresh prompts of the task?

    None where there is no telling: the circuit has no scores, or its prompts were somebody's own,
    of which there are no others.
    """
    origin = circuit.origin
    if not circuit.scores or origin.task not in TASKS or origin.seed is None:
        return None
    options, (batch, *_) = unseen_prompts(model, origin, UnseenOptions(n=n))
    cells = Cells(Subject(circuit, model.cfg.d_mlp), pruned=get_method(origin.reference).copies)
    curve = Curve.ask(cells.subject, cells)
    ask = asked_of_circuits(model, batch, options, origin.reference, tuple(cells.asked))
    sweep = ask(batch.first)
    scores = run(model, plan(model, sweep))
    known = moments(scores.values, scores.changed).drawn_from(scores.values)
    better = metric_of(batch.first, options.metric).higher_is_better
    evidence = Evidence.of(known, scores.values[WHOLE], higher_is_better=better)
    if not np.any(evidence.effects):
        return None
    own = evidence.faithful(CIRCUIT)
    words = (
        f"The circuit itself has F = {own.value:.2f} [{own.ci_low:.2f}, {own.ci_high:.2f}], all on "
        f"{len(batch.first)} prompts of {origin.task} that were not used to find it."
    )
    return UnseenCurve(curve.frame(evidence), words)
