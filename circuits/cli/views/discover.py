"""A circuit in a terminal: what is kept, the largest of it, and how the scores were checked."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.circuit import Circuit
from circuits.cli.bars import bar
from circuits.cli.tables import largest_first, more, new_table, number, over, with_interval
from circuits.result import Result

MOST = 15  # parts that are listed
WORST = 5  # of those that were checked


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """How much is kept, by layer; the first parts with their scores; what a check said."""
    frame, circuit = result.frame, result.circuit
    first = frame.iloc[0]
    yield Text(f"\n{first['task']}: effect on {first['metric']} ({first['unit']})", "bold")
    ends = f"clean {number(first['clean'])}, reference {number(first['corrupted'])}"
    yield Text(ends + over(first["n"]), style="dim")
    kept = frame[frame["kept"]]
    if circuit is not None:
        yield _said(circuit, len(frame))
    table = new_table()
    table.add_column("kept", no_wrap=True)
    table.add_column("score, 95 %", justify="right", no_wrap=True)
    table.add_column("")
    largest = float(kept["value"].abs().max()) if len(kept) else 0.0
    for _, row in kept.head(MOST).iterrows():
        table.add_row(row["part"], with_interval(row, "+"), bar(float(row["value"]), largest))
    yield table
    yield from more(len(kept), MOST)
    if "exact" in frame:
        yield from _checked(frame)
    yield Text(
        "score: the metric without this part minus the metric; a circuit is tested by "
        "circuits evaluate, on other prompts",
        style="dim",
    )


def _said(circuit: Circuit, n: int) -> Text:
    """How many parts are kept, how they were chosen, and which heads and MLPs they are of."""
    share = len(circuit) / n
    pruned = circuit.origin.pruned
    gone = f"; {pruned} more were on no path from embed to logits" if pruned else ""
    text = f"kept: {len(circuit)} of {n:,} {circuit.level} ({share:.1%}){gone}"
    if circuit.level == "edges":
        mlps = len(circuit.nodes) - len(circuit.heads)
        text += f"\nof {len(circuit.heads)} heads and {mlps} MLPs: "
        text += ", ".join(map(str, circuit.nodes))
    if circuit.origin.selection:
        text += f"\nchosen: {circuit.origin.selection}"
    return Text(text)


def _checked(frame: pd.DataFrame) -> Iterator[RenderableType]:
    """How the scores agree with exact effects, and what they miss."""
    known = frame.dropna(subset=["exact"])
    missed = known[known["missed"]]
    shown = missed if len(missed) else known
    table = new_table()
    table.add_column("missed" if len(missed) else "worst scores", no_wrap=True)
    for name in ("score", "really, 95 %", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in largest_first(shown, "error").head(WORST).iterrows():
        really = with_interval(row, "+", ("exact", "exact_low", "exact_high"))
        score, error = number(row["value"], "+"), number(row["error"], "+")
        table.add_row(row["part"], score, really, error)
    yield table
    first = known.iloc[0]
    yield Text(
        f"agreement with exact patching over {len(known)} of {len(frame):,}: Pearson "
        f"{number(first['pearson'])}, Spearman {number(first['spearman'])}, same sign "
        f"{first['same_sign']:.0%}; {len(missed)} missed",
        style="bold",
    )
