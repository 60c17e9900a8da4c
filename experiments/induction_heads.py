"""Which heads do induction, who tells them where to look, and by which way?

On r + r, r random tokens, an induction head looks from a token at what followed its earlier copy,
and copies that. To find the place it needs keys that know the token before them. By the textbook
(Elhage et al. 2021, Olsson et al. 2022) these come straight from a previous-token head: its output
is read by the induction head's keys, K-composition. On `mini` the weights agree, and that edge
still carries nothing: what the previous-token head says is said again by its block's MLP, and that
is what the keys read.

- Ablated are every head, the heads that do induction in every combination, and as many others of
  their layer; also with all attention patterns held, where only what heads move themselves counts.
- Traced are, by path patching, all edges that leave the previous-token head, and the routes from it
  over the MLP into queries, keys and values of the induction heads and of the others.

Against the claim would speak: other heads of these layers that cost as much, induction heads none
of which can be spared, or direct edges that carry what routes over the MLP do not. On the model
`compiled`, whose heads were built by hand after the textbook, it is false.

    circuits run induction_heads
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits import components
from circuits.analyses.ablate import ablate
from circuits.analyses.composition import composition
from circuits.analyses.heads import heads
from circuits.analyses.paths import paths
from circuits.architectures import HookedGPT2
from circuits.cache import Cache
from circuits.cli.experiments import as_command
from circuits.components import Component
from circuits.detectors import DETECTORS, attention_to
from circuits.experiment import Check, Finding, check, interval, table
from circuits.hooks import HookFn, HookPoint, get_act_name
from circuits.metrics import METRICS
from circuits.prompts import Prompts, make
from circuits.result import Result
from circuits.sweep import Source, Sweep, cell, plan
from circuits.sweep import run as swept

CLAIM = (
    "Four heads of layer 1 do induction and stand in for one another; a previous-token head of "
    "layer 0 tells them where to look, through block 0's MLP into their keys, and not directly."
)
MODEL = "mini"
NAME = "induction_heads"
PROMPTS, QUICK_PROMPTS = 30, 6
CHECKED = 8  # pairs of heads that are traced beside their composition score, and as many at random
LISTED = 12  # of the edges that leave the previous-token head
# Of the report card: what ablations cost is a table of its own here.
LEFT_OUT = (
    *("behavior", "metric", "note"),
    *("cost", "cost_stderr", "cost_low", "cost_high", "cost_n", "cost_unit"),
)
LOOKS = 0.5  # of the attention: most of it
MARGIN = 0.25  # by which `heads` calls a head by its kind
MOST, LITTLE = 0.5, 0.1  # of what the first copy is worth


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Find the heads, ablate them, and trace the way between them."""
    n = QUICK_PROMPTS if quick else PROMPTS
    asked = {"task": "repeated", "n": n, "seed": seed}
    card = heads(model, kind=["induction", "previous-token"], n=n, seed=seed)
    cast = chosen(card.frame, model)
    prompts = make("repeated", model, n, seed)
    keys = [f"{head}<k>" for head in (*cast.readers, *cast.others)]
    edges = paths(model, from_=str(cast.sender), **asked)
    tables = {
        "heads": replace(card, frame=card.frame[[c for c in card.frame if c not in LEFT_OUT]]),
        "ablation": ablations(model, cast, asked),
        "redundancy": redundancy(model, cast, prompts),
        "scores": score_table(model, cast, prompts),
        "edges": replace(edges.top(LISTED), axes=("edge",), view="bars"),
        "routes": routes(model, cast, prompts),
        "weights": composition(model, to=keys, check=CHECKED, **asked),
    }
    return Finding(verdict(cast, tables), tables)


class Cast(NamedTuple):
    """Who is who? All names are found by scores.

    Attributes:
        sender: the best previous-token head before `readers`.
        readers: the induction heads of the first layer that has any.
        others: as many other heads of that layer, if there are as many.
        later: all induction heads after them.
    """

    sender: Component
    readers: tuple[Component, ...]
    others: tuple[Component, ...]
    later: tuple[Component, ...]


def chosen(card: pd.DataFrame, model: HookedGPT2) -> Cast:
    """The heads that do it, or else those that come closest."""
    induction = card[(card["kind"] == "induction") & (card["layer"] > 0)]
    clear = induction[induction["clear"]]
    if clear.empty:
        clear = induction.nlargest(1, "value")
    layer = clear["layer"].min()
    before = card[(card["kind"] == "previous-token") & (card["layer"] < layer)]
    readers = tuple(map(components.parse, clear.loc[clear["layer"] == layer, "component"]))
    others = [one for one in components.all_heads(model.cfg) if one.layer == layer]
    return Cast(
        components.parse(before.loc[before["value"].idxmax(), "component"]),
        readers,
        tuple(one for one in others if one not in readers)[: len(readers)],
        tuple(map(components.parse, clear.loc[clear["layer"] > layer, "component"])),
    )


