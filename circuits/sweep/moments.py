"""Statistics of a sweep that is too long to keep: per cell, merged block by block.

Shapes: c cells, n prompts. An effect is a cell's metric minus the base cell's, on the same prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.draws import keeper
from circuits.errors import CircuitsError
from circuits.result import AVERAGED, student_t

Numbers = NDArray[np.float64]
Differences = Sequence[tuple[int, int]]  # of cells


@dataclass(frozen=True, eq=False)
class Moments:
    """What does each cell do, on average over the prompts so far, and how sure is it?

    Everything an interval needs, and no prompt's own number (unless they are kept): the size does
    not depend on n. Made by `moments`; `merge` is exact up to rounding (Chan, Golub & LeVeque
    1983), and merging in the same order gives the same bits.

    Attributes:
        n: prompts.
        value: [c], the mean of the metric.
        effect: [c], the mean effect.
        squares: [c], the sum over prompts of the effect's squared deviation from its mean.
        products: [c], the sum of its deviations times those of the `full` cell's effect; or None.
        changed: [c], whether a cell wrote anything that was not there already.
        full: which cell's effect is the whole that `ratio` compares with; or None.
        differences: pairs of cells; after the cells' own numbers come those of the difference
            between the two, see `at`.
        draws: [c n], the effects themselves; only while somebody keeps them (`circuits.draws`).
    """

    n: int
    value: Numbers
    effect: Numbers
    squares: Numbers
    products: Numbers | None
    changed: NDArray[np.bool_]
    full: int | None = None
    differences: tuple[tuple[int, int], ...] = ()
    draws: Numbers | None = None

    def at(self, cell: int, other: int) -> int:
        """Where stand the numbers of the difference between these two cells?

        >>> found = moments(np.eye(3), np.ones(3, dtype=bool), differences=[(1, 2)])
        >>> found.at(1, 2), found.effect[3].item()
        (3, 0.0)
        """
        n_cells = len(self.value) - len(self.differences)
        return n_cells + self.differences.index((cell, other))

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
        kinds = [(len(one.value), one.full, one.differences) for one in (self, other)]
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
        draws = None
        if self.draws is not None and other.draws is not None:
            draws = np.concatenate([self.draws, other.draws], axis=1)
        return replace(
            self,
            n=n,
            value=self.value + share * (other.value - self.value),
            effect=self.effect + share * step,
            squares=self.squares + other.squares + between * step,
            products=products,
            changed=self.changed | other.changed,
            draws=draws,
        )

    def interval(self, confidence: float = 0.95) -> dict[str, NDArray[Any]]:
        """The mean effect [c] with its uncertainty: the columns of `mean_interval`.

        >>> found = moments(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), np.array([False, True]))
        >>> {name: round(float(column[1]), 3) for name, column in found.interval().items()}
        {'value': 2.0, 'stderr': 0.577, 'ci_low': -0.484, 'ci_high': 4.484, 'n': 3.0}
        """
        columns = self._columns(self.effect, self.squares, confidence)
        if self.draws is not None and (keeping := keeper()) is not None:
            keeping.keep(columns["value"], columns["stderr"], self.draws)
        return columns

    def ratio(self, confidence: float = 0.95) -> dict[str, NDArray[Any]]:
        """Which share of the full effect has each cell [c]? Mean effect over mean full effect.

        The standard error is the ratio estimator's (delta method; Cochran 1977, 6.4): that of the
        mean of effect - ratio x full effect, over the full effect's mean.

        Raises:
            CircuitsError: when no full effect was asked for, or it is 0 on average.
        """
        if self.full is None or self.products is None:
            raise CircuitsError("no cell is the full effect; say which one when the sweep begins")
        whole = float(self.effect[self.full])
        if not whole:
            raise CircuitsError(
                "the full effect is 0 on average, so no share of it can be told: the two runs do "
                "not differ in this metric; choose other prompts or another metric"
            )
        ratio = self.effect / whole
        # Rounding may leave a little less than nothing of a difference.
        left = self.squares - 2 * ratio * self.products + ratio**2 * self.squares[self.full]
        return self._columns(ratio, np.maximum(left, 0) / whole**2, confidence)

    def _columns(
        self, mean: Numbers, squares: Numbers, confidence: float
    ) -> dict[str, NDArray[Any]]:
        n = self.n
        stderr = np.sqrt(squares / (n - 1) / n) if n > 1 else np.full_like(mean, np.nan)
        half = stderr * (student_t(confidence, n - 1) if n > 1 else math.nan)
        columns = (mean, stderr, mean - half, mean + half, np.full(mean.shape, n))
        return dict(zip(AVERAGED, columns, strict=True))


def moments(
    values: Numbers,
    changed: NDArray[np.bool_],
    *,
    base: int = 0,
    full: int | None = None,
    differences: Differences = (),
) -> Moments:
    """What does each cell do on these prompts? `values` [c n], `changed` [c].

    `base` is the cell that effects are measured from, `full` one whose effect is the whole. A pair
    of `differences` adds a row: how much larger is the effect of the one cell than the other's on
    the same prompt, as if that alone had been added to the base.

    Raises:
        CircuitsError: for no prompts, or values that are not finite.
    """
    n = values.shape[1]
    if not n or not np.isfinite(values).all():
        bad = "no values" if not n else f"{int((~np.isfinite(values)).sum())} that are not finite"
        raise CircuitsError(f"a mean needs finite values; given were {bad}")
    pairs = tuple(differences)
    one, other = ([pair[end] for pair in pairs] for end in (0, 1))
    values = np.concatenate([values, values[base] + (values[one] - values[other])])
    changed = np.concatenate([changed, changed[one] | changed[other]])
    effects = values - values[base]
    effect = effects.mean(1)
    draws = None if keeper() is None else effects.copy()
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
        draws=draws,
    )
