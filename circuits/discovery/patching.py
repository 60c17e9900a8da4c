"""Edges and nodes as cells of a sweep: what it takes to leave one out, or everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuits.circuit import EMBED, Part
from circuits.components import Component, all_heads, all_mlps
from circuits.sweep.cells import Cell, Write, cell

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.interventions import Source


def patched(part: Part, cfg: ModelConfig, source: Source) -> Cell:
    """The cell in which only this edge or node gets the reference's value.

    The embedding sends tokens and positions; those of twins are the same.
    """
    if isinstance(part, Component):
        return cell(part)
    if part.sender == EMBED and _sends_positions(cfg, source):
        return (Write(part.receiver, (EMBED, Component("pos"))),)
    return cell(part)


def everything(cfg: ModelConfig, source: Source) -> Cell:
    """The cell in which everything is as in the reference."""
    if source.rule.copies:
        return cell("resid_pre.0")
    entering = [EMBED, Component("pos")] if _sends_positions(cfg, source) else [EMBED]
    return cell(*entering, *all_heads(cfg), *all_mlps(cfg))


def _sends_positions(cfg: ModelConfig, source: Source) -> bool:
    return cfg.positional_embedding_type == "standard" and not source.rule.copies
