"""From what shall be written to tensors: where in the pass, which head, which values.

Shapes: b prompts, p positions, d = d_model, e = d_head; a value has 1 in place of b or p where it
is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits.components import Component
from circuits.sweep.cells import Hold, Write
from circuits.sweep.sent import into_mlp, sites_between

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.sweep.cells import Sweep

Named = tuple[str | int, ...]  # positions


class Stage(IntEnum):
    """Where in a layer something is written, in the order of computation."""

    EMBED = 0
    POS = 1
    PRE = 2  # the stream that enters the layer
    QKV = 3
    PATTERN = 4
    Z = 5
    ATTN = 6
    MID = 7
    NEURON = 8
    MLP = 9


Point = tuple[int, Stage]  # layer and stage; layer n_layers has only PRE, the final stream
_STAGES = {
    "embed": Stage.EMBED,
    "pos": Stage.POS,
    "resid_pre": Stage.PRE,
    "resid_post": Stage.PRE,
    "logits": Stage.PRE,
    "head": Stage.Z,
    "attn": Stage.ATTN,
    "resid_mid": Stage.MID,
    "neuron": Stage.NEURON,
    "mlp": Stage.MLP,
}
# The sites that hold what is replaced; but for the pattern's, it only adds to the stream.
CHANGES = {
    Stage.EMBED: "hook_embed",
    Stage.POS: "hook_pos_embed",
    Stage.PATTERN: "blocks.{layer}.attn.hook_pattern",
    Stage.Z: "blocks.{layer}.attn.hook_z",
    Stage.ATTN: "blocks.{layer}.hook_attn_out",
    Stage.NEURON: "blocks.{layer}.mlp.hook_post",
    Stage.MLP: "blocks.{layer}.hook_mlp_out",
}
SLOTS = {"q": 0, "k": 1, "v": 2}


def point(write: Write, n_layers: int) -> Point:
    """The point of the pass at which this acts.

    >>> point(Write(Component("resid_post", 3)), n_layers=12)
    (4, <Stage.PRE: 2>)
    """
    target = write.target
    if target.kind == "logits":
        return n_layers, Stage.PRE
    layer = (target.layer or 0) + (target.kind == "resid_post")
    if target.slot:
        return layer, Stage.PATTERN if target.slot == "pattern" else Stage.QKV
    return layer, _STAGES[target.kind]


def stream_site(layer: int, n_layers: int) -> str:
    """The site of the stream that enters this layer, the final one for `n_layers`."""
    return f"blocks.{layer}.hook_resid_pre" if layer < n_layers else _final_site(n_layers)


def _final_site(n_layers: int) -> str:
    return f"blocks.{n_layers - 1}.hook_resid_post"


@dataclass(frozen=True, eq=False)
class Edit:
    """One write, ready: `value` replaces what is at `point`.

    It is [b p d], for a head [b p e], for a neuron [b p 1], for a pattern [b q k]. `unit` (which
    head or neuron) and `slot` (0 query, 1 key, 2 value) say which part of it. `where` [b] is the
    only position to write at; None means all. With `adds` the value is added to what is there.
    """

    point: Point
    value: Tensor
    unit: int | None = None
    slot: int | None = None
    where: Tensor | None = None
    adds: bool = False

    def at(self, prompts: Tensor, columns: Tensor) -> Tensor:
        """The value for these prompts [n] at these positions [w]: broadcasts to [n w ...]."""
        value = self.value[prompts] if self.value.shape[0] > 1 else self.value
        return value[:, columns] if value.shape[1] > 1 else value


def enters_behind(stage: Stage, cfg: ModelConfig) -> bool:
    """Whether what is written at this stage first shows in the stream behind the layer.

    Before that, what attention changes shows in the stream that the MLP reads, if it reads one.
    """
    return stage >= Stage.NEURON or (not cfg.has_middle and stage > Stage.PRE)


def first_changes(sweep: Sweep, writes: Iterable[Write]) -> dict[Write, Tensor]:
    """From which position on each write can change anything in each prompt: [b].

    Nothing changes before the position that is written, nor before the first token in which the
    source differs from the base; the number of positions stands for never.
    """
    prompts, never = sweep.prompts, sweep.prompts.tokens.shape[1]
    differs = torch.zeros(len(prompts), dtype=torch.long, device=prompts.tokens.device)
    if sweep.source.rule.copies:
        other = prompts.tokens != sweep.source.tokens
        differs = torch.where(other.any(1), other.long().argmax(1), never)

    # Thousands of writes begin alike: these are all the same tensor.
    @cache
    def first(moves: bool, named: Named) -> Tensor:
        """From where on what is written, or sent and read, differs: [b]."""
        if not moves:
            return torch.full_like(differs, never)
        start, places = differs, [prompts.index(position) for position in named]
        for at in places:  # where two are named, nothing is sent unless they are one
            start = torch.where((at >= differs) & (at == places[0]), at, never)
        return start

    @cache
    def earliest(some: frozenset[tuple[bool, Named]]) -> Tensor:
        return torch.stack([first(moves, named) for moves, named in some]).amin(0)

    def told(*parts: Component) -> tuple[bool, Named]:
        """Whether the source has anything new for these parts, and the positions they name."""
        still = sweep.source.rule.copies and parts[0].kind == "pos"  # the positions are the same
        return not still, tuple(p.position for p in parts if p.position is not None)

    return {
        write: earliest(
            frozenset(told(sender, write.target) for sender in write.senders)
            or frozenset([told(write.target)])
        )
        for write in writes
    }


def needed_sites(
    writes: Iterable[Write], cfg: ModelConfig, hold: Hold = "all"
) -> tuple[set[str], set[str]]:
    """The sites of the base run and of the source's run that these writes need."""
    n_layers = cfg.n_layers
    base, source = {_final_site(n_layers)}, set()
    for write in writes:
        layer, stage = point(write, n_layers)
        block = f"blocks.{layer}."
        into_stream = stage in (Stage.EMBED, Stage.POS, Stage.PRE)
        late = enters_behind(stage, cfg)
        if into_stream or (write.senders and stage is not Stage.MLP):
            base |= {stream_site(layer, n_layers)}
        if stage is Stage.MLP or not (into_stream or late):
            base |= {into_mlp(layer, cfg)}
        if stage in CHANGES:
            base |= {CHANGES[stage].format(layer=layer)}
        if late:
            base |= {stream_site(layer + 1, n_layers)}
        if stage is Stage.PATTERN:
            base |= {block + "attn.hook_v", block + "attn.hook_z"}
        if stage is Stage.QKV:
            base |= {block + f"attn.hook_{part}" for part in "qkvz"}
        base |= {sender.site for sender in write.senders}
        if hold == "heads":
            base |= sites_between(write.senders, layer, cfg)
        source |= {value_site(part) for part in write.senders or (write.target,)}
    return base, source


def value_site(part: Component) -> str:
    """The site whose value the source gives; a head's inputs are all the same stream."""
    return f"blocks.{part.layer}.hook_resid_pre" if part.slot in SLOTS else part.site


def frozen_sites(layers: Iterable[int]) -> set[str]:
    """The sites of the base run that are needed where these layers' patterns are held."""
    return {f"blocks.{i}.attn.hook_{what}" for i in layers for what in ("pattern", "v", "z")}
