"""Every edge or node patched, one at a time."""

from __future__ import annotations

from circuits.discovery.patching import sweep_over
from circuits.discovery.search import Scored, Search, discovery
from circuits.sweep.survey import survey


@discovery(note="by patching each alone")
def exact(search: Search) -> Scored:
    """By patching each edge (or node) alone: what the metric becomes without it, measured.

    The receiver reads the reference's value of the sender, and from everybody else what it read
    before (path patching). One cell of a sweep for each.
    """
    ask = sweep_over(search, search.parts)
    return Scored(survey(search.model, search.blocks, ask, search.how, full=1))
