"""What fine-tuning reached, in a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import new_table, with_interval
from circuits.result import Result

_SHOWN = 6  # steps, evenly apart


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """The loss and what is right along the steps, and where the model is."""
    frame = result.frame
    table = new_table()
    names = [str(name) for name in dict.fromkeys(frame["which"])]
    for name in ("step", *(f"{each}: loss, 95 %" for each in names), *names):
        table.add_column(name, justify="right", no_wrap=True)
    steps = sorted(set(frame["step"]))
    shown = {*steps[:: max(1, len(steps) // _SHOWN)], *frame.loc[frame["kept"], "step"], steps[-1]}
    for step in sorted(shown):
        rows = frame[frame["step"] == step].set_index("which")
        losses = [with_interval(rows.loc[name]) for name in names]
        right = [f"{rows.loc[name, 'right']:.0%}" for name in names]
        mark = " *" if len(shown) > 1 and bool(rows["kept"].any()) else ""
        table.add_row(f"{step}{mark}", *losses, *right)
    yield table
    about, counts = result.provenance, frame.groupby("which", sort=False)["n"].first()
    n = ", ".join(f"{count} {which}" for which, count in counts.items())
    out = str(about.arguments["out"])
    yield Text(
        f"loss in {result.unit}, then the share that is right; examples measured: {n}. * is what "
        f"was kept, of {int(frame['learned'].iloc[0]):,} numbers learned. The model is in {out}: "
        f"circuits diff {shlex.quote(out)} --model {about.model}",
        style="dim",
    )
