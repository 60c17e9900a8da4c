"""The list of commands, and what was typed: both without what would make them slow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from test_imports import loaded_by

from circuits.cli import app
from circuits.cli.contents import questions
from circuits.cli.values import lightly

GROUP: Any = typer.main.get_command(app)


def test_the_list_says_what_the_commands_say() -> None:
    said = {name: command.help.split("\n\n")[0] for name, command in GROUP.commands.items()}
    assert {name: " ".join(text.split()) for name, text in said.items()} == questions()


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["frobnicate"]])
def test_the_list_builds_no_command(words: list[str]) -> None:
    code = (
        f"import contextlib, sys; sys.argv = {['circuits', *words]!r}\n"
        "from circuits.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stderr(sys.stdout): main()\n"
        "assert not {'circuits.registry', 'circuits.cli.building'} & set(sys.modules)"
    )
    assert "pydantic" not in loaded_by(code)


def reading(annotation: Any) -> tuple[Any, Any]:
    """What reads an option's text: quickly, and as typer does by itself."""
    alone = typer.Typer(add_completion=False)

    def command(value: Any = None) -> None:
        pass

    command.__annotations__["value"] = annotation
    alone.command()(command)
    light, usual = (typer.main.get_command(alone).params[0] for _ in range(2))
    return lightly([light])[0], usual


def said(param: Any, value: Any) -> Any:
    try:
        read = param.get_runtime_param().coerce(value, param, None)
    except typer.BadParameter as error:
        return str(error)
    return type(read), read


TEXTS = "5 -5 05 +5 5.0 1e3 .5 5. nan ٣ 5_0 999999999999999999999 x true off".split()


LISTS: list[Any] = [("a", "5"), ["a", "5"], ["a", 5], ()]


@pytest.mark.parametrize("annotation", [bool, int, float, str, Path, list[str], int | None])
@pytest.mark.parametrize("value", [*TEXTS, "", " 5", *LISTS, None, 3, 0.5, True])
def test_values_are_those_of_typer(annotation: Any, value: Any) -> None:
    light, usual = reading(annotation)
    if isinstance(value, list | tuple) == (annotation == list[str]) or value is None:
        assert repr(said(light, value)) == repr(said(usual, value))


@pytest.mark.parametrize("value", ["2", "7", 2, 7])
def test_a_range_is_kept(value: Any) -> None:
    light, usual = reading(Annotated[int, typer.Option(max=5)])
    assert said(light, value) == said(usual, value)


def test_parsers_are_asked_and_their_errors_are_said() -> None:
    def even(text: str) -> int:
        if int(text) % 2:
            raise typer.BadParameter(f"{text} is odd")
        return int(text)

    light, usual = reading(Annotated[str, typer.Option(parser=even)])
    assert said(light, "4") == (int, 4)
    assert said(light, "3") == said(usual, "3")
    assert "3 is odd" in said(light, "3")
