"""What passed the sites of a sweep's two runs: the base run's and the source's.

Shapes: b prompts, p positions; what passes a site is [b p ...], or [b h q k] for patterns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits.interventions import Reference, Runs, passes_layers, run_sites

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts

__all__ = ["Reference", "Runs", "pair_of_runs", "run_sites"]


def pair_of_runs(
    model: HookedModel, prompts: Prompts, other: Tensor, base: set[str], source: set[str]
) -> tuple[Runs, Runs]:
    """The base run's values at its sites and those of the run on `other` [b p] at the source's.

    Both at once: many rows take less time by the row. But where one of them is only about what
    enters the first layer, it goes no further.
    """
    if not (passes_layers(base) and passes_layers(source)):
        first = run_sites(model, prompts.tokens, prompts.mask, base)
        return first, run_sites(model, other, prompts.mask, source)
    tokens, mask = torch.cat([prompts.tokens, other]), prompts.mask.repeat(2, 1)
    both = run_sites(model, tokens, mask, base | source)
    first = {site: both[site].chunk(2)[0] for site in base}
    return first, {site: both[site].chunk(2)[1] for site in source}
