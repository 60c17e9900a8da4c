"""What single neurons of MLPs say: by their weights alone, and on a text.

`values` are the tokens that a neuron promotes, `triggers` those that match its key. On a text,
`contexts` are the places where a neuron is most active, `by_class` its mean activation by class of
token, `overview` numbers of all neurons of a layer.
"""

from circuits.mlp_neurons.on_text import (
    CLASSES,
    Context,
    Contexts,
    by_class,
    class_of,
    classes_of,
    contexts,
    overview,
)
from circuits.mlp_neurons.weights import triggers, value_logits, values

__all__ = [
    "CLASSES",
    "Context",
    "Contexts",
    "by_class",
    "class_of",
    "classes_of",
    "contexts",
    "overview",
    "triggers",
    "value_logits",
    "values",
]
