"""The commands that are no analyses: generate, models, pull, info."""

from __future__ import annotations

import json as json_
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from circuits.cli.contents import GENERATE
from circuits.cli.options import MODEL_OPTIONS, OUTPUT_OPTIONS, Revision
from circuits.cli.terminal import collect_garbage, out, remark, remarks, require_text, visible
from circuits.config import GPT2_SIZES, MODEL_VARIABLE
from circuits.errors import CircuitsError
from circuits.registry import Recipe, read

if TYPE_CHECKING:
    from circuits.generation import Step
    from circuits.model import HookedModel
    from circuits.tokenizer import Tokenizer

GENERATE_HELPS = {
    "max_new_tokens": "How many tokens to write at most.",
    "temperature": "Below 1 more cautious, above 1 more daring; 0 takes the likeliest token.",
    "top_k": "Draw only from this many of the likeliest tokens.",
    "top_p": "Draw only from the fewest tokens that hold this share of the probability.",
    "stop": "End once this text is written; repeat it for several.",
    "seed": "The same seed writes the same text. Without it, every call differs.",
    "prepend_bos": "Whether a start token comes first. Without it, the model's own habit.",
}
PromptArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="The text to continue (after -- if it begins with a dash), or several.",
        show_default=False,
    ),
]
PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="Continue all prompts of a file: .txt, one a line; .csv, .tsv, .jsonl or .parquet "
        "with prompt; - for standard input.",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A bundled or cached model, a hub id, a folder, or a nanoGPT ckpt.pt. Without it, "
        f"{MODEL_VARIABLE}'s or the bundled default.",
        show_default=False,
    ),
]
NameArgument = Annotated[
    str | None,
    typer.Argument(
        help=f"{', '.join(GPT2_SIZES)} or owner/name. Without it, {MODEL_VARIABLE}'s.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="The same, said as for other commands.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
GENERATE_OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "prompt": (PromptArgument, None),
    "file": (PromptsFile, None),
    **MODEL_OPTIONS,
    "json": OUTPUT_OPTIONS["json"],
    "quiet": OUTPUT_OPTIONS["quiet"],
}


def generation() -> Recipe:
    """What can be asked of generation: the library's options and defaults, in few words."""
    recipe = read("circuits.generation", "stream")
    asked = [p for p in recipe.signature.parameters.values() if p.name in GENERATE_HELPS]
    return replace(
        recipe,
        function="generate",
        signature=recipe.signature.replace(parameters=asked),
        question=GENERATE,
        about="The text is written to standard output as it is drawn, token by token; the texts "
        "of several prompts, which are computed together, when all are there. It ends with the "
        "model's end token, if there is one.",
        helps=GENERATE_HELPS,
        examples=(
            'circuits generate "Once upon a time" -n 40',
            'circuits generate "Once upon a time" -n 40 --temperature 0.8 --top-k 40 --top-p 0.95 '
            '--seed 1 --stop "."',
            'circuits generate "The king" --temperature 0 --json',
            "circuits generate --file instructions.jsonl --model tuned --temperature 0",
        ),
    )


def generate(model: HookedModel, asked: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    """Write the prompts and what follows, or as JSON all that is known about them."""
    from circuits.checkpoints import checksum
    from circuits.generation import packed_steps, stream

    collect_garbage()
    prompts = _prompts(model, common["prompt"], common["file"])
    given = {name: value for name, value in asked.items() if value is not None}
    ends = model.require_tokenizer().eos_ids
    stops = [*given.pop("stop", ()), *ends]
    steps = stream(model, prompts, stop=stops, **given)
    steps = packed_steps(model, steps, asked["max_new_tokens"])
    if not common["json"]:
        if not common["quiet"]:
            remark(f"model {model.cfg.model_name}, weights {checksum(model)[:12]}")
        _write(prompts, steps, ends)
        return
    written = list(steps)
    about = {"model": model.cfg.model_name, "checksum": checksum(model)}
    tokenizer, options = model.require_tokenizer(), {"options": dict(asked)}
    content = [
        about | _written(tokenizer, prompt, written, row, ends) | options
        for row, prompt in enumerate(prompts)
    ]
    alone = content[0] if len(content) == 1 and common["file"] is None else content
    sys.stdout.write(json_.dumps(alone, ensure_ascii=False, indent=1) + "\n")


def _prompts(model: HookedModel, given: Sequence[str] | None, file: Path | None) -> list[str]:
    """The prompts that were typed, or those of a file."""
    if bool(given) == (file is not None):
        raise CircuitsError("give a text to continue, several, or a file of them (--file)")
    if file is None:
        return list(given or ())
    from circuits.prompts import PromptFile

    prompts = [str(row.clean) for row in PromptFile(model, file).rows()]
    if not prompts:
        raise CircuitsError(f"{file} has no prompts; write at least one")
    return prompts


def _write(prompts: Sequence[str], steps: Iterable[Step], ends: tuple[int, ...]) -> None:
    """One text as it is drawn; several when all are there."""
    if len(prompts) == 1:
        sys.stdout.write(prompts[0])
        for text in _texts(steps, ends):
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    written = list(steps)
    for row, prompt in enumerate(prompts):
        sys.stdout.write(f"{prompt}{''.join(_texts(written, ends, row))}\n")


def _written(
    tokenizer: Tokenizer, prompt: str, steps: Sequence[Step], row: int, ends: tuple[int, ...]
) -> dict[str, Any]:
    """What was drawn for one of the prompts."""
    drawn = [(int(step.tokens[row]), float(step.logprobs[row])) for step in steps]
    drawn = [(token, logprob) for token, logprob in drawn if token >= 0]  # until it ended
    tokens = [token for token, _ in drawn]
    return {
        "prompt": prompt,
        "text": prompt + "".join(_texts(steps, ends, row)),
        "tokens": tokens,
        "token_strings": tokenizer.token_strings(tokens),
        "logprobs": [float(f"{logprob:.6g}") for _, logprob in drawn],
    }


def _texts(steps: Iterable[Step], ends: tuple[int, ...], row: int = 0) -> Iterator[str]:
    """The new text of a prompt, without the token that ends a text."""
    for step in steps:
        if int(step.tokens[row]) not in ends:
            yield step.text[row]


def models(json: JsonFlag = False) -> None:
    """Which models can be used here without a network?

    The bundled ones, and the GPT-2s in the Hugging Face cache.
    """
    from circuits.checkpoints import available, model_name

    models_here = available()
    if json:
        rows = [
            {
                "name": model.name,
                "kind": model.kind,
                "revision": model.revision,
                "bytes": model.n_bytes,
                "folder": None if model.folder is None else str(model.folder),
            }
            for model in models_here
        ]
        sys.stdout.write(json_.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column("where")
    table.add_column("size", justify="right")
    table.add_column("revision")
    default = model_name()
    for model in models_here:
        name = Text(model.name, style="bold" if model.name == default else "")
        size = f"{model.n_bytes / 1e6:.1f} MB" if model.n_bytes else ""
        table.add_row(name, model.kind, size, (model.revision or "")[:12])
    out().print(table)
    remark(f"default: {default} (--model or {MODEL_VARIABLE} chooses another)")


def pull(
    name: NameArgument = None,
    model: ModelOption = None,
    revision: Revision = None,
    json: JsonFlag = False,
) -> None:
    """Download a GPT-2 from the Hugging Face hub, for use without a network later."""
    from circuits import checkpoints

    wanted = _only(name, model)
    wanted = os.environ.get(MODEL_VARIABLE) or None if wanted is None else wanted
    if wanted is None:
        raise CircuitsError("no model was named; give gpt2 or another of the hub, as owner/name")
    require_text([wanted, revision])
    folder = checkpoints.pull(wanted, revision)
    if json:
        about = {"name": wanted, "folder": str(folder)}
        sys.stdout.write(json_.dumps(about, ensure_ascii=False, indent=1) + "\n")
        return
    out().print(Text(f"{wanted} is in {folder}"), soft_wrap=True)


def _only(name: str | None, option: str | None) -> str | None:
    """The model that was named, as an argument or as --model."""
    if None not in (name, option) and name != option:
        raise CircuitsError(f"{name!r} and --model {option!r} are two models; give one of them")
    return option if name is None else name


def info(
    name: ModelArgument = None,
    model: ModelOption = None,
    revision: Revision = None,
    json: JsonFlag = False,
) -> None:
    """What is this model? Its shape, number of parameters, vocabulary, checksum and origin."""
    from circuits.checkpoints import describe, load

    wanted = _only(name, model)
    require_text([wanted, revision])
    with remarks(quiet=False):
        facts = describe(load(wanted, revision=revision)).to_dict()
    if json:
        sys.stdout.write(json_.dumps(facts, ensure_ascii=False, indent=1) + "\n")
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
        table.add_row(name, Text(visible_line(shown)))
    out().print(table)


def visible_line(text: str) -> str:
    """A text on one line, its spaces as they are."""
    return visible(text).replace("·", " ")
