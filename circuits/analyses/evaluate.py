"""Is this circuit the mechanism? Every test that a reviewer would ask for, on unseen prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from circuits.arrays import Floats
from circuits.circuit import Circuit
from circuits.effects import (
    MakeSweep,
    by_template,
    group_meanings,
    label_of,
    measured,
    metric_of,
    panels,
    planned,
    source_of,
)
from circuits.effects.circuit_questions import Rest, asked_of_circuits
from circuits.errors import CircuitsError
from circuits.evaluation import (
    CIRCUIT,
    CURVE_MEANINGS,
    MEANINGS,
    Cells,
    Completeness,
    Controls,
    Curve,
    Evidence,
    Minimality,
    Row,
    Subject,
    faithful_rows,
    frame_of,
    independent_rows,
    left_beside,
    named_circuit,
    overlap_rows,
    task_rows,
    unseen_prompts,
    untrained_like,
    untrained_rows,
)
from circuits.evaluation.controls import LEAST
from circuits.interventions import get_method
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import RunOptions, TemplateOptions, UnseenOptions, analysis
from circuits.registry.asked_prompts import Batch
from circuits.result import Result
from circuits.sweep import CircuitSweep, plan, run
from circuits.sweep.circuit_sweep import CircuitCell
from circuits.sweep.moments import Moments
from circuits.sweep.survey import How, survey


@analysis
def evaluate(
    model: HookedModel,
    circuit: str | Path | Circuit,
    *,
    curve: bool = False,
    reference: Rest | None = None,
    subsets: int = 100,
    controls: int = 100,
    untrained: int = 5,
    tolerance: float = 0.2,
    prompts: UnseenOptions,
    templates: TemplateOptions,
    how: RunOptions,
) -> Result:
    """Is this circuit the mechanism?

    It runs alone on prompts that discovery has not seen, and what it leaves out is read from the
    reference. Faithful: F = (m(C) - m(nothing)) / (m(M) - m(nothing)), of means of the metric m, is
    about 1. Complete (Wang et al. 2022, arXiv 2211.00593): so it is without random parts, in
    circuit and model. Minimal, sufficient, necessary, independent: the tests of Shi et al. 2024
    (2410.13032), against random edges of inflated circuits, and random circuits. CPR and CMD: areas
    over circuits of other sizes (Mueller et al. 2025, 2504.13151). Untrained models run it, too.

    $ circuits evaluate ioi.json
    $ circuits evaluate ioi.json --curve --figure curve.png
    $ circuits evaluate ioi.json --plan

    Args:
        circuit: A file of this package, EAP-IG or auto-circuit; or a published circuit's name.
        curve: Only F of circuits of other sizes, the best by the scores that the file has.
        reference: What is read instead of what is left out. Without it, as in discovery.
        subsets: How many random sets of parts are dropped for completeness.
        controls: How many random circuits of each kind, and random edges for minimality.
        untrained: How many untrained models of the same shape run the circuit.
        tolerance: How far F may be from 1, and circuit and model from each other without parts.
        seed: Another seed than discovery used, which draws prompts and controls. Without it, the
            one after discovery's.

    Raises:
        CircuitsError: for a circuit of another model or without parts, and prompts that discovery
            has used or that have no twins for the reference.

    >>> from circuits.checkpoints import load
    >>> from circuits.circuit import compiled_circuit
    >>> found = evaluate(load("compiled"), compiled_circuit(), n=16, subsets=20, controls=50)
    >>> found.frame[found.frame.test.isin(["sufficiency", "all"])].verdict.tolist()
    ['yes', 'yes', 'yes']
    """
    sizes = _Sizes(subsets, controls, untrained, tolerance)
    tested = named_circuit(model, circuit)
    options, batches = unseen_prompts(model, tested.origin, prompts)
    written = reference or tested.origin.reference
    cells = Cells(Subject(tested, model.cfg.d_mlp), pruned=get_method(written).copies)
    asked = _Asked.of(cells, options.seed or 0, sizes, curve)
    ask = partial(_sweeps, model, options, written, tuple(asked.cells.asked))
    if how.plan:
        return planned(model, "evaluate", batches, ask, how, templates)
    left_beside(model, 0 if curve else untrained, how.memory)  # raises before anything is run
    better = metric_of(batches[0].first, options.metric).higher_is_better
    return _answer(_Surveyed(model, ask, better, templates, how), asked, batches)


@dataclass(frozen=True)
class _Sizes:
    """How much is drawn, and what passes."""

    subsets: int
    controls: int
    untrained: int
    tolerance: float

    def __post_init__(self) -> None:
        if self.subsets < 10:
            raise CircuitsError(
                f"subsets={self.subsets}: give 10 or more, for their mean has an interval"
            )
        if self.controls < LEAST:
            raise CircuitsError(
                f"controls={self.controls}: better than each of so few may be chance; give {LEAST} "
                "or more"
            )
        if self.untrained < 0 or self.untrained == 1:
            raise CircuitsError(f"untrained={self.untrained}: give 0, or 2 or more to compare with")
        if not 0 < self.tolerance < 1:
            raise CircuitsError(
                f"tolerance={self.tolerance}: give a number between 0 and 1, such as 0.2"
            )


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is run and tested."""

    cells: Cells
    sizes: _Sizes
    seed: int
    curve: Curve | None
    completeness: Completeness | None = None
    minimality: Minimality | None = None
    controls: Controls | None = None

    @classmethod
    def of(cls, cells: Cells, seed: int, sizes: _Sizes, curve: bool) -> _Asked:
        """The cells of all tests, or of the curve alone."""
        given, subject = (cells, sizes, seed), cells.subject
        if curve:
            return cls(*given, Curve.ask(subject, cells))
        rng = np.random.default_rng(seed)
        return cls(
            *given,
            Curve.ask(subject, cells) if subject.circuit.scores else None,
            Completeness.ask(subject, cells, sizes.subsets, rng),
            Minimality.ask(subject, cells, sizes.controls, rng),
            Controls.ask(subject, cells, sizes.controls, rng),
        )

    def rows(self, evidence: Evidence, others: Sequence[Evidence]) -> Iterator[Row]:
        """What every test says."""
        tolerance = self.sizes.tolerance
        yield from task_rows(evidence)
        yield from faithful_rows(evidence, tolerance)
        if self.completeness is not None:
            yield from self.completeness.rows(evidence, tolerance)
        if self.minimality is not None:
            yield from self.minimality.rows(evidence)
        if self.controls is not None:
            yield from independent_rows(evidence, self.controls.complement, self.seed)
            yield from self.controls.rows(evidence)
        yield from untrained_rows(evidence, others, tolerance)
        if self.curve is not None:
            yield from self.curve.rows(evidence)


