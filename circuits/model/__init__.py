"""The hooked model: what any model offers, and the steps that a block is made of.

Read in this order:

- `hooked`: `HookedModel`, what analyses may ask of any model: sites, weights, text, a forward pass.
- `norm`, `attention`, `mlp`, `block`: the pure steps that a block is made of, each hooked once.
  An architecture fills in the steps; the hooked pass and the sweep engine both call them.
- `transformer`: `Transformer`, the forward pass through blocks that are made of these steps.

What fills in the steps is in `circuits.architectures`.
"""

from circuits.model.attention import Attention, Places, mix
from circuits.model.block import Block, Unembed
from circuits.model.hooked import HookedModel
from circuits.model.mlp import MLP
from circuits.model.norm import Norm
from circuits.model.readout import Readout
from circuits.model.transformer import Transformer, Visit

__all__ = [
    "MLP",
    "Attention",
    "Block",
    "HookedModel",
    "Norm",
    "Places",
    "Readout",
    "Transformer",
    "Unembed",
    "Visit",
    "mix",
]
