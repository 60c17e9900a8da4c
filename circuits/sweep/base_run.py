"""Some of the prompts of a sweep before anything is written: their runs, and what is read there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits.arrays import Floats
from circuits.prompts.tiled import tiled
from circuits.sweep.edits import stream_site
from circuits.sweep.reading import norm_scale, read_logits
from circuits.sweep.values import Reference, Runs, pair_of_runs, run_sites

if TYPE_CHECKING:
    from circuits.metrics import Metric
    from circuits.model import HookedModel
    from circuits.prompts import Prompts
    from circuits.sweep.cells import Sweep
    from circuits.sweep.circuit_sweep import CircuitSweep


@dataclass(frozen=True, eq=False)
class BaseRun:
    """Some of the prompts of a sweep, ready for cells to be run on them.

    Shapes: b prompts, p positions, s cells, n positions that the metric reads, t tokens that it
    reads there, d = d_model, v = d_vocab.

    Attributes:
        sweep: what is asked.
        rows: which of the sweep's prompts these are.
        prompts: the prompts themselves.
        values: what passes the needed sites in the unedited run.
        source: what is written instead.
        logits_at_once: how many numbers of logits there may be at once.
        tiles: the prompts as often as cells were scored at once.
    """

    model: HookedModel
    sweep: Sweep | CircuitSweep
    rows: slice
    prompts: Prompts
    values: Runs
    source: Runs
    logits_at_once: int
    tiles: dict[int, Prompts] = field(default_factory=dict, init=False, repr=False)

    @property
    def metric(self) -> Metric:
        """What is measured."""
        return self.sweep.metric

    @cached_property
    def reads(self) -> Tensor:
        """Where the metric reads, True or False: [b p]."""
        return self.metric.positions(self.prompts)

    @cached_property
    def tokens(self) -> Tensor | None:
        """Which tokens the metric reads at each of its positions, [n t]; None for all."""
        return None if self.metric.tokens is None else self.metric.tokens(self.prompts)

    @cached_property
    def final(self) -> Tensor:
        """The final stream where the metric reads: [n d]."""
        site = final_site(self.model)
        if site in self.values:
            return self.values[site][self.reads]
        return self._final(self.prompts.tokens)

    @cached_property
    def scale(self) -> Tensor:
        """What the final norm divides by where the metric reads: [n 1]."""
        return norm_scale(self.model, self.final)

    @cached_property
    def logits(self) -> Tensor:
        """What the metric reads in the unedited run: [n v] or [n t]."""
        with torch.inference_mode():
            return self.read(self.final)

    @cached_property
    def clean_logits(self) -> Tensor:
        """The same of the run that the metric compares with."""
        clean = self.sweep.clean
        if clean is None or "clean" not in self.metric.needs:
            return self.logits
        with torch.inference_mode():
            return self.read(self._final(clean[self.rows, : self.prompts.tokens.shape[1]]))

    def _final(self, tokens: Tensor) -> Tensor:
        """The final stream of a run on these tokens where the metric reads: [n d]."""
        site = final_site(self.model)
        return run_sites(self.model, tokens, self.prompts.mask, [site])[site][self.reads]

    def read(self, final: Tensor, *, held: bool = False) -> Tensor:
        """The logits that the metric reads: [(s n) d] -> [(s n) v] or [(s n) t].

        With `held` the final norm divides by what it does in the unedited run.
        """
        times = len(final) // max(1, int(self.reads.sum()))
        tokens = None if self.tokens is None else self.tokens.repeat(times, 1)
        scale = self.scale.repeat(times, 1) if held else None
        return read_logits(self.model, final, tokens, scale, self.metric.readout)

    def read_cells(self, finals: Tensor, *, held: bool = False) -> Iterator[tuple[range, Tensor]]:
        """The logits that the metric reads in cells, some after others: [s n d] -> [(s n) v]."""
        cfg = self.model.cfg
        width = cfg.d_vocab if self.tokens is None else self.tokens.shape[1] * cfg.d_model
        at_once = max(1, self.logits_at_once // (finals.shape[1] * width))
        for first in range(0, len(finals), at_once):
            some = finals[first : first + at_once]
            read = self.read(some.flatten(0, 1), held=held)
            yield range(first, first + len(some)), read

    def score(self, logits: Tensor, n_cells: int = 1) -> Floats:
        """The metric of each prompt in each cell, [s b], from what it reads: [(s n) v].

        All cells at once, as if each had prompts of its own: for few prompts, calls are the time.
        """
        if n_cells not in self.tiles:
            self.tiles[n_cells] = tiled(self.prompts, n_cells)
        clean = logits
        if "clean" in self.metric.needs:
            clean = self.clean_logits.repeat(n_cells, 1)
        values = self.metric.score(logits, self.tiles[n_cells], clean)
        scores: Floats = values.double().cpu().numpy()
        return scores.reshape(n_cells, -1)


def base_run(
    model: HookedModel,
    sweep: Sweep | CircuitSweep,
    rows: slice,
    sites: Iterable[str],
    reference: Reference,
    logits_at_once: int,
) -> BaseRun:
    """Run these prompts, and keep what passes these sites."""
    prompts, sites = sweep.prompts.subset(rows), set(sites)
    passed: Runs = {}
    if sweep.source.rule.needs == "rows":
        other = sweep.source.tokens[rows, : prompts.tokens.shape[1]]
        values, passed = pair_of_runs(model, prompts, other, sites, {*reference.sites})
    else:
        values = run_sites(model, prompts.tokens, prompts.mask, sites)
    source = reference.values(prompts, rows, passed)
    return BaseRun(model, sweep, rows, prompts, values, source, logits_at_once)


def final_site(model: HookedModel) -> str:
    """The site of the stream behind the last block."""
    return stream_site(model.cfg.n_layers, model.cfg.n_layers)
