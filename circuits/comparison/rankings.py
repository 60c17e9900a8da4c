"""Do the scores of a circuit find another one? Its parts in the order of scores, and curves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from circuits.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class Finding:
    """The parts of a model in the order of a circuit's scores: which are of the reference, [n].

    Nothing is gained by ties: of parts with the same score those that are not of the reference come
    first, and so it is with parts without a score, which come last.
    """

    hits: Bools

    @classmethod
    def of(cls, scores: Floats, is_hit: Bools, n_hits: int, n_parts: int) -> Finding:
        """Scores [s], the largest first; all `n_parts` have `n_hits`, with and without a score."""
        order = np.lexsort((is_hit, -scores))
        n_more = n_hits - int(is_hit.sum())
        rest = np.zeros(n_parts - len(scores), dtype=bool)
        rest[len(rest) - n_more :] = True
        return cls(np.concatenate([is_hit[order], rest]))

    @property
    def roc_area(self) -> float:
        """The area under the ROC curve, interpolated pessimistically.

        The curve is the share of the reference that is found (true positive rate y) over the share
        of the other parts that are taken for it (false positive rate x), for each threshold of the
        scores. From one threshold to the next it goes to the right first and then up, so that the
        area is the sum of (1 - x_i) (y_i - y_(i-1)), as in the code of Conmy et al. 2023
        (arXiv 2304.14997): 1 if all of the reference has the largest scores, 1/2 for many random
        scores, 0 if all scores are equal. NaN where the reference is empty, or everything.

        >>> Finding(np.array([True, False, True, False])).roc_area
        0.75
        """
        n_hits, n_others = int(self.hits.sum()), int((~self.hits).sum())
        if not n_hits or not n_others:
            return math.nan
        wrong_before = np.cumsum(~self.hits)[self.hits]
        return float((1 - wrong_before / n_others).sum() / n_hits)

    @property
    def at_size(self) -> float:
        """Of as many parts as the reference has, those with the largest scores: which share is it?

        This is their precision, and their recall, too. NaN where the reference is empty.
        """
        n_hits = int(self.hits.sum())
        return float(self.hits[:n_hits].mean()) if n_hits else math.nan

    def corners(self) -> tuple[Ints, Ints]:
        """Where the curve turns: how many parts are taken [c], and how many are right [c].

        >>> Finding(np.array([True, True, False, True])).corners()
        (array([0, 2, 3, 4]), array([0, 2, 2, 3]))
        """
        turns = np.flatnonzero(self.hits[1:] != self.hits[:-1]) + 1
        taken = np.array([0, *turns.tolist(), len(self.hits)])
        right = np.concatenate([[0], np.cumsum(self.hits)])
        return taken, right[taken]
