"""Edges and nodes as cells of a sweep: what it takes to leave one out, or everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from circuits.circuit import EMBED, Part
from circuits.components import Component, all_heads, all_mlps
from circuits.sweep.cells import Cell, Sweep, Write, cell

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.discovery.search import Search
    from circuits.interventions import Source
    from circuits.prompts import Prompts


def patched(part: Part, cfg: ModelConfig, source: Source) -> Cell:
    """The cell in which only this edge or node gets the reference's value.

    The embedding sends tokens and positions; those of twins are the same.
    """
    if isinstance(part, Component):
        return cell(part)
    if part.sender == EMBED and _sends_positions(cfg, source):
        return (Write(part.receiver, (EMBED, Component("pos"))),)
    return cell(part)


def sweep_over(search: Search, parts: Sequence[Part]) -> Callable[[Prompts], Sweep]:
    """What is asked of a block: the base run, the reference's, and each part left out alone."""
    cells: list[Cell] = []

    def ask(prompts: Prompts) -> Sweep:
        asked, cfg = search.ask(prompts), search.model.cfg
        if not cells:
            cells.extend([(), everything(cfg, asked.source)])
            cells.extend(patched(part, cfg, asked.source) for part in parts)
        return Sweep(prompts, asked.metric, tuple(cells), asked.source, asked.clean)

    return ask


def everything(cfg: ModelConfig, source: Source) -> Cell:
    """The cell in which everything is as in the reference."""
    if source.rule.copies:
        return cell("resid_pre.0")
    entering = [EMBED, Component("pos")] if _sends_positions(cfg, source) else [EMBED]
    return cell(*entering, *all_heads(cfg), *all_mlps(cfg))


def _sends_positions(cfg: ModelConfig, source: Source) -> bool:
    return cfg.positional_embedding_type == "standard" and not source.rule.copies
