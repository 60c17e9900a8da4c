"""Where does it sit, by one gradient instead of many runs? Attribution patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from circuits.analyses._effects import (
    BASE,
    HOW,
    MEANINGS,
    WHOLE,
    Direction,
    MakeSweep,
    effect,
    measured,
    pair,
    pair_table,
    part_of,
    require_change,
    source_of,
    unit_of,
)
from circuits.analyses._grid import WORDS, Positions, axes, grid, labels, what_of
from circuits.analyses._prompts import Batch, chosen
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.prompts import Prompts
from circuits.registry import Progress, analysis
from circuits.result import Result
from circuits.sweep import Cell
from circuits.sweep.gradient import estimates

OWN = {
    "value": "estimated effect: (other run's value - own value) . gradient, mean over n",
    "patched": "the run that is patched, plus the estimated effect",
    "exact": "the effect of really patching it (only where it was checked)",
    "exact_low": "lower end of its 95 % interval",
    "exact_high": "upper end of its 95 % interval",
}


@analysis
def attribution(
    model: HookedGPT2,
    *,
    what: Literal["resid_pre", "resid_mid", "attn", "mlp", "head"] | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    positions: Positions | None = None,
    direction: Direction = "denoise",
    check: int = 0,
    task: str | Prompts | None = None,
    prompt: str | Sequence[str] | None = None,
    corrupted: str | Sequence[str] | None = None,
    file: str | Path | None = None,
    answer: str | None = None,
    distractor: str | None = None,
    metric: str | None = None,
    n: int | None = None,
    seed: int = 0,
    memory: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Where does the information sit, by one gradient instead of many runs?

    Attribution patching estimates what `patch` measures: (other run's value - own value) times the
    gradient of the metric, for all parts from two runs and one backward pass. It is exact where
    the metric is linear in the part; saturated attention and LayerNorm make it wrong, so have the
    largest estimates checked.

    $ circuits attribution --task ioi
    $ circuits attribution --what head --task ioi --check 10
    $ circuits attribution --what mlp --positions roles --task ioi --figure mlps.png

    Args:
        what: Which parts: the residual stream (resid_pre, resid_mid), attention or MLP outputs by
            layer, or head outputs. Without it, resid_pre.
        component: Estimate this instead: a5.h3, a5, m7, resid_pre.6; a5.h3@END at one position.
            Repeat it for several together.
        positions: One position at a time, by roles or by indices, or all at once. Without it, all
            at once for heads, otherwise indices, or roles where prompts differ in length.
        direction: Clean values into the corrupted run (denoise), or corrupted into clean (noise).
        check: Really patch this many of the largest estimates, and say what comes of it.

    Raises:
        CircuitsError: as for `patch`; for a metric without a gradient; and where all gradients are
            zero.

    >>> from circuits.checkpoints import load
    >>> pair = {"prompt": "aAbBcdeBfg.", "corrupted": "aAbBcdeCfg.", "answer": "A"}
    >>> found = attribution(load("compiled"), what="head", check=2, **pair, distractor="B")
    >>> found.top(2).frame[["component", "value", "exact"]].round(2).values.tolist()
    [['a1.h1', 200.0, 5.0], ['a2.h0', 10.0, 10.0]]
    """
    return _attribution(model, dict(locals()))


def _attribution(model: HookedGPT2, given: Mapping[str, Any]) -> Result:
    what = what_of(given)
    if given["check"] < 0:
        raise CircuitsError(f"check={given['check']}: check 0 or more of the estimates")
    batches, frames, counts = chosen(model, given), [], []
    sizes = [len(batch.first) / batch.share for batch in batches]
    for i, batch in enumerate(batches):
        cells = grid(model.cfg, batch.first, given)
        ask = partial(pair, given=given, cells=cells)
        step = part_of(given["progress"], sum(sizes[:i]), sizes[i], sum(sizes))
        found = estimates(model, batch.blocks, ask, memory=given["memory"], progress=step)
        hint = "choose another part, position or task"
        require_change(found, range(2, len(cells) + 2), f"patching {batch.first.task!r}", hint)
        table = pair_table(batch.first, found, given, list(map(labels, cells)))
        frames.append(_checked(model, batch, cells, table, given))
        counts.append(found.n)
    frame = pd.concat(frames)
    source = source_of(model, "attribution", batches, given, counts)
    parts = WORDS[what] if given["component"] is None else frame["component"].iloc[0]
    columns = axes(frame, given)
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"Estimated by gradient: patching {parts} ({given['direction']}, {source.model})",
        provenance=source,
        axes=columns,
        view="bars" if len(columns) == 1 else "heatmap",
        meanings=MEANINGS | OWN,
    )


def _checked(
    model: HookedGPT2,
    batch: Batch,
    cells: Sequence[Cell],
    table: pd.DataFrame,
    given: Mapping[str, Any],
) -> pd.DataFrame:
    """The table, with what patching really does for the largest estimates."""
    if not given["check"]:
        return table
    order = table["value"].abs().sort_values(ascending=False, kind="stable").index
    some = order[: given["check"]].tolist()
    wanted = (BASE, WHOLE, *(cells[i] for i in some))

    def ask(batch: Batch) -> MakeSweep:
        return partial(pair, given=given, cells=wanted)

    how = {**given, **HOW, "memory": given["memory"], "progress": None}
    ((_, found),) = measured(model, "attribution", [batch], ask, how, full=1)
    exact = {i: effect(found, index) for index, i in enumerate(some, start=2)}
    columns = {"exact": "value", "exact_low": "ci_low", "exact_high": "ci_high"}
    more = {
        name: [exact[i][column] if i in exact else float("nan") for i in table.index]
        for name, column in columns.items()
    }
    checked: pd.DataFrame = table.assign(**more)
    return checked
