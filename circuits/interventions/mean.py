"""The mean over all tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuits.interventions.base import Write, method

if TYPE_CHECKING:
    from circuits.interventions.reference import Reference


@method(
    needs="any", source="the mean over the {n_tokens} tokens of {which}", note="over all tokens"
)
def mean(reference: Reference) -> Write:
    """What does the component write on average? The mean [1 1 ...] over all real tokens."""
    means = {site: reference.rounded(value) for site, value in reference.mean().items()}
    return lambda into: means
