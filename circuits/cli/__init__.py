"""The command line: every analysis of the registry is a command, with the library's own options.

Nothing is imported before it is needed. The list of commands is read from their files' texts; a
command's help from its signature and docstring, without the analysis and torch.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from circuits import __version__
from circuits.cli.contents import Commands

app = typer.Typer(
    name="circuits",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"circuits {__version__}\n")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
]


@app.callback(epilog="circuits COMMAND --help shows options and examples.")
def _circuits(version: Version = False) -> None:
    """Find out which parts of a GPT-2 do what."""


def main() -> None:
    """Run the command that was typed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that lacks a character shows its code, and nothing breaks.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="circuits")
