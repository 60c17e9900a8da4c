"""The command line: every analysis of the registry is a command, with the library's own options.

Building it reads signatures and docstrings, but imports neither the analyses nor torch: help comes
at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits import __version__
from circuits.cli import commands, experiments
from circuits.cli.explore import explore
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
from circuits.registry import Recipe, analyses

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.result import Result

app = typer.Typer(
    name="circuits",
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


def _add(recipe: Recipe, function: Callable[..., None]) -> None:
    examples = "\n\n".join(f"$ {escape(line)}" for line in recipe.examples)
    paragraphs = [recipe.question, *recipe.about.split("\n\n")]
    app.command(
        recipe.name,
        help="\n\n".join(escape(" ".join(text.split())) for text in paragraphs if text),
        epilog=f"Examples:\n\n{examples}" if examples else None,
    )(with_exit_codes(function))


for _recipe in analyses().values():
    _options = MODEL_OPTIONS if _recipe.asks_model else NO_MODEL_OPTIONS
    _add(_recipe, as_command(_recipe, _run_analysis, _options | OUTPUT_OPTIONS))
_recipe = commands.generation()
_add(_recipe, as_command(_recipe, _run_generate, commands.GENERATE_OPTIONS))
for _command in (explore, experiments.run, commands.models, commands.pull, commands.info):
    app.command()(with_exit_codes(_command))
