"""Training: of a whole model, of some of its parts, or of what stands beside them.

In reading order: `adam` (what makes a step), `loop` (the steps that all training here goes
through), `parts` (which weights are trained), `change` (what is learned of them: all, LoRA's
products, or adapters), `examples` (what it is learned from), `objective` (what is minimized), `run`
(a training that may be interrupted) and `saving` (what it leaves).

The loop, LoRA and adapters are written here, although peft and accelerate exist: peft puts modules
of its own into a model of transformers, where no site can be watched, and trains neither a head
alone nor bit-exact masks; accelerate spreads a loop over devices, of which one is enough here.
What both ends agree on is the format of the files, which is tested against peft.
"""

from circuits.training.change import METHODS, Change, Method, prepared
from circuits.training.examples import Example, Examples, of_task, read_examples
from circuits.training.loop import descend, falling, repeatable
from circuits.training.objective import Score, scored
from circuits.training.parts import Slice, slices
from circuits.training.run import HELD_OUT, TRAINED, Settings, State, Training
from circuits.training.saving import CURVE, FIGURE, Trained, require_place

__all__ = [
    "CURVE",
    "FIGURE",
    "HELD_OUT",
    "METHODS",
    "TRAINED",
    "Change",
    "Example",
    "Examples",
    "Method",
    "Score",
    "Settings",
    "Slice",
    "State",
    "Trained",
    "Training",
    "descend",
    "falling",
    "of_task",
    "prepared",
    "read_examples",
    "repeatable",
    "require_place",
    "scored",
    "slices",
]
