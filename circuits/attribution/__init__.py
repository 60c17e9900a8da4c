"""Direct logit attribution: what each term of the residual stream adds to a logit.

`decomposed` takes the final stream apart into `Term`s as finely as a `Split` says, and yields what
each pushes; `neuron_pushes` does so for every neuron; `scored` says which logits are read where.
"""

from circuits.attribution.direct import (
    OTHER,
    Reading,
    Split,
    Term,
    decomposed,
    neuron_pushes,
    scored,
    unit,
)

__all__ = [
    "OTHER",
    "Reading",
    "Split",
    "Term",
    "decomposed",
    "neuron_pushes",
    "scored",
    "unit",
]
