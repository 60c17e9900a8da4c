"""The command that runs experiments: circuits run.

Each script of experiments/ is that command, too, for itself.
"""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.options import place
from circuits.cli.terminal import collect_garbage, err, remark, remarks, require_text
from circuits.cli.terminal import out as standard_output
from circuits.errors import CircuitsError

Name = Annotated[
    str | None, typer.Argument(help="Which one; --list shows them.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option(help="As elsewhere; without it, the model that the claim is about."),
]
Seed = Annotated[int, typer.Option(help="The same seed finds the same.")]
Quick = Annotated[bool, typer.Option("--quick", help="Ask less, for a first look.")]
Out = Annotated[
    Path, typer.Option(metavar="DIR", parser=place, help="Where the folder NAME is written.")
]
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
    from circuits.cli.verdicts import claims, verdict
    from circuits.experiment import MANIFEST, conduct, experiments

    if list_:
        standard_output().print(claims(experiments()))
        return
    if name is None:
        raise CircuitsError("no experiment was named; --list shows which there are")
    require_text([name, model, str(out)])
    with remarks(quiet=False), err().status(f"{name}: running"):
        collect_garbage()
        bundle = conduct(name, model=model, seed=seed, quick=quick, out=out)
    if json:
        content = json_.loads((out / name / MANIFEST).read_text(encoding="utf-8"))
        sys.stdout.write(json_.dumps(content, ensure_ascii=False, indent=1) + "\n")
        return
    for part in verdict(bundle):
        standard_output().print(part)
    remark(f"wrote {out / name}")


def as_command(file: str) -> None:
    """Run this script of experiments/ as ``circuits run`` does, with the same options."""
    from circuits.cli import main

    sys.argv[1:1] = ["run", Path(file).stem]
    main()
