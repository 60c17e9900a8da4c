"""Nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from circuits.interventions.base import Write, method

if TYPE_CHECKING:
    from circuits.interventions.reference import Reference


@method(needs="nothing", source="zeros")
def zero(reference: Reference) -> Write:
    """What is left when the component writes nothing? Zeros [1 1 ...].

    For a head this leaves the layer's output bias in place, for an MLP it removes the bias too.
    """
    zeros = {site: torch.zeros_like(values) for site, values in reference.token().items()}
    return lambda into: zeros
