"""From a library function's signature to the options of a command: each default stands once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from circuits.catalog import joined
from circuits.config import MODEL_VARIABLE
from circuits.errors import CircuitsError, nearest
from circuits.files import FIGURE_FORMATS, named_path
from circuits.registry import Recipe, flag, members

MODEL_PANEL, OUTPUT_PANEL = "Model", "Output"


def place(text: str | Path) -> Path:
    """The file or folder that was typed, for typer.

    Raises:
        typer.BadParameter: for an empty text.
    """
    try:
        return named_path(text)
    except CircuitsError as error:
        raise typer.BadParameter(str(error)) from None


Model = Annotated[
    str | None,
    typer.Option(
        help="A bundled or cached model, a hub id, a folder, or a file that torch saved. Without "
        "it, the bundled default.",
        envvar=MODEL_VARIABLE,
        rich_help_panel=MODEL_PANEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit of a model on the hub, such as checkpoint-1000.",
        rich_help_panel=MODEL_PANEL,
    ),
]
AdapterFolder = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="What fine-tune (or the library peft) learned of the model by LoRA or adapters.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Where to compute: cpu, cuda, cuda:1.", rich_help_panel=MODEL_PANEL),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Precision: float32, float64, bfloat16 or float16.", rich_help_panel=MODEL_PANEL
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, nothing else.", rich_help_panel=OUTPUT_PANEL),
]
Csv = Annotated[
    bool, typer.Option("--csv", help="Print CSV, nothing else.", rich_help_panel=OUTPUT_PANEL)
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        parser=place,
        help="Save the result in this folder, which circuits.Result.load reads back; a circuit "
        "also alone, in a file that ends in .json.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
FigureFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=place,
        help=f"Draw the result: {joined(FIGURE_FORMATS)}.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=place,
        help="Write the result as a page to look through: .html, opens anywhere.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, no remarks.", rich_help_panel=OUTPUT_PANEL),
]

MODEL_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": (Model, None),
    "revision": (Revision, None),
    "adapter": (AdapterFolder, None),
    "device": (Device, None),
    "dtype": (Dtype, None),
}
# Of a question that is not about a model: none is loaded unless it is named here.
NO_MODEL_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": (
        Annotated[
            str | None,
            typer.Option(
                help="A model that all that is given should fit. Without it, none is loaded.",
                rich_help_panel=MODEL_PANEL,
            ),
        ],
        None,
    ),
    "revision": (Revision, None),
}
OUTPUT_OPTIONS: dict[str, tuple[Any, Any]] = {
    "json": (Json, False),
    "csv": (Csv, False),
    "save": (Save, None),
    "figure": (FigureFile, None),
    "html": (HtmlFile, None),
    "quiet": (Quiet, False),
}


def as_command(
    recipe: Recipe,
    run: Callable[[Recipe, dict[str, Any], dict[str, Any]], None],
    common: Mapping[str, tuple[Any, Any]],
) -> Callable[..., None]:
    """The function that typer makes the command of this recipe from.

    It has the recipe's parameters and the `common` ones (name: annotation, default), and calls
    `run` with the recipe, the former and the latter.
    """
    parameters = [_parameter(recipe, p) for p in recipe.signature.parameters.values()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters += [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in common.items()
    ]

    def command(**given: Any) -> None:
        asked = {name: _plain(given[name]) for name in recipe.signature.parameters}
        run(recipe, asked, {name: given[name] for name in common})

    command.__name__ = recipe.function
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameter(recipe: Recipe, parameter: inspect.Parameter) -> inspect.Parameter:
    """The same parameter with a type that typer knows, and its help."""
    name, help_ = parameter.name, recipe.helps.get(parameter.name, "")
    words, extra = _words(parameter.annotation)
    if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        info = typer.Argument(help=help_, **extra)
    else:
        is_switch = words is bool and parameter.default is False
        # typer itself adds --no-... to a switch that is not off by default.
        flags = [flag(name)] if is_switch or words not in (bool, bool | None) else []
        flags = ["-n", *flags] if name == "max_new_tokens" else flags
        info = typer.Option(*flags, help=help_, show_default=not is_switch, **extra)
    return parameter.replace(annotation=Annotated[words, info], kind=inspect.Parameter.KEYWORD_ONLY)


def _words(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """What typer reads for this type, and how."""
    kinds = members(annotation)
    optional = type(None) in kinds
    kinds = [kind for kind in kinds if kind is not type(None)]
    if any(get_origin(kind) not in (None, Literal) for kind in kinds):
        return (list[str] | None if optional else list[str]), {"metavar": "TEXT"}
    if set(kinds) == {str, Path}:
        kinds = [str]
    if len(kinds) == 1 and get_origin(kinds[0]) is None:
        return (kinds[0] | None if optional else kinds[0]), {}
    choices = [_in_words(kind) for kind in kinds]
    parser = _parser_of(kinds)
    return (str | None if optional else str), {"parser": parser, "metavar": "|".join(choices)}


def _in_words(member: Any) -> str:
    if get_origin(member) is Literal:
        return "|".join(map(str, get_args(member)))
    return str(member.__name__).upper()


def _parser_of(kinds: Sequence[Any]) -> Callable[[str], Any]:
    words = [w for kind in kinds if get_origin(kind) is Literal for w in get_args(kind)]
    numbers = [kind for kind in kinds if kind in (int, float)]

    def parse(text: str) -> Any:
        if text in words:
            return text
        for number in numbers:
            try:
                return number(text)
            except ValueError:
                continue
        if str in kinds:
            return text
        allowed = [*words, *("a whole number" if n is int else "a number" for n in numbers)]
        raise typer.BadParameter(
            f"{text!r} is not one of: {', '.join(allowed)}{nearest(text, words)}"
        )

    return parse


def _plain(value: Any) -> Any:
    """The value; None for an empty list, which is how typer says that nothing was given."""
    return value or None if isinstance(value, list | tuple) else value
