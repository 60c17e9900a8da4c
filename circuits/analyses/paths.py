"""Along which edges does it travel? Path patching."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import pandas as pd

from circuits import components
from circuits.components import Component, Edge, Slot
from circuits.config import ModelConfig
from circuits.effects import (
    BASE,
    EFFECT_MEANINGS,
    WHOLE,
    Direction,
    Label,
    Patching,
    by_template,
    components_of,
    every_pair,
    group_meanings,
    measured,
    pair_table,
    panels,
    planned,
    require_change,
    source_of,
    unit_of,
)
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.registry import PairOptions, RunOptions, TemplateOptions, analysis
from circuits.registry.asked_prompts import Batch, asked_prompts
from circuits.result import Result
from circuits.sweep import Cell, cell, check_cell, name

_SLOTS: tuple[Slot, ...] = ("q", "k", "v")
OWN = {
    "edge": "what was patched: what the sender gives to the receiver, and nothing else "
    "(with heads held: also what MLPs between make of it)",
    "sender": "whose output the receiver gets from the other run",
    "receiver": "who gets it; plus signs join those that get it together",
    "stage": "layer of the end that varies; input for the embedding, output for the logits",
    "part": "the end that varies, within its layer",
    "layer": "of the end that varies",
    "head": "of the end that varies, where it is one",
    "share": "of the total effect, which patching everything has (of the means)",
}


@analysis
def paths(
    model: HookedModel,
    *,
    to: str | Component | Sequence[str | Component] | None = None,
    from_: str | Component | Sequence[str | Component] | None = None,
    direction: Direction = "noise",
    hold: Literal["all", "heads"] = "all",
    prompts: PairOptions,
    templates: TemplateOptions,
    how: RunOptions,
) -> Result:
    """Along which edges does it travel?

    Path patching: the receiver reads what the sender would have written in the other run, and
    from everybody else what it read before; what it then writes goes on as usual. Exact, with no
    LayerNorm held. The share is of the effect that patching everything has. This is the direct
    edge; Wang et al. 2022 (2211.00593) hold heads only, and what MLPs between the two make of the
    sender arrives, too. A receiver whom nobody reads before what is measured has the effect 0.

    $ circuits paths --to logits --task ioi
    $ circuits paths --to logits --task ioi --hold heads
    $ circuits paths --to "a6.h3<q>" --task ioi --figure edges.png
    $ circuits paths --from a0.h6 --to "a1.h4<k>" --task repeated
    $ circuits paths --from a0.h6 --task repeated --json

    Args:
        to: Who receives: a5.h3, one input of it (a5.h3<q>), a5, m5 or logits; with @END at one
            position. Repeat it for several at once. Without it, each later part in turn.
        from_: Who sends: a5.h3, m5.n7, a5, m5, embed; with @S2 from one position. Repeat it for
            several: each in turn to the receivers that are named, otherwise all at once. Without
            it, each earlier head and MLP, and the embedding, in turn.
        direction: Corrupted values into the clean run (noise), or clean into corrupted (denoise).
        hold: What writes what it did between sender and receiver: all, which leaves the direct
            edge, or heads, so that what goes by way of MLPs arrives, too.

    Raises:
        CircuitsError: for prompts without twins, edges that do not exist or run backwards, and
            when no edge carries any difference.

    >>> from circuits.checkpoints import load
    >>> pair = {"prompt": "aAbBcdeBfg.", "corrupted": "aAbBcdeCfg.", "answer": "A"}
    >>> found = paths(load("compiled"), to="a2.h0<q>", **pair, distractor="B")
    >>> found.top(1).frame[["edge", "clean", "patched"]].round(2).values.tolist()
    [['a1.h1->a2.h0<q>', 10.0, -3.33]]
    """
    receivers, senders = components_of(to), components_of(from_)
    edges = _Edges(senders, receivers, list(_rows(model.cfg, receivers, senders)))
    patching = Patching(direction, prompts.metric, hold)
    batches = asked_prompts(model, prompts)
    if how.plan:
        return planned(model, "paths", batches, every_pair(edges.cells, patching), how, templates)
    return _traced(model, edges, patching, batches, how, templates)


@dataclass(frozen=True)
class _Edges:
    """The edges that are patched one after the other, or all from or to several ends at once.

    Attributes:
        senders: the ends that were named, none for each in turn; so are the `receivers`.
        rows: each row's edges, and what the table says of them.
    """

    senders: Sequence[Component]
    receivers: Sequence[Component]
    rows: Sequence[tuple[Cell, Label]]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that is swept."""
        return (BASE, WHOLE, *(cells for cells, _ in self.rows))

    @property
    def ways(self) -> str:
        """The ends that were named, in words."""
        named = {"from": self.senders, "to": self.receivers}
        return " ".join(f"{way} {_listed(parts)}" for way, parts in named.items() if parts)


