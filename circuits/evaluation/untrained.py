"""Does the circuit do as much in a model of the same shape that has learned nothing?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from circuits.architectures import HookedGPT2
from circuits.arrays import Floats
from circuits.evaluation.cells import CIRCUIT, EMPTY
from circuits.evaluation.evidence import NOTHING, Evidence, Row
from circuits.evaluation.hypothesis_tests import beyond
from circuits.memory import left

if TYPE_CHECKING:
    from circuits.model import HookedModel


def untrained_like(model: HookedModel, n: int, seed: int) -> Iterator[HookedGPT2]:
    """So many models of this one's shape with the weights that training begins with, in turn.

    None for an adapted model, whose kind of initial weights is not known here.
    """
    if isinstance(model, HookedGPT2):
        for i in range(1, n + 1):
            yield HookedGPT2.random(model.cfg, seed=seed + i, tokenizer=model.tokenizer).to(
                model.W_E
            )


def left_beside(model: HookedModel, n: int, memory: str | None) -> int | str | None:
    """What such a model leaves of a bound while it runs, if there are any.

    Raises:
        CircuitsError: where nothing is left.
    """
    if not n or not isinstance(model, HookedGPT2):
        return memory
    n_bytes = sum(weight.nbytes for weight in model.parameters())
    return left(memory, int(1.5 * n_bytes), "the weights of an untrained model")


def untrained_rows(
    evidence: Evidence, others: Sequence[Evidence], tolerance: float
) -> Iterator[Row]:
    """What the circuit does here, against what it does in untrained models.

    It passes if those have at most `tolerance` of it on average, whatever its sign, and another
    untrained one is unlikely to have as much (Student's prediction from theirs).
    """
    test, what = "untrained", "what it does: m(C) - m(nothing)"
    own = evidence.mean(_gain(evidence))
    if len(others) < 2:
        says = "fewer than two untrained models of this shape to compare with"
        yield Row(test, what, **asdict(own), n=evidence.n, against=says)
        return
    gains = np.array([float(_gain(other).mean()) for other in others])
    size = float(np.abs(gains).mean())
    yield Row(
        test,
        what,
        **asdict(own),
        n=evidence.n,
        null=size,
        p_value=beyond(own.value, gains),
        verdict=NOTHING if size <= tolerance * own.value else "no",
        against=f"mean size in {len(others)} untrained models of this shape; passes if at most "
        f"{tolerance:.0%} of it is there, too",
    )


def _gain(evidence: Evidence) -> Floats:
    """What the circuit adds to nothing on each prompt, more being better."""
    return evidence.better(evidence.effects[CIRCUIT] - evidence.effects[EMPTY])
