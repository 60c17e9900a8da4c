"""The values of other prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuits.interventions.base import Write, method

if TYPE_CHECKING:
    from circuits.interventions.reference import Reference


@method(needs="rows", source="{others}", note="of another prompt", copies=True)
def resample(reference: Reference) -> Write:
    """What does the component write in another prompt? Its values [b p ...], row by row."""
    return lambda into: into.other
