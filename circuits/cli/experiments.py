"""The command that runs experiments: circuits run."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import NONE, duration, new_table, number
from circuits.cli.terminal import out as standard_output
from circuits.cli.terminal import remark, require_text
from circuits.errors import CircuitsError

if TYPE_CHECKING:
    from circuits.experiment import Bundle, Check

Name = Annotated[
    str | None, typer.Argument(help="Which one; --list shows them.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option(help="As elsewhere; without it, the model that the claim is about."),
]
Seed = Annotated[int, typer.Option(help="The same seed finds the same.")]
Quick = Annotated[bool, typer.Option("--quick", help="Ask less, for a first look.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the folder NAME is written.")]
Listed = Annotated[bool, typer.Option("--list", help="List the experiments and their claims.")]
Json = Annotated[bool, typer.Option("--json", help="Print the verdict as JSON, nothing else.")]


def run(
    name: Name = None,
    model: Model = None,
    seed: Seed = 0,
    quick: Quick = False,
    out: Out = Path("results"),
    list_: Listed = False,
    json: Json = False,
) -> None:
    """Does the claim of an experiment hold?

    Runs a script of experiments/, prints its claim, the evidence and the control, and keeps tables
    and figures in the folder results/NAME.
    """
    from circuits.experiment import MANIFEST, conduct, experiments

    if list_:
        table = new_table()
        table.add_column("experiment", no_wrap=True)
        table.add_column("claim")
        for experiment, claim in experiments().items():
            table.add_row(Text(experiment), Text(claim))
        standard_output().print(table)
        return
    if name is None:
        raise CircuitsError("no experiment was named; --list shows which there are")
    require_text([name, model, str(out)])
    bundle = conduct(name, model=model, seed=seed, quick=quick, out=out)
    if json:
        content = json_.loads((out / name / MANIFEST).read_text(encoding="utf-8"))
        sys.stdout.write(json_.dumps(content, ensure_ascii=False, indent=1) + "\n")
        return
    for part in verdict(bundle):
        standard_output().print(part)
    remark(f"wrote {out / name}")


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
        for one in bundle.finding.checks:
            if one.control == control:
                mark = Text("holds", "green") if one.holds else Text("fails", "bold red")
                table.add_row(Text(one.says), *_cells(one), mark)
        yield table
    holds = bundle.finding.holds
    yield Text(f"The claim {'holds' if holds else 'does not hold'}.", style="bold")


def _cells(one: Check) -> list[Text]:
    ends = NONE
    if one.ci_low is not None and one.ci_high is not None:
        ends = f"{number(one.ci_low)} to {number(one.ci_high)}"
    bounds = {">": one.above, "<": one.below}
    wanted = ", ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
    value = f"{number(one.value)} {one.unit}".strip()
    return [Text(text) for text in (value, ends, str(one.n or NONE), wanted)]
