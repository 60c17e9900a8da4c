"""Which prompts does an analysis ask, given its arguments?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.prompts import USUAL, Mark, PromptFile, Prompts, make, suitable_tasks
from circuits.prompts.user import Row, from_rows, listed


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that are averaged over, in blocks; a file's are read when it is their turn.

    `share` is how much of it all the `first` block is: 1 if there is no other.
    """

    first: Prompts
    blocks: PromptFile | Sequence[Prompts]
    share: float = 1.0
    file: Path | None = None


def chosen(model: HookedGPT2, given: Mapping[str, Any]) -> list[Batch]:
    """What `task`, `prompt`, `file`, `answer`, `distractor`, `n`, `seed` ask for.

    An analysis of pairs of prompts also has `corrupted`. Without task, prompt and file these are
    the usual tasks that suit the model.

    Raises:
        CircuitsError: when they contradict each other, or nothing suits.
    """
    sources = [name for name in ("task", "prompt", "file") if given[name] is not None]
    if len(sources) > 1:
        raise CircuitsError(f"{' and '.join(sources)} name different prompts; give one of them")
    _refuse_unused(given, sources)
    if given["file"] is not None:
        return [_of_file(model, Path(given["file"]))]
    return [Batch(prompts, [prompts]) for prompts in _whole(model, given)]


def _whole(model: HookedGPT2, given: Mapping[str, Any]) -> list[Prompts]:
    if given["prompt"] is not None:
        return [_own(model, given)]
    if isinstance(given["task"], Prompts):
        return [given["task"]]
    names = suitable_tasks(model, USUAL) if given["task"] is None else [given["task"]]
    if not names:
        raise CircuitsError(
            f"no task suits {model.cfg.model_name}, for its vocabulary or context; give a prompt "
            "or a file of your own"
        )
    return [make(name, model, given["n"], given["seed"]) for name in names]


def _own(model: HookedGPT2, given: Mapping[str, Any]) -> Prompts:
    """The prompts that were given as text or token ids, each with its twin if there are any."""
    texts = listed(model, given["prompt"])
    twins = () if given.get("corrupted") is None else listed(model, given["corrupted"])
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
            given["answer"],
            given["distractor"],
        )
        for i, text in enumerate(texts)
    ]
    return from_rows(model, rows, "prompt")


def _of_file(model: HookedGPT2, path: Path) -> Batch:
    file = PromptFile(model, path)
    first, mark = next(file.after(Mark()))
    return Batch(first, file, min(1.0, mark.offset / file.n_bytes), path)


def _refuse_unused(given: Mapping[str, Any], sources: list[str]) -> None:
    """What would be ignored without a word is an error."""
    if sources != ["prompt"]:
        for name in ("answer", "distractor", "corrupted"):
            if given.get(name) is not None:
                raise CircuitsError(
                    f"{name} belongs to a prompt of your own; give the prompt, too (a file has "
                    "answers, distractors and corrupted twins of its own)"
                )
    drawn = not sources or (sources == ["task"] and isinstance(given["task"], str))
    if given["n"] is not None and not drawn:
        raise CircuitsError(
            f"n={given['n']}: only a task's prompts are drawn; leave n out, all prompts given are "
            "asked"
        )
