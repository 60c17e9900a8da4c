"""How the outcome of an experiment looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from circuits.cli.tables import NONE, duration, new_table, number
from circuits.experiment import Bundle, Check

STYLES = {"holds": "green", "fails": "bold red", "not here": "dim"}


def claims(of: Mapping[str, str]) -> Table:
    """The experiments that there are."""
    table = new_table()
    table.add_column("experiment", no_wrap=True)
    table.add_column("claim")
    for experiment, claim in of.items():
        table.add_row(Text(experiment), Text(claim))
    return table


def verdict(bundle: Bundle) -> Iterator[RenderableType]:
    """The claim, what it stands or falls with, and whether it stands."""
    yield Text(bundle.claim, style="bold")
    about = f"{bundle.experiment} on {bundle.model}, weights {bundle.checksum[:12]}"
    about += f", seed {bundle.seed}{', quick' if bundle.quick else ''}"
    yield Text(f"{about}; took {duration(bundle.seconds)}", style="dim")
    for title, control in (("evidence", False), ("control", True)):
        table = new_table()
        table.add_column(title, ratio=1)
        for name in ("value", "95 %", "n", "wanted"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for check in bundle.finding.checks:
            if check.control == control:
                table.add_row(
                    Text(check.says), *_cells(check), Text(check.outcome, STYLES[check.outcome])
                )
        yield table
    holds = bundle.finding.holds
    yield Text(f"The claim {'holds' if holds else 'does not hold'}.", style="bold")


def _cells(check: Check) -> list[Text]:
    value = check.missing or f"{number(check.value)} {check.unit}".strip()
    return [Text(text) for text in (value, check.interval, str(check.n or NONE), check.wanted)]
