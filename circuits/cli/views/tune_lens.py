"""What training a lens gained, in a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from circuits.cli.bars import WIDE, bar
from circuits.cli.tables import (
    NONE,
    new_table,
    with_interval,
)
from circuits.result import Result


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """The KL of each stage before and after training."""
    frame = result.frame
    table = new_table()
    table.add_column("after", no_wrap=True)
    for name in ("logit lens, 95 %", "tuned lens, 95 %", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=WIDE)
    both = {str(name): rows.set_index("stage") for name, rows in frame.groupby("lens")}
    largest = float(frame["value"].max())
    for stage, row in both["tuned"].iterrows():
        table.add_row(
            str(stage),
            with_interval(both["logit"].loc[str(stage)]),
            with_interval(row),
            f"{row['gain']:.0%}" if row["value"] else NONE,
            bar(row["value"], largest),
        )
    yield table
    first, lens = frame.iloc[0], str(result.provenance.arguments["out"])
    asked = shlex.split(result.provenance.command)
    words = ["circuits", "logit-lens", "PROMPT", "--lens", lens, *asked[asked.index("--model") :]]
    yield Text(
        f"KL(final || stage) in nats on {first['n']} windows that were held out; trained on "
        f"{first['trained']} windows of {first['width']} tokens, {first['text']}. The lens is in "
        f"{lens}: {shlex.join(words)}",
        style="dim",
    )
