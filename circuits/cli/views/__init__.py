"""How each result looks in a terminal.

The view of an analysis is the function `view` of the file here that has the analysis' name: from a
result and the terminal's width to what is printed. What has no file is shown as a plain table.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from circuits.cli.plans import planned
from circuits.cli.tables import plain
from circuits.registry import beside
from circuits.result import Result


def show(result: Result, console: Console) -> None:
    """Print the result: what was asked of which model, and the answer."""
    about = result.provenance
    console.print(Text(result.title, style="bold"))
    weights = f", weights {about.checksum[:12]}" if about.checksum else ""
    console.print(Text(f"model {about.model}{weights}", style="dim"))
    module = beside(about.analysis, __name__)
    view = planned if about.arguments.get("plan") else module.view if module else plain
    for part in view(result, console.width):
        console.print(part)
    if about.population is not None and "ci_low" in result.frame:
        console.print(Text(f"95 % intervals: {about.population}", style="dim"))
