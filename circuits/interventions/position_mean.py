"""The mean at each position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.interventions.base import Into, Runs, Write, method

if TYPE_CHECKING:
    from circuits.interventions.reference import Kind, Reference


@method(
    needs="alike",
    source="the mean at each position, over those of {which} that are {alike}",
    note="at each position, over prompts as long, of one template",
)
def position_mean(reference: Reference) -> Write:
    """What does the component write on average at each position?

    The mean is over the prompts of each length (and template); it is [b p ...], with zeros where
    there is only padding.
    """
    means = {kind: _mean(reference, kind) for kind in dict.fromkeys(reference.source.kinds)}

    def write(into: Into) -> Runs:
        return {site: _aligned(site, means, into) for site in reference.sites}

    return write


def _mean(reference: Reference, kind: Kind) -> dict[str, Tensor]:
    """The mean at each position over the prompts of this kind, [p ...]."""
    total: dict[str, Tensor] = {}
    for site, values, n in reference.of_kind(kind):
        share = values.sum(0) / n
        total[site] = total[site] + share if site in total else share
    return {site: reference.rounded(value) for site, value in total.items()}


def _aligned(site: str, means: dict[Kind, dict[str, Tensor]], into: Into) -> Tensor:
    """Each prompt's mean by position at this site, [b p ...]."""
    n, width = into.mask.shape
    values = None
    for row, kind in enumerate(into.kinds):
        mean, length = means[kind][site], kind[1]
        is_pattern = site.endswith("hook_pattern")
        if values is None:
            shape = (mean.shape[0], width, width) if is_pattern else (width, *mean.shape[1:])
            values = mean.new_zeros(n, *shape)
        place = values[row, :, :length, :length] if is_pattern else values[row, :length]
        place.copy_(mean)
    assert values is not None
    return values