def ablations(model: HookedGPT2, cast: Cast, asked: dict[str, object]) -> Result:
    """What does each head of both layers cost, and these together, patterns free and held?"""
    found = []
    for how in ("patterns", None):
        every = ablate(model, all_heads=True, freeze=how, **asked)
        groups = [
            ablate(model, component=[str(head) for head in group], freeze=how, **asked)
            for group in (cast.readers, cast.others)
            if len(group) > 1
        ]
        frames = [every.frame, *(one.frame for one in groups)]
        found.append(pd.concat(frames).assign(patterns="held" if how else "free"))
    frame = pd.concat(found[::-1], ignore_index=True)
    layers = [cast.sender.layer, cast.readers[0].layer]
    frame = frame[frame["layer"].isin(layers) | frame["layer"].isna()].reset_index(drop=True)
    meanings = {**every.meanings, "patterns": "held as they are without the ablation, or free"}
    title = f"What does each head cost on repeated tokens? (zero, {model.cfg.model_name})"
    axes = ("patterns", "layer", "head")
    return replace(every, frame=frame, axes=axes, meanings=meanings, title=title)


def redundancy(model: HookedGPT2, cast: Cast, prompts: Prompts) -> Result:
    """What do so many of the induction heads cost, over all ways to choose them?"""
    source = Source("zero", prompts.tokens, prompts.mask)
    rows = []
    for name, group in {"induction heads": cast.readers, "other heads": cast.others}.items():
        for k in range(1, len(group) + 1):
            cells = (cell(), *(cell(*some) for some in combinations(group, k)))
            sweep = Sweep(prompts, METRICS["loss"], cells, source)
            values = swept(model, plan(model, sweep)).values
            costs = np.asarray(values[1:] - values[0])
            about = {"ablated": name, "how many": str(k), "ways": len(costs)}
            ends = {"least": costs.mean(1).min(), "most": costs.mean(1).max()}
            rows.append(about | interval(costs.mean(0)) | ends)
    return table(
        model,
        NAME,
        pd.DataFrame(rows),
        "nats per token",
        f"What do so many heads of layer {cast.readers[0].layer} cost together?",
        axes=("ablated", "how many"),
        view="curves",
        meanings={
            "ablated": f"induction: {words(cast.readers)}; other: {words(cast.others)}",
            "ways": "to choose so many; value is the mean over all of them, prompt by prompt",
            "least": "of the ways, mean over prompts",
            "most": "of the ways, mean over prompts",
        },
    )


def score_table(model: HookedGPT2, cast: Cast, prompts: Prompts) -> Result:
    """Where do the induction heads still look when others write nothing?"""
    targets = DETECTORS["induction"](prompts.tokens)
    beside = Component("head", cast.sender.layer, (cast.sender.head + 1) % model.cfg.n_heads)
    ablated = {
        "nothing": (),
        str(cast.sender): (cast.sender,),
        f"{beside} (control)": (beside,),
        words(cast.readers): cast.readers,
        f"{words(cast.others)} (control)": cast.others,
        "later induction heads": cast.later,
    }
    sites = [get_act_name("pattern", layer) for layer in range(model.cfg.n_layers)]
    rows = []
    for name, group in ablated.items():
        with torch.inference_mode(), model.hooks([silent(head) for head in group]):
            _, cache = model.run_with_cache(prompts.tokens, names_filter=sites, return_type=None)
        for head in (*cast.readers, *cast.later):
            score = attention_to(cache["pattern", head.layer][:, head.head], targets)
            rows.append({"without": name, "component": str(head), **interval(score)})
    return table(
        model,
        NAME,
        pd.DataFrame(rows),
        "induction score",
        "Where do induction heads look without others?",
        axes=("without", "component"),
        view="heatmap",
        meanings={"without": "which heads write zero", "component": "whose attention it is"},
    )


def silent(head: Component) -> tuple[str, HookFn]:
    """A hook that lets this head write nothing."""

    def write(z: Tensor, hook: HookPoint) -> Tensor:
        z = z.clone()
        z[:, :, head.head] = 0
        return z

    return get_act_name("z", head.layer), write


def routes(model: HookedGPT2, cast: Cast, prompts: Prompts) -> Result:
    """Which share of what the first copy is worth takes each way from sender to readers?

    The readers' inputs read what the sender would have written in the corrupted twin, or what its
    block's MLP makes of that; whatever else they read stays.
    """
    loss = METRICS["loss"]
    with torch.inference_mode():
        logits, cache = model.run_with_cache(prompts.tokens)
        other_logits, other = model.run_with_cache(prompts.corrupted)
        clean = loss(logits, prompts)
        worth = (loss(other_logits, prompts) - clean).mean()
        said = changed(model, cast.sender, cache, other)
        rows = []
        for way, change in zip(("directly", "through the MLP"), said, strict=True):
            for to, group in {"induction heads": cast.readers, "other heads": cast.others}.items():
                for slot in ("queries", "keys", "values"):
                    hooks = [adds(head, slot, change) for head in group]
                    cost = loss(model.run_with_hooks(prompts.tokens, fwd_hooks=hooks), prompts)
                    about = {"way": way, "to": to, "input": slot}
                    rows.append(about | interval((cost - clean) / worth))
    return table(
        model,
        NAME,
        pd.DataFrame(rows),
        "share",
        f"By which way do they read {cast.sender}? (path patching)",
        axes=("way", "to", "input"),
        view="heatmap",
        meanings={
            "way": f"what reaches the receivers: {cast.sender}'s own output, or what it makes "
            f"m{cast.sender.layer} say",
            "to": f"who reads it: induction: {words(cast.readers)}; other: {words(cast.others)}",
            "value": "cost of the corrupted values on this way, over that of the corrupted prompt",
        },
    )


