"""Statistics of a sweep that is too long to keep: per cell, merged block by block.

Shapes: c cells, n prompts, k groups. An effect is a cell's metric minus the base cell's, on the
same prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from circuits import intervals
from circuits.arrays import Floats
from circuits.errors import CircuitsError
from circuits.intervals import REAL, Draws, Ends, Scale
from circuits.result import averaged

Differences = Sequence[tuple[int, int]]  # of cells


class Scales(NamedTuple):
    """The numbers that a prompt's effect can be, and those of a difference between two effects."""

    effect: Scale = REAL
    difference: Scale = REAL


ANY = Scales()


@dataclass(frozen=True, eq=False)
class Moments:
    """What each cell does, on average over the prompts so far, and how sure that is.

    Everything an interval needs, and no prompt's own number (but for `draws`): the size does not
    depend on n. Made by `moments`; `merge` is exact up to rounding (Chan, Golub & LeVeque
    1983), and merging in the same order gives the same bits.

    Attributes:
        n: prompts.
        value: [c], the mean of the metric.
        effect: [c], the mean effect.
        squares: [c], the sum over prompts of the effect's squared deviation from its mean. Of
            effects that are -1, 0 or 1 the two say how many prompts got better, and how many worse.
        products: [c], the sum of its deviations times those of the `full` cell's effect; or None.
        changed: [c], whether a cell wrote anything that was not there already.
        full: which cell's effect is the whole that `ratio` compares with; or None.
        differences: pairs of cells; after the cells' own numbers come those of the difference
            between the two, see `at`.
        scales: which numbers these are means of.
        groups: the same of each group of prompts by itself, where they have labels.
        clustered: whether groups are independent of each other, and not prompts.
        draws: the effects themselves [c n]; only where they were asked for, see `drawn_from`.
    """

    n: int
    value: Floats
    effect: Floats
    squares: Floats
    products: Floats | None
    changed: NDArray[np.bool_]
    full: int | None = None
    differences: tuple[tuple[int, int], ...] = ()
    scales: Scales = ANY
    groups: Mapping[str, Moments] = field(default_factory=dict)
    clustered: bool = False
    draws: Draws | None = None

    def at(self, cell: int, other: int) -> int:
        """The place of the numbers of the difference between these two cells.

        >>> averages = moments(np.eye(3), np.ones(3, dtype=bool), differences=[(1, 2)])
        >>> averages.at(1, 2), averages.effect[3].item()
        (3, 0.0)
        """
        return self.n_cells + self.differences.index((cell, other))

    def merge(self, other: Moments) -> Moments:
        """The same over these prompts and the other's, which follow them.

        Raises:
            CircuitsError: when the two are of other cells.

        >>> values = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 6.0]])
        >>> changed = np.array([False, True])
        >>> whole = moments(values[:, :1], changed).merge(moments(values[:, 1:], changed))
        >>> whole.n, whole.effect.tolist(), whole.squares.tolist()
        (3, [0.0, 3.0], [0.0, 14.0])
        """
        kinds = [(len(each.value), each.full, each.differences) for each in (self, other)]
        if kinds[0] != kinds[1]:
            raise CircuitsError(
                f"moments of {len(self.value)} cells (full effect: {self.full}) and of "
                f"{len(other.value)} ({other.full}) are of different sweeps; merge those of one"
            )
        n = self.n + other.n
        share = other.n / n
        step = other.effect - self.effect
        between = self.n * share * step
        products = None
        if self.products is not None and other.products is not None and self.full is not None:
            products = self.products + other.products + between * step[self.full]
        groups = dict(self.groups)
        for label, group in other.groups.items():
            groups[label] = groups[label].merge(group) if label in groups else group
        return replace(
            self,
            n=n,
            value=self.value + share * (other.value - self.value),
            effect=self.effect + share * step,
            squares=self.squares + other.squares + between * step,
            products=products,
            changed=self.changed | other.changed,
            groups=groups,
            draws=_joined(self.draws, other.draws),
        )

    def drawn_from(
        self, values: Floats, labels: Sequence[str] | None = None, *, base: int = 0
    ) -> Moments:
        """The same moments with `draws`, of all prompts and of each group.

        `values` [c n], `labels` [n] and `base` are those that `moments` was given.

        >>> values = np.array([[0.0, 0.0], [1.0, 2.0]])
        >>> averages = moments(values, np.array([False, True]))
        >>> averages.draws is None, averages.drawn_from(values).draws.values.tolist()
        (True, [[0.0, 0.0], [1.0, 2.0]])
        """
        values = _with_differences(values, base, self.differences)
        effects, scale = _effects(values, base, self.n_cells, self.scales), self.scales.effect
        groups = {}
        for label, group in self.groups.items():
            in_group = np.array([other == label for other in labels or ()])
            groups[label] = replace(group, draws=Draws(effects[:, in_group], scale))
        draws = Draws(effects, scale, None if labels is None else tuple(labels))
        return replace(self, draws=draws, groups=groups)

    def interval(self, confidence: float = 0.95) -> dict[str, NDArray[Any]]:
        """The mean effect [c] with its uncertainty: the columns of `mean_interval`.

        >>> values = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
        >>> columns = moments(values, np.array([False, True])).interval()
        >>> {name: round(float(column[1]), 3) for name, column in columns.items()}
        {'value': 2.0, 'stderr': 0.577, 'ci_low': -0.484, 'ci_high': 4.484, 'n': 3.0}
        """
        effects = self._ends(slice(self.n_cells), self.scales.effect, confidence)
        more = self._ends(slice(self.n_cells, None), self.scales.difference, confidence)
        both = [np.concatenate(pair) for pair in zip(effects, more, strict=True)]
        draws = self.draws
        if draws is not None and not self.clustered:
            draws = replace(draws, groups=None)
        return averaged(self.effect, (both[0], both[1], both[2]), self.n, draws)

    def ratio(self, confidence: float = 0.95) -> dict[str, NDArray[Any]]:
        """The share of the full effect that each cell has [c]: mean effect over mean full effect.

        The standard error is the ratio estimator's (see `circuits.intervals.ratio_ends`): that of
        the mean of effect - ratio x full effect, over the full effect's mean. A share may be below
        0 and above 1, where a cell does the opposite of the whole, or more than it.

        Raises:
            CircuitsError: when no full effect was asked for, or it is 0 on average.
        """
        if self.full is None or self.products is None:
            raise CircuitsError("no cell is the full effect; say which one when the sweep begins")
        full = float(self.effect[self.full])
        if not full:
            raise CircuitsError(
                "the full effect is 0 on average, so no share of it can be told: the two runs do "
                "not differ in this metric; choose other prompts or another metric"
            )
        ratio = self.effect / full
        # Rounding may leave a little less than nothing of a difference.
        left = self.squares - 2 * ratio * self.products + ratio**2 * self.squares[self.full]
        left, counted = np.maximum(left, 0), self.scales.effect.counted
        ends = intervals.ratio_ends(
            ratio, left, full, self.n, counted=counted, confidence=confidence
        )
        if self.clustered:
            groups = [(group.n, group.effect, group.effect[self.full]) for group in self._groups]
            sums = np.stack([n * (part - ratio * all_) / full for n, part, all_ in groups], 1)
            scale = Scale(counted=counted)
            ends = intervals.grouped(ratio, sums, self.n, scale, ends, confidence)
        return averaged(ratio, ends, self.n)

    @property
    def n_cells(self) -> int:
        """How many cells there are, differences between them not counted."""
        return len(self.value) - len(self.differences)

    @property
    def _groups(self) -> list[Moments]:
        return list(self.groups.values())

    def _ends(self, cells: slice, scale: Scale, confidence: float) -> Ends:
        mean, squares = self.effect[cells], self.squares[cells]
        alone = intervals.ends(mean, squares, self.n, scale, confidence)
        if not self.clustered:
            return alone
        sums = np.stack([group.n * (group.effect[cells] - mean) for group in self._groups], 1)
        return intervals.grouped(mean, sums, self.n, scale, alone, confidence)


