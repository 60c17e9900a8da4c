"""Is there nothing in the model that does the same beside the circuit? Completeness.

Without a set K of its parts, a complete circuit and the model are left with the same: |F(C without
K) - F(M without K)| is small for every K. Source: Wang et al. 2022 (2211.00593, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from circuits.evaluation.cells import Cells
from circuits.evaluation.evidence import Evidence, Row, Share, verdict
from circuits.evaluation.subject import Subject
from circuits.result import mean_interval


@dataclass(frozen=True)
class Completeness:
    """The circuit and the model without each random set.

    Attributes:
        circuits: the places of the circuit without it, [k]; `models` those of the model.
        sizes: how many parts each set has, [k].
    """

    circuits: tuple[int, ...]
    models: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def ask(
        cls, subject: Subject, cells: Cells, subsets: int, rng: np.random.Generator
    ) -> Completeness:
        """The cells of random sets, each part in a set with a chance of one half."""
        circuits, models, sizes = [], [], []
        for i in range(subsets):
            drawn = rng.random(len(subject.parts)) < 0.5
            gone = [part for part, is_gone in zip(subject.parts, drawn, strict=True) if is_gone]
            left = [part for part, is_gone in zip(subject.parts, drawn, strict=True) if not is_gone]
            circuits.append(cells.add(subject.alone(left, f"circuit without set {i}")))
            models.append(cells.add(subject.without(gone, f"model without set {i}")))
            sizes.append(len(gone))
        return cls(tuple(circuits), tuple(models), tuple(sizes))

    def rows(self, evidence: Evidence, tolerance: float) -> Iterator[Row]:
        """How far circuit and model are apart; it fails if the mean is clearly above tolerance."""
        if not self.circuits:
            return
        circuit = evidence.faithfulness[list(self.circuits)]
        model = evidence.faithfulness[list(self.models)]
        apart = np.abs(circuit - model)
        mean = Share.of(mean_interval(apart))
        k = len(apart)
        yield Row(
            "completeness",
            "|F(C - K) - F(M - K)|, mean over random K",
            **asdict(mean),
            n=k,
            verdict=verdict(mean.ci_low <= tolerance),
            against=f"over {k} sets K; passes unless its interval is above {tolerance:g}",
        )
        worst = int(apart.argmax())
        yield Row(
            "completeness",
            "|F(C - K) - F(M - K)|, worst",
            float(apart[worst]),
            against=f"without {self.sizes[worst]} parts: circuit {circuit[worst]:.3f}, "
            f"model {model[worst]:.3f}",
        )
        yield Row(
            "completeness",
            "F(M - K), mean over random K",
            **asdict(Share.of(mean_interval(model))),
            n=k,
            against="near 0, the test says little: everything is gone, in both",
        )