def changed(
    model: HookedGPT2, sender: Component, cache: Cache, other: Cache
) -> tuple[Tensor, Tensor]:
    """How the sender's output differs in the other run, and what its MLP makes of that: [b p d]"""
    block = model.blocks[sender.layer]
    z = other["z", sender.layer] - cache["z", sender.layer]
    own = z[:, :, sender.head] @ block.attn.W_O[sender.head]
    stream = cache["resid_mid", sender.layer]
    said = [block.mlp.plain(block.ln2.plain(x)) for x in (stream, stream + own)]
    return own, said[1] - said[0]


def adds(head: Component, slot: str, change: Tensor) -> tuple[str, HookFn]:
    """A hook that changes what one input of one head reads."""

    def read(stream: Tensor, hook: HookPoint) -> Tensor:
        stream = stream.clone()
        stream[:, :, head.head] += change
        return stream

    return f"blocks.{head.layer}.hook_{slot[0]}_input", read


def verdict(cast: Cast, tables: dict[str, Result]) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    layer = cast.readers[0].layer
    card = tables["heads"].frame.set_index(["kind", "component"]).loc
    scores = card["induction"].loc[[*map(str, cast.readers)]]
    weakest = scores.loc[scores["value"].idxmin()]
    return (
        Check(f"heads of layer {layer} that do induction", len(cast.readers), above=3, below=5),
        check(f"induction score of the weakest, {weakest.name}", weakest, above=LOOKS),
        check(
            f"previous-token score of {cast.sender}",
            card["previous-token", str(cast.sender)],
            above=MARGIN,
        ),
        Check(
            "their highest induction score where nothing repeats",
            scores["control"].max(),
            below=LITTLE,
            control=True,
        ),
        *needed(cast, tables),
        *reached(cast, tables["routes"].frame),
    )


def needed(cast: Cast, tables: dict[str, Result]) -> Iterator[Check]:
    """Which heads can be spared?"""
    edges, frame = tables["edges"].frame, tables["ablation"].frame.set_index("component")
    worth = float((edges["corrupted"] - edges["clean"]).iloc[0])
    most, little = {"above": MOST * worth}, {"below": LITTLE * worth}
    free, held = (frame[frame["patterns"] == how] for how in ("free", "held"))
    heads = free[free["layer"].notna()]
    sender, readers = str(cast.sender), [*map(str, cast.readers)]
    one = free.loc[readers]
    beside = heads[heads["layer"] == cast.sender.layer].drop(sender)
    yield check(f"cost without {words(cast.readers)}", free.loc["+".join(readers)], "nats", **most)
    yield check(f"cost without one, {one['value'].idxmax()}", costliest(one), "nats", **little)
    yield check(f"cost without {sender}", free.loc[sender], "nats", **most)
    yield check(f"cost without {sender}, patterns held", held.loc[sender], "nats", **little)
    yield check(
        f"cost without another head beside it, {beside['value'].idxmax()}",
        costliest(beside),
        "nats",
        **little,
        control=True,
    )
    yield check(
        f"cost without {words(cast.others)}",
        free.loc["+".join(map(str, cast.others))],
        "nats",
        **little,
        control=True,
    )


def reached(cast: Cast, ways: pd.DataFrame) -> Iterator[Check]:
    """By which way does the sender tell the readers where to look?"""
    is_keys = (ways["to"] == "induction heads") & (ways["input"] == "keys")
    by_way = ways[is_keys].set_index("way").loc
    unit = "of what the first copy is worth"
    yield check(
        f"{cast.sender} through the MLP to their keys", by_way["through the MLP"], unit, above=MOST
    )
    yield check(f"{cast.sender} directly to their keys", by_way["directly"], unit, below=LITTLE)
    most = costliest(ways[~is_keys])
    yield check(
        f"any other way, the most: {most['way']} to {most['input']} of {most['to']}",
        most,
        unit,
        below=LITTLE,
        control=True,
    )


def costliest(rows: pd.DataFrame) -> pd.Series:
    return rows.iloc[int(rows["value"].argmax())]


def words(group: Sequence[Component]) -> str:
    """Heads of one layer, shortly: a1.h0/4/6/7."""
    if len(group) < 2:
        return "".join(map(str, group))
    return f"{group[0]}/" + "/".join(str(head.head) for head in group[1:])


if __name__ == "__main__":
    as_command(__file__)
