"""Every edge or node patched, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuits.discovery.patching import everything, patched
from circuits.discovery.search import Scored, Search, discovery
from circuits.sweep.cells import Cell, Sweep
from circuits.sweep.survey import survey

if TYPE_CHECKING:
    from circuits.prompts import Prompts


@discovery(note="by patching each alone")
def exact(search: Search) -> Scored:
    """By patching each edge (or node) alone: what the metric becomes without it, measured.

    The receiver reads the reference's value of the sender, and from everybody else what it read
    before (path patching). One cell of a sweep for each.
    """
    parts, cfg = search.parts, search.model.cfg

    def ask(prompts: Prompts) -> Sweep:
        asked = search.ask(prompts)
        if not cells:
            cells.extend([(), everything(cfg, asked.source)])
            cells.extend(patched(part, cfg, asked.source) for part in parts)
        return Sweep(prompts, asked.metric, tuple(cells), asked.source, asked.clean)

    cells: list[Cell] = []
    return Scored(survey(search.model, search.blocks, ask, search.how, full=1))
