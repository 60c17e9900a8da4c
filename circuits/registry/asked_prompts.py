"""The prompts that an analysis asks, given its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuits.errors import CircuitsError
from circuits.files import named_path
from circuits.inputs import ModelInput
from circuits.metrics import Metric
from circuits.model import HookedModel
from circuits.prompts import USUAL, Mark, PromptFile, Prompts, make, suitable_tasks
from circuits.prompts.user import Row, from_rows, listed
from circuits.registry import MeasureOptions, PairOptions, PromptOptions


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that are averaged over, in blocks; a file's are read when it is their turn.

    `share` is how much of it all the `first` block is: 1 if there is no other.
    """

    first: Prompts
    blocks: PromptFile | Sequence[Prompts]
    share: float = 1.0


def asked_prompts(model: HookedModel, options: PromptOptions) -> list[Batch]:
    """The prompts that these options ask for.

    Without task, prompt and file they are those of the usual tasks that suit the model.

    Raises:
        CircuitsError: when they contradict each other, or nothing suits.
    """
    given = {"task": options.task, "prompt": options.prompt, "file": options.file}
    sources = [name for name, value in given.items() if value is not None]
    if len(sources) > 1:
        raise CircuitsError(f"{' and '.join(sources)} name different prompts; give one of them")
    _refuse_unused(options, sources)
    if options.file is not None:
        return [_of_file(model, named_path(options.file), classes=_are_classes(options))]
    return [Batch(prompts, [prompts]) for prompts in _at_once(model, options)]


def _at_once(model: HookedModel, options: PromptOptions) -> list[Prompts]:
    """The prompts of a task, of all usual ones, or of one's own, which are not read in blocks."""
    if options.prompt is not None:
        return [_as_given(model, options.prompt, options)]
    if isinstance(options.task, Prompts):
        return [options.task]
    names = suitable_tasks(model, USUAL) if options.task is None else [options.task]
    if not names:
        raise CircuitsError(
            f"no task suits {model.cfg.model_name}, for its vocabulary or context; give a prompt "
            "or a file of your own"
        )
    return [make(name, model, options.n, options.seed) for name in names]


def _as_given(model: HookedModel, prompt: ModelInput, options: PromptOptions) -> Prompts:
    """The prompts that were given as text or token ids, each with its twin if there are any."""
    texts, corrupted = listed(model, prompt), _corrupted(options)
    twins = () if corrupted is None else listed(model, corrupted)
    if twins and len(twins) != len(texts):
        raise CircuitsError(
            f"{len(texts)} prompts and {len(twins)} corrupted twins were given; give each prompt "
            "its own, in the same order"
        )
    rows = [
        Row(
            f"prompt {i}" if len(texts) > 1 else "the prompt",
            text,
            twins[i] if twins else None,
            options.answer,
            options.distractor,
        )
        for i, text in enumerate(texts)
    ]
    return from_rows(model, rows, "prompt", classes=_are_classes(options))


def _corrupted(options: PromptOptions) -> ModelInput | None:
    """The twins of prompts; only analyses of pairs of prompts have them."""
    return options.corrupted if isinstance(options, PairOptions) else None


def _are_classes(options: PromptOptions) -> bool:
    """Whether answers name classes of a readout, and no tokens."""
    metric = options.metric if isinstance(options, MeasureOptions) else None
    return isinstance(metric, Metric) and metric.readout is not None


def _of_file(model: HookedModel, path: Path, *, classes: bool) -> Batch:
    file = PromptFile(model, path, classes=classes)
    first, mark = next(file.after(Mark()))
    file.say(first)
    return Batch(first, file, min(1.0, mark.offset / file.size))


def _refuse_unused(options: PromptOptions, sources: list[str]) -> None:
    """What would be ignored without a word is an error."""
    about_a_prompt = {
        "answer": options.answer,
        "distractor": options.distractor,
        "corrupted": _corrupted(options),
    }
    for name, value in about_a_prompt.items():
        if value is not None and sources != ["prompt"]:
            raise CircuitsError(
                f"{name} belongs to a prompt of your own; give the prompt, too (a file has "
                "answers, distractors and corrupted twins of its own)"
            )
    drawn = not sources or (sources == ["task"] and isinstance(options.task, str))
    if options.n is not None and not drawn:
        raise CircuitsError(
            f"n={options.n}: only a task's prompts are drawn; leave n out, all prompts given are "
            "asked"
        )
