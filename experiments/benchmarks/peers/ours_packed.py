"""This package as a user has it who stays inside ``with circuits.packed(model)``.

The copies of the weights are made in the first run of the first task, which is not counted.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from circuits import HookedGPT2, packed
from experiments.benchmarks.peers import Declined, ours
from experiments.benchmarks.peers.ours import (
    ablate_heads,
    attribution,
    circuit_alone,
    circuit_curve,
    edges_eap,
    edges_eap_ig,
    edges_exact,
    forward,
    full_cache,
    generate,
    last_logits,
    logit_lens,
    patch_heads,
    patch_residual,
)

__all__ = [
    "ablate_heads",
    "attribution",
    "circuit_alone",
    "circuit_curve",
    "edges_eap",
    "edges_eap_ig",
    "edges_exact",
    "forward",
    "full_cache",
    "generate",
    "last_logits",
    "load",
    "logit_lens",
    "patch_heads",
    "patch_residual",
]
BLOCK = ExitStack()  # left when the process ends
LOADED: list[Path] = []


def load(folder: Path) -> HookedGPT2:
    if LOADED:
        raise Declined("loads as without packing")
    LOADED.append(folder)
    model = ours.load(folder)
    BLOCK.enter_context(packed(model))
    return model
