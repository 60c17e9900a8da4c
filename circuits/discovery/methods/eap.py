"""Edge attribution patching."""

from __future__ import annotations

from circuits.discovery.edge_estimates import Products, Runs
from circuits.discovery.search import Scored, Search, by_gradient, discovery


@discovery(note="by the gradient at the prompts' own run")
def eap(search: Search) -> Scored:
    """By the gradient at the prompts' own run, for all edges at once.

    d . dm/dx, where d is what the sender writes in the reference minus what it writes here, and the
    gradient is at what the receiver reads. Source: Syed, Rager & Conmy 2023 (2310.10348).
    """
    return by_gradient(search, _at_the_run, here=True)


def _at_the_run(runs: Runs, products: Products) -> None:
    products.add(runs.here)
