"""Between the weights of two models: along the straight line, or one part after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.copying import copied
from circuits.components import all_heads, all_mlps
from circuits.errors import CircuitsError
from circuits.metrics import Metric
from circuits.model import HookedModel, Readout
from circuits.padding import all_real
from circuits.progress import Progress
from circuits.prompts import Prompts
from circuits.result import mean_interval
from circuits.sweep.reading import read_logits
from circuits.training.parts import Slice, slices

Values = NDArray[np.float64]
_AT_ONCE = 64  # prompts in a batch


@dataclass(frozen=True, eq=False)
class Ends:
    """Two models of one shape, and what is measured of those between them.

    Where one has a readout that the other lacks, all between them have it: it is how they are
    asked, and not what is changed.
    """

    model: HookedGPT2
    other: HookedGPT2
    prompts: Sequence[Prompts]
    metric: Metric

    @classmethod
    def of(
        cls, model: HookedModel, other: HookedModel, prompts: Sequence[Prompts], metric: Metric
    ) -> Ends:
        """The two with all that either has: neurons that one lacks are zero in it.

        Raises:
            CircuitsError: for models that have no weights in common, or of other shapes.
        """
        return cls(*alike(model, other), prompts, metric)

    def between(self, share: float) -> HookedGPT2:
        """The model at this share of the line, 0 to 1: both ends have just their own weights."""
        middle, theirs = copied(self.model), dict(self.other.named_parameters())
        with torch.no_grad():
            for name, weight in middle.named_parameters():
                end = theirs[name]
                weight.copy_(end if share == 1 else weight.lerp(end, share))
        return middle

    def swapped(self, part: Mapping[str, Slice], *, back: bool = False) -> HookedGPT2:
        """The model with this part of the other's; with `back`, the other with the model's."""
        here, there = (self.other, self.model) if back else (self.model, self.other)
        mixed, theirs = copied(here), dict(there.named_parameters())
        with torch.no_grad():
            for name, piece in part.items():
                weight = mixed.get_parameter(name)
                weight.copy_(piece.into(weight.clone(), piece.of(theirs[name])))
        return mixed

    def values(self, model: HookedGPT2) -> Values:
        """The metric of each prompt [n]."""
        found = [self._values(model, prompts) for prompts in self.prompts]
        return np.concatenate(found)

    @torch.no_grad()
    def _values(self, model: HookedGPT2, prompts: Prompts) -> Values:
        scores = []
        for start in range(0, len(prompts), _AT_ONCE):
            some = prompts.subset(slice(start, start + _AT_ONCE))
            clean = self._read(self.model, some) if self.metric.against_clean else None
            scores.append(self.metric.score(self._read(model, some), some, clean))
        return torch.cat(scores).double().cpu().numpy()

    def _read(self, model: HookedGPT2, prompts: Prompts) -> Tensor:
        """The logits that the metric reads."""
        tokens = prompts.tokens.to(model.W_E.device)
        last: Tensor = model(
            tokens, attention_mask=all_real(tokens), stop_at_layer=model.cfg.n_layers
        )
        at = last[self.metric.positions(prompts).to(last.device)]
        wanted = None if self.metric.tokens is None else self.metric.tokens(prompts).to(at.device)
        return read_logits(model, at, wanted, readout=self.metric.readout)


def along_line(ends: Ends, points: int, progress: Progress | None = None) -> pd.DataFrame:
    """The metric at so many points of the line between both models, ends included.

    Columns: at (0 the model, 1 the other), value with its interval, and `line`, what it would be if
    it changed evenly.

    Raises:
        CircuitsError: for less than 2 points.
    """
    if points < 2:
        raise CircuitsError(f"points={points}: the line has 2 points at least, its ends")
    shares = np.linspace(0, 1, points)
    values = []
    for done, share in enumerate(shares, 1):
        values.append(ends.values(ends.between(float(share))))
        if progress is not None:
            progress(done, points)
    every = np.stack(values)  # [points n]
    frame: pd.DataFrame = pd.DataFrame(
        {"at": shares, **mean_interval(every, scale=ends.metric.scale)}
    )
    first, last = frame["value"].iloc[0], frame["value"].iloc[-1]
    frame["line"] = first + shares * (last - first)
    return frame


def part_by_part(ends: Ends, progress: Progress | None = None) -> pd.DataFrame:
    """What each part does that differs: put into the model, and taken back out of the other.

    Columns: component, layer, part; value, by how much the metric of the model changes with this
    part of the other (with its interval, prompt by prompt), and share, of the whole change; `back`,
    by how much that of the other changes with this part of the model, with its interval.

    Raises:
        CircuitsError: when no part differs.
    """
    parts = {name: part for name, part in _parts(ends.model) if _differs(ends, part)}
    if not parts:
        raise CircuitsError("the weights of the two models are the same: no part carries a change")
    before, after = ends.values(ends.model), ends.values(ends.other)
    rows: list[dict[str, Any]] = []
    change, whole = ends.metric.scale.change, float((after - before).mean())
    for done, (name, part) in enumerate(parts.items(), 1):
        into = mean_interval(ends.values(ends.swapped(part)) - before, scale=change)
        back = mean_interval(ends.values(ends.swapped(part, back=True)) - after, scale=change)
        layer, _, head = name.partition(".")
        in_layer = layer[1:].isdigit()
        rows.append(
            {
                "component": name,
                "layer": layer[1:] if in_layer else "ends",
                "part": head or (name[0] if in_layer else name),
                **{key: each.item() for key, each in into.items()},
                "share": float(into["value"]) / whole if whole else np.nan,
                "back": float(back["value"]),
                "back_low": float(back["ci_low"]),
                "back_high": float(back["ci_high"]),
                "whole": whole,
            }
        )
        if progress is not None:
            progress(done, len(parts))
    frame = pd.DataFrame(rows)
    order = frame["value"].abs().sort_values(ascending=False, kind="stable").index
    ordered: pd.DataFrame = frame.loc[order].reset_index(drop=True).astype({"n": int})
    return ordered


def alike(model: HookedModel, other: HookedModel) -> tuple[HookedGPT2, HookedGPT2]:
    """Both models with the neurons and the readouts that either has.

    Raises:
        CircuitsError: where there is no straight line between their weights.
    """
    if not isinstance(model, HookedGPT2) or not isinstance(other, HookedGPT2):
        raise CircuitsError(
            "the weights between two models can be had of GPT-2s of this package only; compare "
            "what they do, with an analysis"
        )
    most = max(model.cfg.d_mlp, other.cfg.d_mlp)
    both = tuple(copied(each, most - each.cfg.d_mlp) for each in (model, other))
    for mine, theirs in (both, both[::-1]):
        for name, readout in theirs.readouts.items():
            if name not in mine.readouts:
                W, b = readout.W.detach().clone(), readout.b.detach().clone()
                mine.readouts[name] = Readout(W, b, readout.labels).requires_grad_(False)
    shapes = [{n: tuple(p.shape) for n, p in each.named_parameters()} for each in both]
    if shapes[0] != shapes[1]:
        names = [n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n)]
        raise CircuitsError(
            f"there is no line between the weights of the two: {names[0]} has the shapes "
            f"{shapes[0].get(names[0])} and {shapes[1].get(names[0])}; compare what they do, with "
            "an analysis"
        )
    return both[0], both[1]


def _parts(model: HookedGPT2) -> Iterator[tuple[str, dict[str, Slice]]]:
    """Every weight in one part: heads, what is left of attention layers, MLPs, and both ends."""
    yield "embed", {"W_E": Slice("W_E")}
    yield "pos", {"W_pos": Slice("W_pos")}
    for head in all_heads(model.cfg):
        yield str(head), slices(model, str(head))
    for layer in range(model.cfg.n_layers):
        names = [f"blocks.{layer}.{name}" for name in ("ln1.w", "ln1.b", "attn.b_O")]
        yield f"a{layer}", {name: Slice(name) for name in names}
    for mlp in all_mlps(model.cfg):
        yield str(mlp), slices(model, str(mlp))
    ends = [n for n, _ in model.named_parameters() if n.startswith(("ln_final", "unembed"))]
    yield "logits", {name: Slice(name) for name in ends}
    readouts = [n for n, _ in model.named_parameters() if n.startswith("readouts")]
    if readouts:
        yield "readout", {name: Slice(name) for name in readouts}


def _differs(ends: Ends, part: Mapping[str, Slice]) -> bool:
    both = (dict(ends.model.named_parameters()), dict(ends.other.named_parameters()))
    pieces = ((each.of(both[0][n]), each.of(both[1][n])) for n, each in part.items())
    return not all(torch.equal(*pair) for pair in pieces)
