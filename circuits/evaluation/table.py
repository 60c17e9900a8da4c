"""The table that a reviewer asks for: every test, and in the last row the verdict over all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from circuits.evaluation.evidence import NOTHING, Row, verdict
from circuits.evaluation.hypothesis_tests import ALPHA, holm

BETTER_THAN_CHANCE = ("sufficiency", "necessity", "untrained")
OVER_ALL, PART = "all", "part"
MEANINGS = {
    "task": "which prompts",
    "test": "which property of the circuit is tested; part: one part of it, dropped",
    "what": "what was measured",
    "value": "what came out: F and its differences as shares of the whole effect m(M) - m(nothing);"
    " of task and untrained in the metric's unit; mean over n",
    "stderr": "standard error of value, where it is a mean or ratio over draws",
    "ci_low": "lower end of its 95 % interval",
    "ci_high": "upper end of its 95 % interval",
    "n": "over how many: prompts, or random sets, or circuits, as `against` says",
    "null": "the same of what it is compared with, on average",
    "p_value": "how often chance would do as well; of all comparisons with chance, and of all "
    "parts, corrected for their number (Holm)",
    "verdict": "whether the circuit passes; – where nothing is decided",
    "against": "what it is compared with, and what passes",
}


def corrected(rows: Iterable[Row]) -> list[Row]:
    """The rows with verdicts of all comparisons with chance, their p-values corrected (Holm)."""
    listed = list(rows)
    places = [i for i, row in enumerate(listed) if row.test in BETTER_THAN_CHANCE]
    p_values = holm(np.array([listed[i].p_value for i in places]))
    for i, p_value in zip(places, p_values.tolist(), strict=True):
        row = replace(listed[i], p_value=p_value)
        if row.verdict == NOTHING and not np.isnan(p_value):
            row = replace(row, verdict=verdict(p_value <= ALPHA))
        listed[i] = row
    return listed


def over_all(rows: Sequence[Row]) -> Row:
    """Whether the circuit passes all tests that decided something."""
    decided = [row for row in rows if row.verdict != NOTHING and row.test != PART]
    failed = [row for row in decided if row.verdict == "no"]
    names = list(dict.fromkeys(row.test for row in failed))
    says = f"fails {', '.join(names)}" if failed else "passes every test"
    return Row(
        OVER_ALL,
        "tests passed",
        (len(decided) - len(failed)) / max(len(decided), 1),
        n=len(decided),
        verdict=verdict(bool(decided) and not failed),
        against=f"{len(decided) - len(failed)} of {len(decided)}: {says}",
    )


def frame_of(task: str, rows: Iterable[Row]) -> pd.DataFrame:
    """The table of these rows, the parts and then the verdict last."""
    ordered = list(_ordered(corrected(rows)))
    rows = [*ordered, over_all(ordered)]
    frame: pd.DataFrame = pd.DataFrame([{"task": task, **asdict(row)} for row in rows])
    return frame


def _ordered(rows: Sequence[Row]) -> Iterator[Row]:
    yield from (row for row in rows if row.test != PART)
    yield from (row for row in rows if row.test == PART)
