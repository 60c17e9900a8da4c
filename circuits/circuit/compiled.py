"""The circuit of the hand-compiled model, which is known because it was written by hand."""

from __future__ import annotations

from dataclasses import replace

from circuits.checkpoints.compiled import BUNDLED, Recipe, build
from circuits.circuit.circuit import Circuit
from circuits.circuit.parts import Part, Score
from circuits.metrics import get_metric

EXACT = 20.0  # from this beta on, `Recipe.effects` are right to 0.02


def compiled_circuit(recipe: Recipe = BUNDLED) -> Circuit:
    """Which six edges of the compiled model are its indirect-object circuit?

    They are what carries the difference between the prompts of the task compiled-ioi and their
    twins, whose S2 is a third name, whatever the model's sizes and wherever its heads are. With
    exact attention each has its score, and every other edge has none. A softer model's edges have
    no scores here: others matter a little, too, so measure them (`circuits.paths`).

    >>> circuit = compiled_circuit()
    >>> len(circuit), len(circuit.graph), ", ".join(map(str, circuit.heads))
    (6, 1108, 'a0.h1, a1.h1, a2.h0')
    """
    circuit = Circuit.of(build(recipe), recipe.effects)
    measure = get_metric("logit_diff")
    origin = replace(
        circuit.origin,
        metric=measure.name,
        unit=measure.unit,
        higher_is_better=measure.higher_is_better,
        task="compiled-ioi",
        selection="by construction",
        source="circuits.checkpoints.compiled",
    )
    known = recipe.effects if recipe.beta >= EXACT else {}
    scores: dict[Part, Score] = {
        edge: Score(effect, effect, effect) for edge, effect in known.items()
    }
    return replace(circuit, origin=origin, scores=scores)
