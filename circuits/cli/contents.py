"""The commands: their list is read from texts, and a command is built once it is asked for."""

from __future__ import annotations

from copy import copy
from typing import Any

from typer.core import TyperCommand, TyperGroup

from circuits.catalog import PACKAGE, Lazy, analysis_names, first_paragraph
from circuits.cli.values import lightly

GENERATE = "How does the text go on?"
# The commands that are functions of this folder: each one's file.
FILES = {
    "explore": "explore",
    "run": "experiments",
    "models": "commands",
    "pull": "commands",
    "info": "commands",
}


def questions() -> dict[str, str]:
    """Every command and the first that its help says, in the order of their list."""
    listed = {
        name.replace("_", "-"): first_paragraph(PACKAGE / "analyses" / f"{name}.py", name)
        for name in analysis_names()
    }
    here = PACKAGE / "cli"
    others = {name: first_paragraph(here / f"{file}.py", name) for name, file in FILES.items()}
    return listed | {"generate": GENERATE} | others


class Command(TyperCommand):
    """A command that converts plain values by itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options and arguments."""
        return lightly(super().get_params(ctx))


class Commands(TyperGroup):
    """The group of all commands, none of which is imported for the list of them."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        analyses = [name.replace("_", "-") for name in analysis_names()]
        self.commands = Lazy([*analyses, "generate", *FILES], _built)  # type: ignore[assignment]

    def get_params(self, ctx: Any) -> list[Any]:
        """The options that stand before a command."""
        return lightly(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(self.commands)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help that lists the commands with their questions."""
        from rich.markup import escape

        listed = copy(self)
        listed.commands = {
            name: TyperCommand(name, help=escape(text)) for name, text in questions().items()
        }
        super(Commands, listed).format_help(ctx, formatter)


def _built(name: str) -> TyperCommand:
    from circuits.cli.building import build

    return build(name)
