"""Random numbers as large as the values they replace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits.interventions.base import Into, Runs, Write, method

if TYPE_CHECKING:
    from circuits.interventions.reference import Reference


@method(
    needs="any",
    source="noise with the mean and spread of the {n_tokens} tokens of {which} (seed {seed})",
    drawn=True,
)
def noise(reference: Reference) -> Write:
    """What would the component write if it said nothing of the text, at its usual size?

    Each number is Gaussian, drawn anew for each token, with the mean and the standard deviation
    that it has over all real tokens (the covariance's diagonal): [b p ...]. What is drawn depends
    on seed, site and the prompt's row alone.
    """
    mean = reference.mean()
    spread = _spread(reference, mean)

    def write(into: Into) -> Runs:
        written = {}
        for site in reference.sites:
            shape = mean[site].shape[2:]
            drawn = mean[site].new_zeros((*into.mask.shape, *shape))
            for i, length in enumerate(into.mask.sum(1).tolist()):
                key = (reference.source.seed, site, into.first_row + i)
                drawn[i, into.mask[i]] = normal_draws((length, *shape), *key).to(drawn)
            written[site] = reference.rounded(mean[site] + spread[site] * drawn)
        return written

    return write


def _spread(reference: Reference, mean: dict[str, Tensor]) -> dict[str, Tensor]:
    """The standard deviation over all real tokens, [1 1 ...]."""
    total: dict[str, Tensor] = {}
    for site, values in reference.real():
        far = (values - mean[site][0]).square().sum(0)[None, None] / reference.n_real
        total[site] = total[site] + far if site in total else far
    return {site: far.sqrt() for site, far in total.items()}


def normal_draws(shape: Sequence[int], *key: object) -> Tensor:
    """Standard normal numbers in float64 that depend on the shape and this key alone.

    >>> normal_draws([2], 0, "embed").equal(normal_draws([2], 0, "embed"))
    True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