def _traced(
    model: HookedModel,
    edges: _Edges,
    patching: Patching,
    batches: Sequence[Batch],
    how: RunOptions,
    templates: TemplateOptions,
) -> Result:
    """What came of these edges, on all batches of prompts."""
    frames, counts = [], []
    cells, labels = edges.cells, [label for _, label in edges.rows]
    what = name(cells[2]) if len(labels) == 1 else "each of these edges"
    ask = every_pair(cells, patching)
    for batch, moments in measured(model, batches, ask, how, templates, full=1):
        hint = "choose other ends, or another task"
        require_change(moments, range(2, len(cells)), f"patching {what}", hint)
        table = partial(pair_table, batch.first, labels=labels, patching=patching, of_whole=True)
        frames.append(by_template(moments, templates, table))
        counts.append(moments.n)
    frame = pd.concat(frames)
    source = source_of(model, "paths", batches, counts, templates)
    tasks = ("task",) if len(batches) > 1 else ()
    both = bool(edges.senders and edges.receivers)
    manner = patching.direction + (", also by way of MLPs" if patching.hold == "heads" else "")
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"Along which edges does it travel {edges.ways}? ({manner}, {source.model})",
        provenance=source,
        axes=panels((*tasks, "edge") if both else (*tasks, "stage", "part"), templates, frame),
        view="bars" if both else "heatmap",
        meanings=EFFECT_MEANINGS | OWN | group_meanings(templates, frame),
    )


def _rows(
    cfg: ModelConfig, to: Sequence[Component], senders: Sequence[Component]
) -> Iterator[tuple[Cell, Label]]:
    """Each row's cell, and what the table says of it.

    Raises:
        CircuitsError: for ends that do not exist, edges that run backwards, and no ends at all.
    """
    if not to and not senders:
        raise CircuitsError(
            "nothing to trace: say where to (to='logits', to='a5.h3<q>'), where from "
            "(from_='a0.h3'), or both"
        )
    for part in (*to, *senders):
        components.check(part, cfg)
    if to and senders:
        rows = [(cell(*(Edge(sender, part) for part in to)), sender) for sender in senders]
    elif to:
        rows = [(_joined([sender], to), sender) for sender in _all_senders(cfg)]
    else:
        rows = [(_joined(senders, [part]), part) for part in _all_receivers(cfg)]
    for edges, varying in rows:
        if edges:
            check_cell(edges, cfg)
            yield edges, _label(edges, varying)
    if not any(edges for edges, _ in rows):
        ends = f"comes before {_listed(to)}" if to else f"comes after {_listed(senders)}"
        raise CircuitsError(f"there is no edge to trace, for nothing {ends}; choose other ends")


def _joined(senders: Iterable[Component], receivers: Iterable[Component]) -> Cell:
    """All edges that there are from these to those; () if there are none."""
    edges = []
    for sender in senders:
        for receiver in receivers:
            with suppress(CircuitsError):  # the receiver comes first
                edges.append(Edge(sender, receiver))
    return cell(*edges)


def _all_senders(cfg: ModelConfig) -> list[Component]:
    parts = [*components.all_heads(cfg), *components.all_mlps(cfg)]
    return [Component("embed"), *sorted(parts, key=_layer)]


def _all_receivers(cfg: ModelConfig) -> list[Component]:
    inputs = [replace(head, slot=slot) for head in components.all_heads(cfg) for slot in _SLOTS]
    return [*sorted([*inputs, *components.all_mlps(cfg)], key=_layer), Component("logits")]


def _layer(part: Component) -> int:
    return part.layer or 0


def _label(edges: Cell, varying: Component) -> Label:
    senders = dict.fromkeys(sender for write in edges for sender in write.senders)
    stages = {"embed": "input", "logits": "output"}
    return {
        "edge": name(edges),
        "sender": _listed(senders),
        "receiver": _listed(write.target for write in edges),
        "stage": stages.get(varying.kind, str(varying.layer)),
        "part": "mlp" if varying.kind == "mlp" else str(varying).removeprefix(f"a{varying.layer}."),
        "layer": varying.layer,
        "head": varying.head,
    }


def _listed(parts: Iterable[Component]) -> str:
    return "+".join(map(str, parts))
