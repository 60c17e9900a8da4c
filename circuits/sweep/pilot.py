"""What does a row cost on its way through a block? Measured on a small flow of this model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuits.adapter import AdaptedModel
from circuits.sweep.edits import Stage, stream_site
from circuits.sweep.flow import Flow
from circuits.sweep.hooked import HookedPilot
from circuits.sweep.memory import peak_bytes
from circuits.sweep.writes import Group

if TYPE_CHECKING:
    from circuits.model import HookedGPT2

_ROWS = 512  # enough that a row costs what it costs among many


class Pilot:
    """Sequences of `width` positions, about `rows` in all, through the last two blocks."""

    def __init__(self, model: HookedGPT2, width: int, rows: int = 1) -> None:
        n_layers = model.cfg.n_layers
        self.first, self.n = max(0, n_layers - 2), max(1, rows // width)
        self.blocks = n_layers - self.first
        device = model.W_pos.device
        stream = model.W_pos.new_zeros(1, width, model.cfg.d_model)
        sites = (stream_site(layer, n_layers) for layer in (self.first, n_layers))
        self.base = dict.fromkeys(sites, stream)
        here = torch.zeros(self.n, dtype=torch.long, device=device)
        columns = torch.arange(width, device=device)
        self.group = Group(0, np.zeros(self.n, dtype=np.int64), here, columns)
        self.everywhere = torch.ones(1, width, dtype=torch.bool, device=device)
        self.model = model

    @torch.inference_mode()
    def run(self) -> None:
        """Run it."""
        flow = Flow(self.model, self.base, [[]], self.everywhere, self.everywhere)
        for _ in flow.run({(self.first, Stage.PRE): [self.group]}):
            pass

    @property
    def rows(self) -> int:
        """How many rows are in it?"""
        return self.group.n_rows


def _pilot(model: HookedGPT2, width: int, rows: int = 1) -> Pilot | HookedPilot:
    return (HookedPilot if isinstance(model, AdaptedModel) else Pilot)(model, width, rows)


def row_bytes(model: HookedGPT2, width: int) -> float:
    """How many bytes are alive for each row in a block?"""
    pilot = _pilot(model, width)
    return peak_bytes(pilot.run) / pilot.rows


def row_seconds(model: HookedGPT2, width: int) -> float:
    """How long does a row take through one block? The better of two runs."""
    pilot = _pilot(model, width, _ROWS)
    times = []
    for _ in range(3):  # the first one warms up
        start = time.perf_counter()
        pilot.run()
        if model.W_E.is_cuda:
            torch.cuda.synchronize(model.W_E.device)
        times.append(time.perf_counter() - start)
    return min(times[1:]) / (pilot.rows * pilot.blocks)
