"""Along which edges does it travel? Path patching."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from circuits import components
from circuits.analyses._effects import (
    BASE,
    MEANINGS,
    WHOLE,
    Direction,
    MakeSweep,
    measured,
    pair,
    pair_table,
    parts_of,
    planned,
    require_change,
    source_of,
    unit_of,
)
from circuits.analyses._prompts import Batch, chosen
from circuits.analyses._templates import MEANINGS as TEMPLATES
from circuits.analyses._templates import By, by_template, panels
from circuits.components import Component, Edge, Slot
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.prompts import Prompts
from circuits.registry import Progress, analysis
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
    model: HookedGPT2,
    *,
    to: str | Component | Sequence[str | Component] | None = None,
    from_: str | Component | Sequence[str | Component] | None = None,
    direction: Direction = "noise",
    hold: Literal["all", "heads"] = "all",
    task: str | Prompts | None = None,
    prompt: str | Sequence[str] | None = None,
    corrupted: str | Sequence[str] | None = None,
    file: str | Path | None = None,
    answer: str | None = None,
    distractor: str | None = None,
    metric: str | None = None,
    n: int | None = None,
    seed: int = 0,
    by: By | None = None,
    cluster: By | None = None,
    memory: str | None = None,
    plan: bool = False,
    engine: str = "local",
    parts: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
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
    return _paths(model, dict(locals()))


def _paths(model: HookedGPT2, given: Mapping[str, Any]) -> Result:
    edges = list(_edges(model.cfg, given))
    cells = (BASE, WHOLE, *(found for found, _ in edges))
    batches = chosen(model, given)

    def ask(batch: Batch) -> MakeSweep:
        return partial(pair, given=given, cells=cells)

    if given["plan"]:
        return planned(model, "paths", batches, ask, given)
    frames, counts = [], []
    for batch, found in measured(model, "paths", batches, ask, given, full=1):
        hint = "choose other ends, or another task"
        what = name(cells[2]) if len(edges) == 1 else "each of these edges"
        require_change(found, range(2, len(cells)), f"patching {what}", hint)
        labels = [label for _, label in edges]
        table = partial(pair_table, batch.first, given=given, labels=labels, of_whole=True)
        frames.append(by_template(found, given, table))
        counts.append(found.n)
    frame = pd.concat(frames)
    source = source_of(model, "paths", batches, given, counts)
    ends = {"from": parts_of(given["from_"]), "to": parts_of(given["to"])}
    ways = " ".join(f"{way} {_listed(named)}" for way, named in ends.items() if named)
    tasks = ("task",) if len(batches) > 1 else ()
    both = all(ends.values())
    how = given["direction"] + (", also by way of MLPs" if given["hold"] == "heads" else "")
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"Along which edges does it travel {ways}? ({how}, {source.model})",
        provenance=source,
        axes=panels((*tasks, "edge") if both else (*tasks, "stage", "part"), given),
        view="bars" if both else "heatmap",
        meanings=MEANINGS | OWN | TEMPLATES,
    )


def _edges(cfg: ModelConfig, given: Mapping[str, Any]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each row's cell, and what the table says of it.

    Raises:
        CircuitsError: for ends that do not exist, edges that run backwards, and no ends at all.
    """
    to, senders = parts_of(given["to"]), parts_of(given["from_"])
    if not to and not senders:
        raise CircuitsError(
            "nothing to trace: say where to (to='logits', to='a5.h3<q>'), where from "
            "(from_='a0.h3'), or both"
        )
    for part in (*to, *senders):
        components.check(part, cfg)
    if to and senders:
        rows = [(cell(*(Edge(one, part) for part in to)), one) for one in senders]
    elif to:
        rows = [(_joined([one], to), one) for one in _all_senders(cfg)]
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
    found = []
    for sender in senders:
        for receiver in receivers:
            with suppress(CircuitsError):  # the receiver comes first
                found.append(Edge(sender, receiver))
    return cell(*found)


def _all_senders(cfg: ModelConfig) -> list[Component]:
    parts = [*components.all_heads(cfg), *components.all_mlps(cfg)]
    return [Component("embed"), *sorted(parts, key=_layer)]


def _all_receivers(cfg: ModelConfig) -> list[Component]:
    inputs = [replace(head, slot=slot) for head in components.all_heads(cfg) for slot in _SLOTS]
    return [*sorted([*inputs, *components.all_mlps(cfg)], key=_layer), Component("logits")]


def _layer(part: Component) -> int:
    return part.layer or 0


def _label(edges: Cell, varying: Component) -> dict[str, Any]:
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
