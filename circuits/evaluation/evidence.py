"""What circuits did to the metric, prompt by prompt, and the rows that tests make of it.

Shapes: c cells, n prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from circuits import intervals
from circuits.arrays import Floats
from circuits.errors import CircuitsError
from circuits.evaluation.cells import EMPTY
from circuits.result import mean_interval
from circuits.sweep.moments import Moments

Verdict = Literal["yes", "no", "–"]
NOTHING: Verdict = "–"


def verdict(passes: bool) -> Verdict:
    """The word for it."""
    return "yes" if passes else "no"


@dataclass(frozen=True)
class Row:
    """A row of the table: what was asked, what came, and whether the circuit passes.

    `value` has its standard error and interval over `n` draws: prompts, or what `against` says.
    `null` is the same of what it is compared with, and `p_value` corrected for many tests.
    """

    test: str
    what: str
    value: float
    stderr: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    n: int = 1
    null: float = math.nan
    p_value: float = math.nan
    verdict: Verdict = NOTHING
    against: str = ""


@dataclass(frozen=True)
class Share:
    """A mean or a share of the whole effect, with its interval."""

    value: float
    stderr: float
    ci_low: float
    ci_high: float

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[Any]]) -> Share:
        """The mean in these columns of `mean_interval`."""
        return cls(*(float(columns[each.name]) for each in fields(cls)))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What every cell did: `effects` [c n], each prompt's metric minus that in the whole model.

    Attributes:
        whole: the metric of each prompt in the whole model, [n].
        higher_is_better: of the metric.
        counted: whether the metric is 0 or 1 on each prompt.
        groups: which group each prompt is of [n], where that is known.
        clustered: whether groups are independent of each other, and not prompts.
        groups_are: what groups are, in words.
    """

    effects: Floats
    whole: Floats
    higher_is_better: bool
    counted: bool = False
    groups: tuple[str, ...] | None = None
    clustered: bool = False
    groups_are: str = "templates"

    @classmethod
    def of(cls, moments: Moments, whole: Floats, *, higher_is_better: bool) -> Evidence:
        """That of a survey with draws, whose base cell is the whole model."""
        draws = moments.draws
        assert draws is not None  # `how.draws`
        values = np.asarray(draws.values, dtype=np.float64)[: moments.n_cells]
        scale = moments.scales.effect
        clustered = moments.clustered
        return cls(values, whole, higher_is_better, scale.counted, draws.groups, clustered)

    @property
    def n(self) -> int:
        """How many prompts."""
        return int(self.effects.shape[1])

    @cached_property
    def full(self) -> Floats:
        """What the model loses on each prompt when nothing of it is left, [n]."""
        if not self.effects[EMPTY].any():
            raise CircuitsError(
                "the whole model and the empty circuit do not differ in this metric, so no share "
                "of the difference can be told; choose other prompts, metric or reference"
            )
        full: Floats = self.effects[EMPTY]
        return full

    @cached_property
    def faithfulness(self) -> Floats:
        """F of every cell, [c]: (m(C) - m(nothing)) / (m(M) - m(nothing)), of the means."""
        return np.asarray(1 - self.effects.mean(1) / self.full.mean(), dtype=np.float64)

    @cached_property
    def tolerance(self) -> float:
        """Below this, two metrics are the same: a thousandth of the whole effect."""
        return float(abs(self.full.mean())) * 1e-3

    def share(self, effects: Floats) -> Share:
        """What share of the whole effect these effects [n] are, mean over mean."""
        lower = float(self.full.mean())
        ratio = np.array(effects.mean() / lower)
        left = effects - ratio * self.full
        ends = intervals.ratio_ends(
            ratio, np.square(left).sum(), lower, self.n, counted=self.counted
        )
        if self.clustered and self.groups is not None:
            sums = intervals.group_sums(left, self.groups) / lower
            scale = intervals.Scale(counted=self.counted)
            ends = intervals.grouped(ratio, sums, self.n, scale, ends)
        return Share(float(ratio), *(float(end) for end in ends))

    def faithful(self, cell: int) -> Share:
        """F of a cell, with its interval."""
        gone = self.share(self.effects[cell])
        return Share(1 - gone.value, gone.stderr, 1 - gone.ci_high, 1 - gone.ci_low)

    def better(self, effects: Floats) -> Floats:
        """The same effects, turned so that more is better."""
        return effects if self.higher_is_better else -effects

    def mean(self, values: Floats) -> Share:
        """The mean of these values [n] of the prompts."""
        groups = self.groups if self.clustered else None
        return Share.of(mean_interval(values, groups=groups))

    def only(self, group: str) -> Evidence:
        """The evidence of one group of prompts."""
        here = np.array([name == group for name in self.groups or ()])
        effects, whole = self.effects[:, here], self.whole[here]
        return Evidence(effects, whole, self.higher_is_better, self.counted)
