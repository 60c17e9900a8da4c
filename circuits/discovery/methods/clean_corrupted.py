"""The mean of the gradients at the two ends of the path."""

from __future__ import annotations

from functools import partial

from circuits.discovery.methods.eap_ig import along_inputs
from circuits.discovery.search import Scored, Search, by_gradient, discovery


@discovery(note="at both ends of the path of inputs")
def clean_corrupted(search: Search) -> Scored:
    """By the mean of the gradients at the prompts' own input and at the reference's.

    Two points of the path of ``eap-ig``: the trapezoid with a single step.
    """
    return by_gradient(search, partial(along_inputs, [0.0, 1.0]))
