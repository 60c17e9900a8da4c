"""How the questions that sweep measure: what a change anywhere in the model does to a metric.

`measured` runs the sweep of each batch of prompts, `planned` says what it would cost; `pair_table`
and `effect` make rows of what came. A `Grid` names what a sweep goes through, `reference` what an
ablation writes instead, `by_template` tells templates apart, and `patched_pairs` checks composition
scores by patching.
"""

from circuits.effects.composition_check import InWords, agreement, patched_pairs
from circuits.effects.grid import (
    WORDS,
    Grid,
    Positions,
    What,
    axes,
    cells_of,
    labels,
    per_head,
    places,
    what_of,
)
from circuits.effects.measuring import (
    BASE,
    WHOLE,
    Direction,
    Label,
    MakeSweep,
    Named,
    Patching,
    components_of,
    effect,
    ends,
    every_pair,
    measured,
    metric_of,
    pair,
    pair_table,
    planned,
    require_change,
    share_of_progress,
    shares,
    source_of,
    unit_of,
)
from circuits.effects.measuring import MEANINGS as EFFECT_MEANINGS
from circuits.effects.references import reference
from circuits.effects.templates import (
    by_template,
    group_meanings,
    label_of,
    measured_over,
    panels,
    population_of,
    require_templates,
)

__all__ = [
    "BASE",
    "EFFECT_MEANINGS",
    "WHOLE",
    "WORDS",
    "Direction",
    "Grid",
    "InWords",
    "Label",
    "MakeSweep",
    "Named",
    "Patching",
    "Positions",
    "What",
    "agreement",
    "axes",
    "by_template",
    "cells_of",
    "components_of",
    "effect",
    "ends",
    "every_pair",
    "group_meanings",
    "label_of",
    "labels",
    "measured",
    "measured_over",
    "metric_of",
    "pair",
    "pair_table",
    "panels",
    "patched_pairs",
    "per_head",
    "places",
    "planned",
    "population_of",
    "reference",
    "require_change",
    "require_templates",
    "share_of_progress",
    "shares",
    "source_of",
    "unit_of",
    "what_of",
]
