"""What is written: the values that a method takes from its reference set, ready for some prompts.

Shapes: b prompts, p positions; what passes a site is [b p ...], or [b h q k] for patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from circuits.interventions import normal_draws
from circuits.precision import wide
from circuits.sweep.cells import ROW_BY_ROW, Kind, Source

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts

Runs = Mapping[str, Tensor]  # what passed the sites of a run, by site


@torch.inference_mode()
def run_sites(model: HookedModel, tokens: Tensor, mask: Tensor, sites: Iterable[str]) -> Runs:
    """What passes these sites when the model reads `tokens` [b p], real where `mask` says so?"""
    wanted = sorted(set(sites))
    if not wanted:
        return {}
    options: dict[str, Any] = {"attention_mask": mask, "return_type": None}
    return dict(model.run_with_cache(tokens, names_filter=wanted, **options)[1])


def pair_of_runs(
    model: HookedModel, prompts: Prompts, other: Tensor, base: set[str], source: set[str]
) -> tuple[Runs, Runs]:
    """The base run's values at its sites and those of the run on `other` [b p] at the source's.

    Both at once: many rows take less time by the row.
    """
    tokens, mask = torch.cat([prompts.tokens, other]), prompts.mask.repeat(2, 1)
    both = run_sites(model, tokens, mask, base | source)
    first = {site: both[site].chunk(2)[0] for site in base}
    return first, {site: both[site].chunk(2)[1] for site in source}


class Reference:
    """What a method other than ``resample`` writes, site by site; its reference set is read once.

    The set is read a few rows at a time; only its statistics are kept, taken in float32 at least.
    What is written is rounded to the precision of what it replaces.
    """

    def __init__(self, model: HookedModel, source: Source, sites: Iterable[str]) -> None:
        self.source, self._model, self._sites = source, model, sorted(sites)
        self._at_once = max(1, 2**11 // source.tokens.shape[1])
        self._mean: dict[str, Tensor] = {}  # [1 1 ...]
        self._spread: dict[str, Tensor] = {}  # [1 1 ...], the standard deviation
        self._of_kind: dict[Kind, dict[str, Tensor]] = {}  # [p ...]
        with torch.inference_mode():
            read = {"mean": self._average, "noise": self._average, "position-mean": self._align}
            read.get(source.method, self._nothing)()

    def values(self, prompts: Prompts, rows: slice) -> Runs:
        """What is written in these prompts, which are those `rows` of the sweep's: [b or 1 ...]."""
        if self.source.method not in ROW_BY_ROW:
            return self._mean
        make = self._drawn if self.source.method == "noise" else self._aligned
        return {site: make(site, prompts, rows) for site in self._sites}

    def _nothing(self) -> None:
        """Zeros, in the shape that one token has."""
        tokens, mask = self.source.tokens[:1, :1], self.source.mask[:1, :1]
        for site, values in run_sites(self._model, tokens, mask, self._sites).items():
            self._mean[site] = torch.zeros_like(values)

    def _average(self) -> None:
        """The mean over all real tokens, and how far they are from it."""
        total: dict[str, Tensor] = {}
        for site, values in self._real():
            share = values.sum(0)[None, None] / self._n_real
            total[site] = total[site] + share if site in total else share
        if self.source.method == "noise":
            for site, values in self._real():
                far = (values - total[site][0]).square().sum(0)[None, None] / self._n_real
                self._spread[site] = self._spread[site] + far if site in self._spread else far
            self._spread = {site: far.sqrt() for site, far in self._spread.items()}
            self._mean = total
            return
        self._mean = {site: self._rounded(mean) for site, mean in total.items()}

    @property
    def _n_real(self) -> int:
        return int(self.source.mask.sum())

    def _real(self) -> Iterator[tuple[str, Tensor]]:
        """The values at the real tokens, [n ...], some rows of the set after others; wide."""
        tokens, mask = self.source.tokens, self.source.mask.bool()
        for first in range(0, len(mask), self._at_once):
            rows = slice(first, first + self._at_once)
            for site, values in run_sites(
                self._model, tokens[rows], mask[rows], self._sites
            ).items():
                yield site, wide(values[mask[rows]])

    def _rounded(self, value: Tensor) -> Tensor:
        return value.to(self._model.W_E.dtype)

    def _align(self) -> None:
        """The mean at each position, over the prompts of each length (and template)."""
        kinds = self.source.kinds
        for kind in dict.fromkeys(kinds):
            rows = torch.tensor([other == kind for other in kinds], device=self.source.mask.device)
            tokens = self.source.tokens[rows, : kind[1]]
            total: dict[str, Tensor] = {}
            for some in tokens.split(self._at_once):
                found = run_sites(self._model, some, torch.ones_like(some).bool(), self._sites)
                for site, values in found.items():
                    share = wide(values).sum(0) / len(tokens)
                    total[site] = total[site] + share if site in total else share
            self._of_kind[kind] = {s: self._rounded(mean) for s, mean in total.items()}

    def _aligned(self, site: str, prompts: Prompts, rows: slice) -> Tensor:
        """Each prompt's mean by position, [b p ...]; zeros where there is only padding."""
        width = prompts.tokens.shape[1]
        whole = None
        for row, kind in enumerate(self.source.kinds_of(prompts)):
            own, length = self._of_kind[kind][site], kind[1]
            is_pattern = site.endswith("hook_pattern")
            if whole is None:
                shape = (own.shape[0], width, width) if is_pattern else (width, *own.shape[1:])
                whole = own.new_zeros(len(prompts), *shape)
            place = whole[row, :, :length, :length] if is_pattern else whole[row, :length]
            place.copy_(own)
        assert whole is not None
        return whole

    def _drawn(self, site: str, prompts: Prompts, rows: slice) -> Tensor:
        """Gaussian noise of the site's own mean and spread, drawn anew for each token: [b p ...].

        What is drawn depends on seed, site and the prompt's row alone.
        """
        mean, spread = self._mean[site], self._spread[site]
        shape = (len(prompts), prompts.tokens.shape[1], *mean.shape[2:])
        noise = mean.new_zeros(shape)
        for i, length in enumerate(prompts.mask.sum(1).tolist()):
            drawn = normal_draws((length, *shape[2:]), self.source.seed, site, rows.start + i)
            noise[i, :length] = drawn.to(noise)
        return self._rounded(mean + spread * noise)
