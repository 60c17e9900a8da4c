"""From recipes to commands, and what a command does: load the model, ask, print the answer.

Building a command reads signature and docstring, but imports neither the analysis nor torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.markup import escape
from typer.core import TyperCommand

from circuits.cli import commands
from circuits.cli.contents import FILES, Command
from circuits.cli.options import (
    MODEL_OPTIONS,
    NO_MODEL_OPTIONS,
    OUTPUT_OPTIONS,
    as_command,
)
from circuits.cli.terminal import (
    bar,
    collect_garbage,
    out,
    remark,
    remarks,
    require_text,
    with_exit_codes,
)
from circuits.errors import CircuitsError
from circuits.files import require_writable
from circuits.registry import Recipe, find

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.result import Result


def _load(given: dict[str, Any]) -> HookedModel:
    from circuits.checkpoints import load

    require_text([given["model"], given["revision"], given.get("adapter")])
    options = {name: given.get(name) for name in ("revision", "adapter", "device", "dtype")}
    return load(given["model"], **options)


def _run_analysis(recipe: Recipe, asked: dict[str, Any], common: dict[str, Any]) -> None:
    if common["json"] and common["csv"]:
        raise CircuitsError("--json and --csv both want the output; give one of them")
    for value in asked.values():
        require_text(value)
    function = recipe.load()
    collect_garbage()
    if common["figure"] is not None:
        from circuits.figures import figure_format

        figure_format(common["figure"])  # before hours of computation, not after
    if common["html"] is not None:
        from circuits.pages import require_page

        require_page(common["html"])
    for name in ("figure", "html", "save"):
        if common[name] is not None:
            is_folder = name == "save" and Path(common[name]).suffix != ".json"
            require_writable(Path(common[name]), folder=is_folder)
    quiet = common["quiet"]
    with remarks(quiet=quiet), bar(recipe.name, quiet=quiet) as progress:
        chosen = recipe.default_model if common["model"] is None else common["model"]
        if recipe.asks_model or chosen is not None:
            asked = asked | {"model": _load(common | {"model": chosen})}
        elif common["revision"] is not None:
            raise CircuitsError("--revision is of a model; give --model, too")
        if recipe.reports_progress:
            asked = asked | {"progress": progress}
        result = function(**asked)
    _deliver(result, common, asked.get("model"))


def _deliver(result: Result, common: dict[str, Any], model: HookedModel | None) -> None:
    """Print first: what was computed must not be lost when a file cannot be written."""
    from circuits.cli.views import show

    if common["json"]:
        sys.stdout.write(result.to_json())
    elif common["csv"]:
        sys.stdout.write(result.to_csv())
    else:
        show(result, out())
    written = []
    if common["save"] is not None:
        written.append(result.save(common["save"]))
    if common["figure"] is not None:
        from circuits.figures import save_figure

        written.append(save_figure(result.plot(), common["figure"]))
    if common["html"] is not None:
        from circuits.pages import page, save_page

        written.append(save_page(page(result, model=model), common["html"]))
    if not common["quiet"]:
        for path in written:
            remark(f"wrote {path}")


def _run_generate(recipe: Recipe, asked: dict[str, Any], common: dict[str, Any]) -> None:
    require_text(common["prompt"])
    with remarks(quiet=common["quiet"]):
        commands.generate(_load(common), asked, common)


def build(name: str) -> TyperCommand:
    """The command of this name."""
    if name in FILES:
        module = import_module(f"circuits.cli.{FILES[name]}")
        return _command(name, getattr(module, name))
    if name == "generate":
        recipe = commands.generation()
        function = as_command(recipe, _run_generate, commands.GENERATE_OPTIONS)
    else:
        recipe = find(name)
        options = MODEL_OPTIONS if recipe.asks_model else NO_MODEL_OPTIONS
        function = as_command(recipe, _run_analysis, options | OUTPUT_OPTIONS)
    examples = "\n\n".join(f"$ {escape(line)}" for line in recipe.examples)
    paragraphs = [recipe.question, *recipe.about.split("\n\n")]
    about = "\n\n".join(escape(" ".join(text.split())) for text in paragraphs if text)
    return _command(name, function, about, f"Examples:\n\n{examples}" if examples else None)


def _command(
    name: str, function: Callable[..., None], about: str | None = None, epilog: str | None = None
) -> TyperCommand:
    """This function as typer's command, by itself."""
    alone = typer.Typer(
        add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    alone.command(name, cls=Command, help=about, epilog=epilog)(with_exit_codes(function))
    return cast(TyperCommand, typer.main.get_command(alone))
