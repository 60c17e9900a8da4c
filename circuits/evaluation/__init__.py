"""How circuits are judged: is it faithful, complete, minimal, and better than chance?

A `Subject` is a circuit whose parts can be kept and left out in sets; `Cells` collects what all
tests want to run, each circuit once, for one survey; `Evidence` is what came of it. Each test is a
file, which asks for cells and makes `Row`s of evidence; `frame_of` makes the table of them.
"""

from circuits.evaluation.cells import CIRCUIT, EMPTY, Cells
from circuits.evaluation.completeness import Completeness
from circuits.evaluation.controls import Controls
from circuits.evaluation.curve import MEANINGS as CURVE_MEANINGS
from circuits.evaluation.curve import Curve
from circuits.evaluation.evidence import Evidence, Row
from circuits.evaluation.faithfulness import faithful_rows, task_rows
from circuits.evaluation.independence import independent_rows
from circuits.evaluation.minimality import Minimality
from circuits.evaluation.subject import Subject
from circuits.evaluation.table import MEANINGS, frame_of
from circuits.evaluation.unseen import named_circuit, overlap_rows, unseen_prompts
from circuits.evaluation.unseen_curve import UnseenCurve, unseen_curve
from circuits.evaluation.untrained import left_beside, untrained_like, untrained_rows

__all__ = [
    "CIRCUIT",
    "CURVE_MEANINGS",
    "EMPTY",
    "MEANINGS",
    "Cells",
    "Completeness",
    "Controls",
    "Curve",
    "Evidence",
    "Minimality",
    "Row",
    "Subject",
    "UnseenCurve",
    "faithful_rows",
    "frame_of",
    "independent_rows",
    "left_beside",
    "named_circuit",
    "overlap_rows",
    "task_rows",
    "unseen_curve",
    "unseen_prompts",
    "untrained_like",
    "untrained_rows",
]
