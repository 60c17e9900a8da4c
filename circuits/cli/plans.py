"""What a sweep would cost, before it runs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import amount, duration, new_table, percent
from circuits.result import Result


def planned(result: Result, width: int) -> Iterator[RenderableType]:
    """Work, time and memory of each task."""
    table = new_table()
    table.add_column("task", overflow="fold")
    for name in ("cells", "prompts", "forwards", "needed", "saved", "time", "memory", "weights"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in result.frame.iterrows():
        counts = [f"{round(row[name]):,}" for name in ("cells", "prompts", "forwards", "work")]
        costs = [percent(row["saved"]), duration(row["value"])]
        costs += [amount(row["bytes"]), amount(row["weights"])]
        table.add_row(Text(row["task"]), *counts, *costs)
    yield table
    yield Text(
        "forwards: passes through the whole model that one run for each cell and prompt would "
        "take; needed: what is left after all savings; time, and memory besides the weights, are "
        "estimates from a short measurement. Nothing was run.",
        style="dim",
    )