@dataclass(frozen=True, eq=False)
class _Surveyed:
    """How cells are run, and what came of them."""

    model: HookedModel
    ask: Callable[[Batch], MakeSweep]
    higher_is_better: bool
    templates: TemplateOptions
    how: RunOptions

    def evidence(self, moments: Moments, whole: Floats) -> Mapping[Moments, Evidence]:
        """Of all prompts, and of each group by itself."""
        of = partial(Evidence.of, higher_is_better=self.higher_is_better)
        label = label_of(self.templates)
        words = "templates" if label == "template" else f"groups by {label}"
        evidence = {moments: replace(of(moments, whole), groups_are=words)}
        groups = evidence[moments].groups or ()
        for label, part in moments.groups.items():
            here = np.array([name == label for name in groups])
            evidence[part] = of(part, whole[here])
        return evidence

    def own(self, batch: Batch) -> Floats:
        """The metric of each prompt in the whole model, [n]."""
        ask, each = self.ask(batch), []
        for block in batch.blocks:
            sweep = ask(block)
            assert isinstance(sweep, CircuitSweep)
            alone = replace(sweep, cells=((),))
            each.append(run(self.model, plan(self.model, alone, memory=self.how.memory)).values[0])
        return np.concatenate(each)

    def untrained(self, batch: Batch, n: int, seed: int) -> list[Moments]:
        """What the circuit does in untrained models: the whole model, nothing, the circuit."""
        ask = self.ask(batch)

        def first_cells(prompts: Prompts) -> CircuitSweep:
            sweep = ask(prompts)
            assert isinstance(sweep, CircuitSweep)
            return replace(sweep, cells=sweep.cells[: CIRCUIT + 1])

        memory = left_beside(self.model, n, self.how.memory)
        how = How(memory=memory, draws=True, label=label_of(self.templates))
        return [
            survey(other, batch.blocks, first_cells, how)
            for other in untrained_like(self.model, n, seed)
        ]


def _answer(surveyed: _Surveyed, asked: _Asked, batches: Sequence[Batch]) -> Result:
    """The table of every batch, or its curve."""
    model, templates = surveyed.model, surveyed.templates
    frames, counts, how = [], [], replace(surveyed.how, draws=True)
    for batch, moments in measured(model, batches, surveyed.ask, how, templates):
        table = _table(surveyed, asked, batch, moments)
        frames.append(by_template(moments, templates, table))
        counts.append(moments.n)
    frame = pd.concat(frames, ignore_index=True)
    source = source_of(model, "evaluate", batches, counts, templates)
    circuit, is_curve = asked.cells.subject.circuit, asked.completeness is None
    of = f"{len(circuit)} {circuit.level}, {model.cfg.model_name}"
    asks = "Is this circuit the mechanism?"
    if is_curve:
        asks = "How much do circuits of each size do?"
        of = f"by the scores of {circuit.origin.method}, {model.cfg.model_name}"
    meanings = CURVE_MEANINGS if is_curve else MEANINGS
    return Result(
        frame,
        unit="share of the effect",
        title=f"{asks} ({of})",
        provenance=source,
        axes=panels(("ranking", "size") if is_curve else ("what",), templates, frame),
        view="curves" if is_curve else "tests",
        circuit=circuit if is_curve else None,
        meanings={**meanings, **group_meanings(templates, frame)},
    )


def _table(
    surveyed: _Surveyed, asked: _Asked, batch: Batch, moments: Moments
) -> Callable[[Moments], pd.DataFrame]:
    """From what came on all prompts, or on a group of them, to its table."""
    sizes, task = asked.sizes, batch.first.task
    evidence = surveyed.evidence(moments, surveyed.own(batch))
    if asked.completeness is None and asked.curve is not None:
        curve = asked.curve
        return lambda part: curve.frame(evidence[part]).assign(task=task)
    others: dict[Moments, list[Evidence]] = {part: [] for part in evidence}
    for other in surveyed.untrained(batch, sizes.untrained, asked.seed):
        beside = surveyed.evidence(other, np.zeros(other.n))
        for part, same in zip(evidence, beside.values(), strict=True):
            others[part].append(same)
    seen = list(overlap_rows(surveyed.model, asked.cells.subject.circuit.origin, batch.first))
    return lambda part: frame_of(task, [*seen, *asked.rows(evidence[part], others[part])])


def _sweeps(
    model: HookedModel,
    options: UnseenOptions,
    rest: str,
    cells: Sequence[CircuitCell],
    batch: Batch,
) -> Callable[[Prompts], CircuitSweep]:
    return asked_of_circuits(model, batch, options, rest, cells)