def moments(
    values: Floats,
    changed: NDArray[np.bool_],
    labels: Sequence[str] | None = None,
    *,
    base: int = 0,
    full: int | None = None,
    differences: Differences = (),
    scales: Scales = ANY,
) -> Moments:
    """What each cell does on these prompts: `values` [c n], `changed` [c].

    `base` is the cell that effects are measured from, `full` one whose effect is the whole. A pair
    of `differences` adds a row: how much larger is the effect of the one cell than the other's on
    the same prompt, as if that alone had been added to the base. `labels` [n] say which group each
    prompt is of.

    Raises:
        CircuitsError: for no prompts, or values that are not finite or not on the scale.
    """
    n = values.shape[1]
    if not n or not np.isfinite(values).all():
        bad = "no values" if not n else f"{int((~np.isfinite(values)).sum())} that are not finite"
        raise CircuitsError(f"a mean needs finite values; given were {bad}")
    scales.effect.require(values)
    groups: dict[str, Moments] = {}
    given: dict[str, Any] = {"base": base, "full": full, "scales": scales}
    for label in dict.fromkeys(labels or ()):
        in_group = np.array([other == label for other in labels or ()])
        groups[label] = moments(values[:, in_group], changed, differences=differences, **given)
    pairs = tuple(differences)
    values = _with_differences(values, base, pairs)
    first, second = ([pair[end] for pair in pairs] for end in (0, 1))
    changed = np.concatenate([changed, changed[first] | changed[second]])
    effects = _effects(values, base, len(values) - len(pairs), scales)
    effect = effects.mean(1)
    effects -= effect[:, None]
    return Moments(
        n=n,
        value=values.mean(1),
        effect=effect,
        squares=np.square(effects).sum(1),
        products=None if full is None else (effects * effects[full]).sum(1),
        changed=changed,
        full=full,
        differences=pairs,
        scales=scales,
        groups=groups,
    )


def _with_differences(values: Floats, base: int, pairs: Differences) -> Floats:
    """The values [c n], and below them what each pair's difference alone would make of the base."""
    if not pairs:
        return values  # which may be large
    first, second = ([pair[end] for pair in pairs] for end in (0, 1))
    return np.concatenate([values, values[base] + (values[first] - values[second])])


def _effects(values: Floats, base: int, n_cells: int, scales: Scales) -> Floats:
    """How far each prompt's value is from its base: of `n_cells` cells, then of differences."""
    effects: Floats = values - values[base]
    for rows, scale in ((effects[:n_cells], scales.effect), (effects[n_cells:], scales.difference)):
        np.clip(rows, scale.low, scale.high, out=rows)  # rounding may leave them a little outside
    return effects


def _joined(first: Draws | None, second: Draws | None) -> Draws | None:
    """The draws of both, those of the second after the first's."""
    if first is None or second is None:
        return None
    groups = None
    if first.groups is not None and second.groups is not None:
        groups = (*first.groups, *second.groups)
    values = np.concatenate([first.values, second.values], axis=1)
    return replace(first, values=values, groups=groups)
