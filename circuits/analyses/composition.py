"""Which heads read which heads? Composition scores against chance, and against path patching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from circuits import components
from circuits.analyses._composition_check import InWords, patched
from circuits.analyses._effects import Named, parts_of
from circuits.analyses._reading import MEANINGS, SLOTS, Readings, Reads, readings
from circuits.analyses._weights import one_head
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.metrics import Metric
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import MeanOptions, MeasureOptions, Progress, RunOptions, analysis
from circuits.result import Result, provenance


@analysis
def composition(
    model: HookedModel,
    *,
    to: str | Component | Sequence[str | Component] | None = None,
    from_: str | Component | Sequence[str | Component] | None = None,
    slot: Reads | None = None,
    subspaces: int | None = None,
    check: int | None = None,
    top: int = 10,
    task: str | Prompts | None = None,
    metric: str | Metric | None = None,
    n: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    means: MeanOptions,
) -> Result:
    """Which heads read which heads?

    A head writes through W_V W_O; a later one reads through W_Q W_K^T (q), its transpose (k) or
    W_V W_O (v). |W_A W_B| / (|W_A| |W_B|) is how much it sees of what is written (Elhage et al.
    2021). Any two matrices meet somewhat, at about 1 / sqrt(d_model), so each pair is compared with
    itself, what is written turned at random: mean and variance of that are exact. ln1's weight
    belongs to the reader, its centering to what is written; biases and attention play no part.
    Weights say who could read whom, not who does: `check` asks path patching. Does z then order the
    effects? That is compared with random orders within each sender, for its pairs are alike in what
    is sent. Not taken out is what a receiver does with whatever it reads.

    $ circuits composition --to "a1.h0<k>" --figure readers.png
    $ circuits composition --slot k --subspaces 4 --top 5
    $ circuits composition --check 10 --task repeated -n 50

    Args:
        to: Only this reader: a5.h3, or one input of it (a5.h3<k>). Repeat it for several.
        from_: Only this writer. Repeat it for several.
        slot: Only queries, keys or values.
        subspaces: Take apart the pairs that stand out most, by this many of the writer's largest
            singular directions.
        check: Trace so many pairs that stand out most by exact path patching (corrupted values into
            the clean run), and as many drawn at random, of the same senders where they have more:
            does the score tell what is used?
        top: How many pairs to take apart.

    Raises:
        CircuitsError: for heads that are not there, pairs that run backwards, and a task without a
            check to use it.

    >>> from circuits.checkpoints import load
    >>> found = composition(load("compiled"), slot="k")
    >>> found.top(2).frame[["edge", "score"]].round(3).values.tolist()
    [['a0.h1->a1.h1<k>', 0.707], ['a0.h0->a1.h0<k>', 0.136]]
    """
    wanted = _Wanted(parts_of(from_), parts_of(to), slot, subspaces, top)
    prompts = MeasureOptions(task=task, metric=metric, n=n, seed=seed)
    _require_fitting(model, wanted, check, prompts)
    frame = _scores(model, wanted)
    named = {"to": _in_words(to), "from_": _in_words(from_)}
    if check is not None:
        how = RunOptions(progress=progress, draws=means.draws)
        return patched(model, frame, check, prompts, named, how)
    return _table(model, frame, named, taken_apart=subspaces is not None)


@dataclass(frozen=True)
class _Wanted:
    """Which pairs of heads, and in how many directions are which of them taken apart?"""

    senders: Sequence[Component]
    receivers: Sequence[Component]
    slot: Reads | None
    subspaces: int | None
    top: int


def _scores(model: HookedModel, wanted: _Wanted) -> pd.DataFrame:
    """A row for each pair; or, of those that stand out most, for each direction."""
    senders = [one_head(model, part) for part in wanted.senders]
    receivers = [components.check(part, model.cfg) for part in wanted.receivers]
    with torch.inference_mode():
        every = list(readings(model))
        frame = pd.concat(map(_pairs, every), ignore_index=True)
        frame = _kept(frame, senders, receivers, wanted.slot)
        if wanted.subspaces is not None:
            frame = _taken_apart(_standing_out(frame, wanted.top), every, wanted.subspaces)
    return frame


def _table(
    model: HookedModel, frame: pd.DataFrame, named: Mapping[str, InWords], *, taken_apart: bool
) -> Result:
    title = "Which heads read which heads?"
    if taken_apart:
        title = "Which directions of a head are read?"
    return Result(
        frame,
        unit="composition score above chance",
        title=f"{title} ({model.cfg.model_name})",
        provenance=provenance(model, "composition", arguments=named),
        axes=("edge", "direction") if taken_apart else ("slot", "sender", "receiver"),
        view="heatmap",
        meanings=MEANINGS,
    )


def _require_fitting(
    model: HookedModel, wanted: _Wanted, check: int | None, prompts: MeasureOptions
) -> None:
    """What would be ignored without a word is an error."""
    numbers = {
        "subspaces": (wanted.subspaces, model.cfg.d_head),
        "check": (check, None),
        "top": (wanted.top, None),
    }
    for name, (value, most) in numbers.items():
        if value is not None and (value < 1 or (most is not None and value > most)):
            limit = f"a number from 1 to {most}" if most is not None else "1 or more"
            raise CircuitsError(f"{name}={value}: give {limit}")
    if check is not None and wanted.subspaces is not None:
        raise CircuitsError("check traces whole pairs; leave out subspaces")
    of_the_check = {"task": prompts.task, "metric": prompts.metric, "n": prompts.n}
    unused = [name for name, value in of_the_check.items() if value is not None]
    if check is None and unused:
        raise CircuitsError(
            f"scores come from the weights alone; {', '.join(unused)} belongs to path patching: "
            "say with check how many pairs to trace"
        )
    if wanted.slot not in (None, *SLOTS):
        raise CircuitsError(f"there is no slot {wanted.slot!r}; choose {', '.join(SLOTS)}")
    if model.cfg.n_layers == 1:
        raise CircuitsError(f"{model.cfg.model_name} has one layer: no head reads another")
    for part in wanted.receivers:
        if part.kind != "head" or part.position is not None or part.slot not in (None, *SLOTS):
            raise CircuitsError(f"{part} is no head: name a reader, such as a1.h0 or a1.h0<k>")


def _pairs(read: Readings) -> pd.DataFrame:
    """A row for each pair of heads."""
    layers, heads, readers = read.score.shape
    senders = [f"a{layer}.h{head}" for layer in range(layers) for head in range(heads)]
    receivers = [f"a{read.layer}.h{head}" for head in range(readers)]
    names = [(sender, receiver) for sender in senders for receiver in receivers]
    score, baseline, z = (
        column.flatten().cpu().numpy() for column in (read.score, read.baseline, read.z)
    )
    frame: pd.DataFrame = pd.DataFrame(
        {
            "edge": [f"{sender}->{receiver}<{read.slot}>" for sender, receiver in names],
            "slot": read.slot,
            "sender": [sender for sender, _ in names],
            "receiver": [receiver for _, receiver in names],
            "score": score,
            "baseline": baseline,
            "value": score - baseline,
            "z": z,
        }
    )
    return frame


def _kept(
    frame: pd.DataFrame,
    senders: Sequence[Component],
    receivers: Sequence[Component],
    slot: Reads | None,
) -> pd.DataFrame:
    """The pairs that were asked for."""
    if slot is not None:
        frame = frame[frame["slot"] == slot]
    if senders:
        frame = frame[frame["sender"].isin([str(head) for head in senders])]
    if receivers:
        slots = {str(part): [part.slot] if part.slot else SLOTS for part in receivers}
        names = {f"{name.split('<')[0]}<{one}>" for name, each in slots.items() for one in each}
        frame = frame[(frame["receiver"] + "<" + frame["slot"] + ">").isin(names)]
    if frame.empty:
        raise CircuitsError(
            "there is no such pair: a head reads the heads of earlier layers; choose other heads"
        )
    kept: pd.DataFrame = frame.reset_index(drop=True)
    return kept


def _standing_out(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    order = frame.dropna(subset="z").sort_values("z", ascending=False, kind="stable")
    best: pd.DataFrame = order.head(n)
    return best


def _taken_apart(pairs: pd.DataFrame, every: Sequence[Readings], subspaces: int) -> pd.DataFrame:
    """A row for each of these pairs and singular directions of the sender."""
    by_place = {(read.slot, read.layer): read for read in every}

    def rows() -> Iterator[dict[str, Any]]:
        for _, pair in pairs.iterrows():
            sender, receiver = map(components.parse, (pair["sender"], pair["receiver"]))
            read = by_place[pair["slot"], receiver.layer or 0]
            for i in range(subspaces):
                where = (sender.layer, sender.head, i, receiver.head)
                score = read.direction_score[where].item()
                baseline = read.direction_baseline[where].item()
                yield {
                    **pair[["edge", "slot", "sender", "receiver"]],
                    "direction": i + 1,
                    "strength": read.strength[where[:3]].item(),
                    "score": score,
                    "baseline": baseline,
                    "value": score - baseline,
                    "z": read.direction_z[where].item(),
                    "share": read.share[where].item(),
                }

    frame: pd.DataFrame = pd.DataFrame(rows())
    return frame


def _in_words(parts: Named) -> InWords:
    """The same heads as names, for the record."""
    if parts is None or isinstance(parts, str):
        return parts
    return str(parts) if isinstance(parts, Component) else [str(part) for part in parts]
