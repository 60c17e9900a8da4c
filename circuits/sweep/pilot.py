"""What does a row cost on its way through a block? Measured on a small piece of the same work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from circuits.memory import peak_bytes
from circuits.sweep.engine import runner_of

if TYPE_CHECKING:
    from circuits.model import HookedModel

_ROWS = 512  # enough that a row costs what it costs among many
# What was measured, for as long as the model lives: by its shape, its parts, what multiplies, and
# the width.
_measured: WeakKeyDictionary[HookedModel, dict[tuple[object, ...], float]] = WeakKeyDictionary()


def row_bytes(model: HookedModel, width: int) -> float:
    """How many bytes are alive for each row in a block?"""
    known = _measured.setdefault(model, {})
    what = (repr(model.cfg), width, model.backend.uses_onednn, *map(type, model.modules()))
    if what not in known:
        pilot = runner_of(model).pilot(model, width, 1)
        known[what] = peak_bytes(pilot.run) / pilot.rows
    return known[what]


def row_seconds(model: HookedModel, width: int) -> float:
    """How long does a row take through one block? The better of two runs."""
    pilot = runner_of(model).pilot(model, width, _ROWS)
    times = []
    for _ in range(3):  # the first one warms up
        start = time.perf_counter()
        pilot.run()
        if model.W_E.is_cuda:
            torch.cuda.synchronize(model.W_E.device)
        times.append(time.perf_counter() - start)
    return min(times[1:]) / (pilot.rows * pilot.blocks)
